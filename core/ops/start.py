"""``start``: the steps of one container start, from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from core import cgroups
from core.errors import Conflict, InvalidArgument, PortTaken
from core.kernel.process import boot_id
from core.model import Container, EndpointInfo, PortMapping, State
from core.net import Attachment, Published
from core.ops import bundle, joins, records
from core.ops.context import Context
from core.ops.records import Record, Saved
from core.ops.settle import release, settle
from core.ops.validate import names_files
from core.runtime import spaces
from core.runtime.defaults import Json
from core.store.journal import Journal, to_the_end
from core.store.lock import object_lock
from core.supervise import client

T = TypeVar("T")


@dataclass(frozen=True)
class Wiring:
    """What the network gives to one start."""

    netns: int | None  # descriptor; None: the host's namespace
    endpoints: tuple[EndpointInfo, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    reservations: tuple[socket.socket, ...] = ()  # hold the host ports against other processes


@dataclass(frozen=True)
class Resume:
    """Not from the beginning, but from a checkpoint.

    :param descriptors: the checkpoint's, for :func:`core.supervise.client.launch`
    :param address: that it had; another will do
    :param same_address: no other will do
    :param hold: see :func:`core.supervise.criu.hold_connections`
    """

    descriptors: Mapping[str, int]
    address: str = ""
    same_address: bool = False
    hold: bool = False


async def start(ctx: Context, ref: str, attach: socket.socket | None = None) -> Container:
    """Start a container; one that runs already stays as it is.

    :param attach: one end of a socket pair that gets the output from the first byte on
    :raises StartFailed: nothing of the attempt stays behind
    :raises PortTaken: by whom
    """
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, _ = await settle(ctx, cid)
        if record.saved.state.live or record.saved.state is State.RESTARTING:
            if attach is not None:
                raise Conflict(f"cannot start {record.name}", f"it is {record.saved.state.value}", "Attach to it")
            return records.snapshot(ctx, record)
        record = await bring_up(ctx, record, attach)
    # The monitor has told that it started; now the row says with which addresses and ports.
    for end in record.saved.endpoints:
        ctx.tell("network", "connect", cid, container=record.name, name=end.network)
    return records.snapshot(ctx, record)


async def bring_up(
    ctx: Context, record: Record, attach: socket.socket | None = None, resume: Resume | None = None
) -> Record:
    """From the network to the saved row; the container's lock is held, and it does not run."""
    cid = record.id
    async with Journal(ctx.inst, "start", cid, ctx.undos) as journal:
        # One undo for everything below: it ends the process, releases network, cgroup and run folder, and puts the row
        # back.
        journal.step("start.undo", cid, records.dump(record.saved))
        with ExitStack() as held:
            joined = await joins.open_joined(ctx, record.spec, held)
            config = await _configure(ctx, record, joined)
            # Then the monitor is called: on another processor it gets ready and makes the cgroup, while we make what
            # else is outside of the container.
            async with client.Launching(ctx.inst, bundle.launch(ctx, record), bundle.for_monitor(config)) as monitor:
                async with _beside(asyncio.to_thread(bundle.write, ctx, record, config)):
                    network = await _own_user_namespace(record, monitor, joined, held)
                    wiring = await wire(ctx, record, joined.network, network, held, resume)
                if wiring.endpoints:
                    await asyncio.to_thread(bundle.write_hosts, ctx, record, wiring.endpoints)
                saved = Saved(
                    State.STARTING, boot=boot_id(), started=time.time(), endpoints=wiring.endpoints, ports=wiring.ports
                )
                # The row while the container starts: the disk takes as long as that. That it runs is what its monitor
                # says from then on (records.observe), and the row need not be written again.
                async with _beside(records.save(ctx, cid, saved)):
                    # The monitor gets copies of these descriptors and holds them for as long as the container runs,
                    # restarts included; ours are closed at the end of this block.
                    given = _descriptors(wiring, joined, attach)
                    await monitor.go([*given, *(resume.descriptors.items() if resume else ())])
    return replace(record, saved=saved)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Future[T]]:
    """Do ``work`` while the body runs, and wait for it. It ends in any case before an error of the body goes on: the
    undo must find all that it does, and what a thread does cannot be stopped."""
    task = asyncio.ensure_future(work)
    try:
        yield task
        await asyncio.shield(task)
    except BaseException:
        await to_the_end(asyncio.gather(task, return_exceptions=True))
        raise


async def _configure(ctx: Context, record: Record, joined: joins.Joined) -> Json:
    if names_files(record.spec):
        return await asyncio.to_thread(bundle.config, ctx, record, joined.paths)
    return bundle.config(ctx, record, joined.paths)


