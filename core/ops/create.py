"""``create``: everything is validated first, then folders and one row are made; the kernel is not touched yet."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import replace

from core.errors import InvalidArgument, NameTaken
from core.images import platforms
from core.kernel import acl
from core.model import Container, ContainerSpec, Image, PortMapping, State
from core.names import make_id, make_name
from core.ops import idranges, joins, records, runtimes
from core.ops.context import Context
from core.ops.records import Config, Record, Saved
from core.ops.validate import MOST_PORTS, check_spec, check_surroundings, names_files
from core.options import parse_ports
from core.runtime import spaces
from core.store.journal import Journal
from core.store.lock import drop_lock_file, object_lock


async def create(ctx: Context, spec: ContainerSpec) -> Container:
    """Make a container, ready to start.

    :raises NotFound: no such image, network, or other container to share with
    :raises InvalidArgument: what and why
    :raises NameTaken: by which container
    """
    if (runtime := runtimes.choose(spec)) != spec.runtime:
        spec = replace(spec, runtime=runtime)
    spec = await joins.resolve(ctx, spec)
    image = await ctx.images.get(spec.image)
    if spec.platform:
        platforms.check(spec.platform, spec.image, image.os, image.architecture, image.variant)
    argv = command_line(spec, image)
    if spec.publish_all:
        spec = replace(spec, ports=spec.ports + _exposed(spec, image))
    if not spec.network:
        spec = replace(spec, network=ctx.net.default_for(spec.ports))
    if names_files(spec):
        await asyncio.to_thread(check_spec, spec, image.config, argv)
    else:
        check_spec(spec, image.config, argv)
    await check_surroundings(ctx, spec)
    cid = make_id()
    layers = tuple(str(path) for path in ctx.images.layer_dirs(image))
    config = Config(argv, await joins.hostname(ctx, spec, cid), layers, image.config)
    record = Record(cid, spec.name, image.id, time.time(), spec, config, Saved(State.CREATED))
    # The lock although nobody knows the id yet: a thorough recovery takes a folder without a row and a lock for lost.
    async with object_lock(ctx.inst, cid):
        try:
            async with Journal(ctx.inst, "create", cid, ctx.undos) as journal:
                journal.step("create.undo", cid)
                record = await _insert(ctx, record)
        except BaseException:
            drop_lock_file(ctx.inst, cid)  # with the object that it stood for
            raise
    ctx.tell("container", "create", cid, name=record.name, image=spec.image)
    return records.picture(ctx, record, record.saved, None)


async def _insert(ctx: Context, record: Record) -> Record:
    """Make the folders and add the row, under the name asked for or one that is free."""
    # The row last: from there on the container exists, whole.
    first: Callable[[], None] | None = functools.partial(_make_folders, ctx, record.id, record)
    free = await asyncio.to_thread(idranges.free_on_host) if spaces.ids(record.spec)[1] else ()
    while True:
        named = record
        if not record.name:
            name = make_name()
            named = replace(record, name=name, spec=replace(record.spec, name=name))
        try:
            return await records.insert(ctx, named, first, free)
        except sqlite3.IntegrityError:
            first = None  # they are there
            if not record.name:
                continue
            holder = await records.find(ctx, record.name)
            raise NameTaken(
                f"the name {record.name!r} is taken",
                f"container {holder.id[:12]} has it",
                "Remove that one, or choose another name",
            ) from None


def command_line(spec: ContainerSpec, image: Image) -> tuple[str, ...]:
    """Entrypoint and command as Docker combines them: an entrypoint given by the user drops the image's command.

    :raises InvalidArgument: neither names a command
    """
    if spec.entrypoint is None:
        entry = image.config.entrypoint
        command = image.config.cmd if spec.command is None else spec.command
    else:
        entry = tuple(part for part in spec.entrypoint if part)
        command = spec.command or ()
    if not entry + command:
        raise InvalidArgument("no command to run", "neither the image nor you named one", "Add one after the image")
    return entry + command


def _exposed(spec: ContainerSpec, image: Image) -> tuple[PortMapping, ...]:
    """A free host port for each port that the image exposes and the user has not published.

    :raises InvalidArgument: more than can be published
    """
    taken = {(port.container_port, port.protocol) for port in spec.ports}
    found: dict[PortMapping, None] = {}
    for text in image.config.exposed_ports:
        for port in parse_ports(text):
            if (port.container_port, port.protocol) not in taken:
                found[port] = None
        if len(found) > MOST_PORTS:
            raise InvalidArgument(
                "the image exposes too many ports", f"at most {MOST_PORTS} can be published", "Name them with -p"
            )
    return tuple(found)


def _make_folders(ctx: Context, cid: str, record: Record) -> None:
    folder = ctx.inst.container_dir(cid)
    for name in ("", "upper", "work", "log"):
        (folder / name).mkdir(mode=0o700)
    if record.config.layers:
        # overlayfs shows the upper folder's owner and mode as those of `/`: they must be the image's.
        root = os.stat(record.config.layers[0])
        acl.drop(folder / "upper")
        os.chown(folder / "upper", root.st_uid, root.st_gid)
        os.chmod(folder / "upper", stat.S_IMODE(root.st_mode))
        os.utime(folder / "upper", ns=(root.st_atime_ns, root.st_mtime_ns))


async def undo_create(ctx: Context, cid: str) -> None:
    """Take back a creation that did not reach its row."""
    known = await ctx.store.disk.run(lambda: ctx.store.disk.read("SELECT 1 FROM container WHERE id = ?", (cid,)))
    if not known:
        await asyncio.to_thread(shutil.rmtree, ctx.inst.container_dir(cid), ignore_errors=True)
