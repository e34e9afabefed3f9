"""Other containers that a container is tied to: whose namespaces it joins, and whose volumes it gets.

``create`` puts their ids in place of the names it was given, and refuses what can never work; ``start`` opens the
namespaces: from then on the monitor holds them, so that a restart finds them however the other container fares.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from core.errors import Conflict, InvalidArgument
from core.model import ContainerSpec, Mount
from core.ops import records
from core.ops.context import Context
from core.ops.records import Record
from core.runtime import spaces
from core.runtime.mounts import clean_path
from core.runtime.namespaces import FILES
from core.supervise import client


@dataclass(frozen=True)
class Joined:
    """Namespaces of other containers, by kind."""

    fds: dict[str, int] = field(default_factory=dict)
    network: int | None = None
    paths: dict[str, str] = field(default_factory=dict)  # for config.json; true while the other one runs
    shm: int | None = None  # the mount namespace of the one whose IPC namespace it is: /dev/shm is shared as well


async def resolve(ctx: Context, spec: ContainerSpec) -> ContainerSpec:
    """``spec`` with ids for the names of other containers, and with the mounts of ``volumes_from``.

    :raises NotFound: no such container
    :raises InvalidArgument: it does not share its IPC namespace; options that are none
    """
    spaces.check(spec)
    network, _, other = spec.network.partition(":")
    if network == "container":
        record = await records.find(ctx, other)
        _check_owner(spec, "network", record)
        spec = replace(spec, network=f"container:{record.id}")
    for kind in ("ipc", "pid", "uts"):
        word, other = spaces.mode(spec, kind)
        if word != "container":
            continue
        record = await records.find(ctx, other)
        if kind == "ipc" and record.spec.ipc != "shareable":
            raise InvalidArgument(
                f"cannot join the IPC namespace of {record.name}",
                f"it was created with --ipc {record.spec.ipc}",
                "Create that one with --ipc shareable",
            )
        _check_owner(spec, kind, record)
        spec = replace(spec, **{kind: f"container:{record.id}"})  # type: ignore[arg-type]
    for word in spec.volumes_from:
        spec = await _with_volumes(ctx, spec, word)
    return spec


def _check_owner(spec: ContainerSpec, kind: str, other: Record) -> None:
    """Namespaces belong to a user namespace, whose root alone has rights in them: ours must be the same as the other's.

    :raises InvalidArgument: it is another one
    """
    if spaces.ids(spec)[1] and not spaces.ids(spec)[0] == spaces.ids(other.spec)[0] == "remap":
        raise InvalidArgument(
            f"cannot join the {kind} namespace of {other.name} with --userns {spec.userns}",
            f"it belongs to another user namespace (--userns {other.spec.userns or 'host'})",
            "Create both with --userns remap, or both without",
        )


async def _with_volumes(ctx: Context, spec: ContainerSpec, word: str) -> ContainerSpec:
    """``NAME[:ro]``: the bind mounts and volumes of that container, where ``spec`` has no other one at the place."""
    name, _, access = word.partition(":")
    if access not in ("", "ro", "rw", "z", "Z"):
        raise InvalidArgument(f"invalid --volumes-from {word!r}", "it is not CONTAINER[:ro]", "Write it so")
    taken = {clean_path(mount.target) for mount in spec.mounts}
    more: list[Mount] = []
    for mount in (await records.find(ctx, name)).spec.mounts:
        if mount.kind != "tmpfs" and clean_path(mount.target) not in taken:
            more.append(replace(mount, read_only=mount.read_only or access == "ro"))
    return replace(spec, mounts=(*spec.mounts, *more))


async def hostname(ctx: Context, spec: ContainerSpec, cid: str) -> str:
    """The name that the container's machine has: its own, or that of whoever's UTS namespace it uses."""
    word, other = spaces.mode(spec, "uts")
    if word == "container":
        return (await records.find(ctx, other)).config.hostname
    if word == "host" or (spec.network == "host" and not spec.hostname):
        return os.uname().nodename  # as docker: with the host's network it answers to the host's name
    return spec.hostname or cid[:12]


async def open_joined(ctx: Context, spec: ContainerSpec, held: ExitStack) -> Joined:
    """Open what ``spec`` joins; ``held`` closes it.

    :raises Conflict: the other container does not run
    """
    joined, network, shm = Joined(), None, None
    for kind in ("network", "ipc", "pid", "uts"):
        word, other = spaces.mode(spec, kind)
        if word == "container":
            more = (*(("mount",) if kind == "ipc" else ()), *(("user",) if spaces.ids(spec)[1] else ()))
            run, fds = await open_namespaces(ctx, other, (kind, *more), held)
            shm, network = fds.pop("mount", shm), fds.pop("network", network)
            _check_same(joined.fds.get("user"), fds.get("user"))
            if kind in fds:
                joined.paths[kind] = f"/proc/{run.pid}/ns/{FILES.get(kind, kind)}"
            joined.fds.update(fds)
    return replace(joined, network=network, shm=shm)


def _check_same(first: int | None, second: int | None) -> None:
    """:raises Conflict: two containers that are joined have user namespaces of their own"""
    if first is not None and second is not None and not os.path.sameopenfile(first, second):
        raise Conflict(
            "cannot join namespaces of two containers",
            "each has a user namespace of its own, and the container can be in one only",
            "Have one of them join the other, or use --userns host for all",
        )


async def open_namespaces(
    ctx: Context, ref: str, kinds: tuple[str, ...], held: ExitStack
) -> tuple[client.RunState, dict[str, int]]:
    """Namespaces of another container, all of one moment. :raises Conflict: it does not run"""
    record: Record = await records.find(ctx, ref)
    saved, run = records.observe(ctx, record)
    if run is None or not saved.state.live:
        raise Conflict(
            f"cannot join the {kinds[0]} namespace of {record.name}", f"it is {saved.state.value}", "Start it first"
        )
    fds = {}
    ended = Conflict(f"cannot join the {kinds[0]} namespace of {record.name}", "it has just ended", "Start it first")
    for kind in kinds:
        try:
            fds[kind] = os.open(f"/proc/{run.pid}/ns/{FILES.get(kind, kind)}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ended from None
        held.callback(os.close, fds[kind])
    # After opening: a pid that was reused meanwhile would have given us a stranger's namespaces.
    if not client.alive(run):
        raise ended
    return run, fds