def _descriptors(wiring: Wiring, joined: joins.Joined, attach: socket.socket | None) -> list[tuple[str, int]]:
    named = [] if wiring.netns is None else [("netns", wiring.netns)]
    named += [(f"{client.JOINED}{kind}", fd) for kind, fd in joined.fds.items()]
    named += [] if joined.shm is None else [(client.SHM, joined.shm)]
    named += [] if attach is None else [("attach", attach.fileno())]
    return named + [(f"hold{number}", sock.fileno()) for number, sock in enumerate(wiring.reservations)]


async def _own_user_namespace(
    record: Record, monitor: client.Launching, joined: joins.Joined, held: ExitStack
) -> int | None:
    """Put the container's user namespace, if it has one, beside what it joins; returns a network namespace that belongs
    to it, where the container gets one of its own.

    A namespace belongs to the user namespace in which it is made: in one of the host's the container's root could mount
    no /sys, set no ``net.*`` and bind no low port.
    """
    if not record.config.ids:
        return None
    first, count = record.config.ids
    kinds = () if spaces.mode(record.spec, "network")[0] in ("host", "container") else ("network",)
    made = await monitor.make_namespaces((first, count), kinds, joined.fds.get("user"))
    for fd in made.values():
        held.callback(os.close, fd)
    joined.fds["user"] = made["user"]
    return made.get("network")


async def wire(
    ctx: Context,
    record: Record,
    others: int | None,
    own: int | None,
    held: ExitStack,
    resume: Resume | None = None,
) -> Wiring:
    """The network namespace that the container's ``--network`` asks for.

    :param others: that of the container whose network it shares
    :param own: one that has been made for it already; None: this makes one
    """
    mode, _ = spaces.mode(record.spec, "network")
    if mode == "host":
        return Wiring(None)
    if mode == "container":
        return Wiring(others)
    if mode == "none":
        if own is not None:
            await ctx.net.set_loopback_up(own)
            return Wiring(own)
        fd = await ctx.net.new_netns()
        held.callback(os.close, fd)
        return Wiring(fd)
    attachment = await _attach(ctx, mode, record.id, own, resume)
    held.callback(os.close, attachment.netns_fd)
    if not record.spec.ports:
        return Wiring(attachment.netns_fd, (attachment.endpoint,))
    published = await _publish(ctx, record, attachment.endpoint.ip)
    for sock in published.sockets:
        held.callback(sock.close)
    return Wiring(attachment.netns_fd, (attachment.endpoint,), published.ports, tuple(published.sockets))


async def _attach(ctx: Context, network: str, cid: str, own: int | None, resume: Resume | None) -> Attachment:
    if resume is None or not resume.address:
        return await ctx.net.attach(network, cid, namespace=own)
    if resume.same_address:
        return await _attach_held(ctx, network, cid, resume)
    try:
        return await ctx.net.attach(network, cid, ip=resume.address, namespace=own)
    except (Conflict, InvalidArgument):  # taken, or of another network by now
        return await ctx.net.attach(network, cid, namespace=own)


async def _attach_held(ctx: Context, network: str, cid: str, resume: Resume) -> Attachment:
    """Attached as it was, but deaf until its connections are restored."""
    from core.supervise.criu import hold_connections  # late: a restore is rare

    own = await ctx.net.new_netns()
    try:
        if resume.hold:
            await asyncio.to_thread(hold_connections, own)
        return await ctx.net.attach(network, cid, ip=resume.address, namespace=own)
    finally:
        os.close(own)


async def _publish(ctx: Context, record: Record, ip: str) -> Published:
    """Publish the ports; those of its own last run may be reserved for a moment after its end.

    :raises PortTaken: by somebody else
    """
    patience = time.monotonic() + 2.0
    while True:
        try:
            return await ctx.net.publish(record.id, ip, record.spec.ports)
        except PortTaken:
            # The monitor of that run and the launcher hold copies until they have heard of the end.
            if time.time() - record.saved.finished > 15.0 or time.monotonic() > patience:
                raise
            await asyncio.sleep(0.02)


async def undo_start(ctx: Context, cid: str, before: str = "") -> None:
    """End whatever a broken start has brought up, and release it. Idempotent.

    :param before: the row's state as it was, by :func:`core.ops.records.dump`
    """
    run = client.read_state(ctx.inst, cid)
    if run is not None and client.alive(run):
        await client.tell_stopping(ctx.inst, cid)
        client.signal(run, 9)
        await client.wait_pid(run, 10.0)
    record = await records.find_or_none(ctx, cid)
    await asyncio.to_thread(cgroups.kill, records.cgroup(ctx, cid, record))
    await release(ctx, cid, record)
    if before and (await records.find(ctx, cid)).saved.state is State.STARTING:
        await records.save(ctx, cid, records.load(before))
