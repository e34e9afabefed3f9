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
from pathlib import Path

from core.errors import InvalidArgument, NameTaken, NotFound
from core.model import Container, ContainerSpec, Image, PortMapping, State
from core.names import check_name, make_id, make_name
from core.ops import records
from core.ops.context import Context
from core.ops.kill import parse_signal
from core.ops.records import Config, Record, Saved
from core.store.journal import Journal
from core.store.lock import object_lock

MIN_MEMORY = 6 * 1024 * 1024  # bytes; below it a start fails in confusing ways (Docker has the same floor)


async def create(ctx: Context, spec: ContainerSpec) -> Container:
    """Make a container, ready to start.

    :raises NotFound: no such image (or network)
    :raises InvalidArgument: what and why
    :raises NameTaken: by which container
    """
    image = await ctx.images.get(spec.image)
    argv = command_line(spec, image)
    await validate(ctx, spec)
    if spec.publish_all:
        spec = replace(spec, ports=spec.ports + _exposed(spec, image))
    cid = make_id()
    layers = tuple(str(path) for path in ctx.images.layer_dirs(image))
    config = Config(argv, spec.hostname or cid[:12], layers, image.config)
    record = Record(cid, spec.name, image.id, time.time(), spec, config, Saved(State.CREATED))
    # The lock although nobody knows the id yet: a thorough recovery takes a folder without a row and a lock for lost.
    async with object_lock(ctx.inst, cid), Journal(ctx.inst, "create", cid, ctx.undos) as journal:
        journal.step("create.undo", cid)
        record = await _insert(ctx, record)
    ctx.tell("container", "create", cid, name=record.name, image=spec.image)
    return records.snapshot(ctx, record)


async def _insert(ctx: Context, record: Record) -> Record:
    """Make the folders and add the row, under the name asked for or one that is free."""
    # The row last: from there on the container exists, whole.
    first: Callable[[], None] | None = functools.partial(_make_folders, ctx, record.id, record)
    while True:
        named = record if record.name else replace(record, name=make_name())
        named = replace(named, spec=replace(named.spec, name=named.name))
        try:
            await records.insert(ctx, named, first)
            return named
        except sqlite3.IntegrityError:
            first = None  # they are there
            if not record.name:
                continue
            holder = await records.find(ctx, record.name)
            raise NameTaken(
                f"the name {record.name!r} is taken",
                f"container {holder.id[:12]} has it",
                "Remove or rename that one, or choose another name",
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
    taken = {(port.container_port, port.protocol) for port in spec.ports}
    found = []
    for text in image.config.exposed_ports:
        number, _, protocol = text.partition("/")
        if (int(number), protocol or "tcp") not in taken:
            found.append(PortMapping(int(number), 0, protocol or "tcp"))
    return tuple(found)


async def validate(ctx: Context, spec: ContainerSpec) -> None:
    """Refuse what could only fail later. :raises InvalidArgument: :raises NotFound: no such network"""
    if spec.name:
        check_name(spec.name)
    if spec.stop_signal:
        parse_signal(spec.stop_signal)
    if 0 < spec.resources.memory < MIN_MEMORY:
        raise InvalidArgument(
            f"memory limit of {spec.resources.memory} bytes", "the least is 6m", "Give --memory 6m or more"
        )
    for port in spec.ports:
        if not (0 < port.container_port < 65536 and 0 <= port.host_port < 65536):
            raise InvalidArgument(
                f"invalid port {port.host_port}:{port.container_port}", "ports go from 1 to 65535", ""
            )
        if port.protocol not in ("tcp", "udp"):
            raise InvalidArgument(f"invalid protocol {port.protocol!r}", "only tcp and udp can be published", "")
    if spec.ports and (spec.network in ("host", "none") or spec.network.startswith("container:")):
        raise InvalidArgument(
            f"ports cannot be published with --network {spec.network}",
            "there is no interface of its own to lead them to",
            "Leave out -p, or use a bridge network",
        )
    _check_mounts(spec)
    await _check_network(ctx, spec)


def _check_mounts(spec: ContainerSpec) -> None:
    seen: set[str] = set()
    for mount in spec.mounts:
        if not mount.target.startswith("/") or mount.target == "/":
            raise InvalidArgument(f"invalid mount target {mount.target!r}", "it must be absolute and not /", "")
        if mount.target in seen:
            raise InvalidArgument(f"duplicate mount target {mount.target!r}", "two mounts name it", "Drop one")
        seen.add(mount.target)
        if mount.kind == "bind" and not Path(mount.source).exists():
            raise InvalidArgument(
                f"cannot mount {mount.source}", "it does not exist on this host", f"mkdir -p {mount.source}"
            )
        if mount.kind == "volume":
            check_name(mount.source)


async def _check_network(ctx: Context, spec: ContainerSpec) -> None:
    mode, _, other = spec.network.partition(":")
    if mode == "container":
        await records.find(ctx, other)
    elif spec.network not in ("none", "host", "bridge"):
        known = [net.name for net in await ctx.net.describe()]
        if spec.network not in known:
            raise NotFound(f"no such network: {spec.network}", "there are " + ", ".join(known), "`wharf network ls`")


def _make_folders(ctx: Context, cid: str, record: Record) -> None:
    folder = ctx.inst.container_dir(cid)
    for name in ("", "upper", "work", "log"):
        (folder / name).mkdir(mode=0o700)
    if record.config.layers:
        # overlayfs shows the upper folder's owner and mode as those of `/`: they must be the image's.
        root = os.stat(record.config.layers[0])
        os.chown(folder / "upper", root.st_uid, root.st_gid)
        os.chmod(folder / "upper", stat.S_IMODE(root.st_mode))
        os.utime(folder / "upper", ns=(root.st_atime_ns, root.st_mtime_ns))
    for mount in record.spec.mounts:
        if mount.kind == "volume":
            (ctx.inst.root / "volumes" / mount.source / "_data").mkdir(mode=0o755, parents=True, exist_ok=True)


async def undo_create(ctx: Context, cid: str) -> None:
    """Take back a creation that did not reach its row."""
    known = await ctx.store.disk.run(lambda: ctx.store.disk.read("SELECT 1 FROM container WHERE id = ?", (cid,)))
    if not known:
        await asyncio.to_thread(shutil.rmtree, ctx.inst.container_dir(cid), ignore_errors=True)
