"""``start``: the steps of one container start, from top to bottom."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace

from core import cgroups
from core.errors import Conflict, PortTaken
from core.kernel.process import boot_id
from core.model import Container, EndpointInfo, PortMapping, State
from core.net import Published
from core.ops import bundle, joins, records
from core.ops.context import Context
from core.ops.records import Record, Saved
from core.ops.settle import release, settle
from core.store.journal import Journal
from core.store.lock import object_lock
from core.supervise import client


@dataclass(frozen=True)
class Wiring:
    """What the network gives to one start."""

    netns: int | None  # descriptor; None: the host's namespace
    endpoints: tuple[EndpointInfo, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    reservations: tuple[socket.socket, ...] = ()  # hold the host ports against other processes


async def start(ctx: Context, ref: str, attach: socket.socket | None = None) -> Container:
    """Start a container; one that runs already stays as it is.

    :param attach: one end of a socket pair that gets the output from the first byte on
    :raises StartFailed: nothing of the attempt stays behind
    :raises PortTaken: by whom
    """
    cid = (await records.find(ctx, ref)).id
    async with object_lock(ctx.inst, cid):
        record, _ = await settle(ctx, cid)
        if record.saved.state.live or record.saved.state is State.RESTARTING:
            if attach is not None:
                raise Conflict(f"cannot start {record.name}", f"it is {record.saved.state.value}", "Attach to it")
            return records.snapshot(ctx, record)
        record = await _bring_up(ctx, record, attach)
    # The monitor has told that it started; now the row says with which addresses and ports.
    for end in record.saved.endpoints:
        ctx.tell("network", "connect", cid, container=record.name, name=end.network)
    return records.snapshot(ctx, record)


async def _bring_up(ctx: Context, record: Record, attach: socket.socket | None) -> Record:
    cid = record.id
    async with Journal(ctx.inst, "start", cid, ctx.undos) as journal:
        # One undo for everything below: it ends the process and releases network, cgroup and run folder.
        journal.step("start.undo", cid)
        with ExitStack() as held:
            wiring = await wire(ctx, record, held)
            joined = await joins.open_joined(ctx, record.spec, held)
            launch = await asyncio.to_thread(bundle.write, ctx, record, wiring.endpoints, joined.paths)
            # The monitor gets copies of these descriptors and holds them for as long as the container runs, restarts
            # included; ours are closed at the end of this block.
            started = await client.launch(
                ctx.inst,
                launch,
                netns_fd=wiring.netns,
                joined=joined.fds,
                shm_fd=joined.shm,
                attach=attach,
                hold=[sock.fileno() for sock in wiring.reservations],
            )
        saved = Saved(
            State.RUNNING,
            boot=boot_id(),
            started=started.started,
            endpoints=wiring.endpoints,
            ports=wiring.ports,
        )
        await records.save(ctx, cid, saved)
    return replace(record, saved=saved)


async def wire(ctx: Context, record: Record, held: ExitStack) -> Wiring:
    """The network namespace that the container's ``--network`` asks for."""
    mode, _, other = record.spec.network.partition(":")
    if mode == "host":
        return Wiring(None)
    if mode == "none":
        fd = await ctx.net.new_netns()
        held.callback(os.close, fd)
        return Wiring(fd)
    if mode == "container":
        _, fds = await joins.open_namespaces(ctx, other, ("network",), held)
        return Wiring(fds["network"])
    attachment = await ctx.net.attach(mode, record.id)
    held.callback(os.close, attachment.netns_fd)
    if not record.spec.ports:
        return Wiring(attachment.netns_fd, (attachment.endpoint,))
    published = await _publish(ctx, record, attachment.endpoint.ip)
    for sock in published.sockets:
        held.callback(sock.close)
    return Wiring(attachment.netns_fd, (attachment.endpoint,), published.ports, tuple(published.sockets))


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


async def undo_start(ctx: Context, cid: str) -> None:
    """End whatever a broken start has brought up, and release it. Idempotent."""
    run = client.read_state(ctx.inst, cid)
    if run is not None and client.alive(run):
        await client.tell_stopping(ctx.inst, cid)
        client.signal(run, 9)
        await client.wait_pid(run, 10.0)
    record = await records.find_or_none(ctx, cid)
    await asyncio.to_thread(cgroups.kill, records.cgroup(ctx, cid, record))
    await release(ctx, cid, record)
