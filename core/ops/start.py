"""``start``: the steps of one container start, from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

from core import cgroups
from core.dns import TCP, UDP
from core.errors import Conflict, StartFailed, WharfError
from core.kernel.process import boot_id
from core.model import Container, State
from core.ops import bundle, joins, records
from core.ops.context import Context
from core.ops.links import linked
from core.ops.records import Record, Saved
from core.ops.settle import release, settle
from core.ops.validate import names_files
from core.ops.wiring import Resume, Wiring, wire
from core.runtime import spaces
from core.runtime.defaults import Json
from core.store.journal import Journal, to_the_end
from core.store.lock import object_lock
from core.supervise import client

T = TypeVar("T")
NEVER_RAN = 128  # exit code of a container whose start failed for another reason than its command, as docker has it


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
        try:
            record = await bring_up(ctx, record, attach)
        except BaseException as error:
            code = await _note_failure(ctx, record, error) if isinstance(error, (WharfError, OSError)) else NEVER_RAN
            tell_failed(ctx, record, code)
            raise
    # The monitor has told that it started; now the row says with which addresses and ports.
    for end in record.saved.endpoints:
        ctx.tell("network", "connect", cid, container=record.name, name=end.network)
    return records.snapshot(ctx, record)


async def _note_failure(ctx: Context, record: Record, error: WharfError | OSError) -> int:
    """Keep in the row why it did not start, with docker's code for that, which is returned; the next start that
    succeeds clears it."""
    code = error.exit_code if isinstance(error, StartFailed) else 0
    code = code if code in (126, 127) else NEVER_RAN
    saved = replace(record.saved, exit_code=code, error=str(error))
    with contextlib.suppress(
        WharfError, OSError, sqlite3.Error
    ):  # a full disk, say: the first error is the one to tell
        await records.save(ctx, record.id, saved)
    return code


def tell_failed(ctx: Context, record: Record, code: int = NEVER_RAN) -> None:
    """Tell, as docker does, that a start has failed, once the row says so: who waits saw it starting."""
    with contextlib.suppress(OSError):  # a full disk: its own error is the one to tell
        ctx.tell("container", "die", record.id, name=record.name, image=record.spec.image, exitCode=str(code))


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
            # The monitor is called first: on another processor it gets ready and makes the cgroup, while we make what
            # else is outside of the container.
            async with client.Launching(ctx.inst, bundle.launch(ctx, record)) as monitor:
                config = await _configure(ctx, record, joined, monitor)
                # Another runtime reads the bundle itself.
                whole = config if record.spec.runtime or resume is not None else None
                async with _beside(asyncio.to_thread(bundle.write_names, ctx, record, whole)) as names:
                    network = await _own_user_namespace(record, monitor, joined, held)
                    # Not into another's pid namespace, where others see a process that has not entered its root yet.
                    early = whole is None and "pid" not in joined.fds
                    async with _ahead(monitor, names, joined, early=early) as home:
                        wiring = await wire(ctx, record, joined.network, network, held, resume, home)
                owed = names.result()
                if wiring.endpoints:
                    others = await linked(ctx, record)
                    owed += await asyncio.to_thread(bundle.begin_hosts, ctx, record, wiring.endpoints, others)
                saved = Saved(
                    State.STARTING, boot=boot_id(), started=time.time(), endpoints=wiring.endpoints, ports=wiring.ports
                )
                # Row and bundle while the container starts: the disk takes as long as that. That it runs is what its
                # monitor says from then on (records.observe), and the row need not be written again.
                rest = asyncio.to_thread(bundle.write_rest, ctx, record, config, owed)
                async with _beside(rest), _beside(records.save_start(ctx, record, saved)):
                    # The monitor gets copies of these descriptors and holds them for as long as the container runs,
                    # restarts included; ours are closed at the end of this block.
                    given = _descriptors(wiring, joined, attach)
                    await monitor.go([*given, *(resume.descriptors.items() if resume else ())], wiring.proxied)
                await monitor.confirm()
    return replace(record, saved=saved)


@contextlib.asynccontextmanager
async def _ahead(
    monitor: client.Launching, names: Awaitable[object], joined: joins.Joined, *, early: bool
) -> AsyncIterator[Callable[[int], None] | None]:
    """Yields what takes the container's network namespace, from any thread. Its first process is on its way with that
    from then on, while the body makes the network in there.

    :param names: the files that it mounts
    :param early: False: it needs all at once; then None is yielded
    """
    if not early:
        yield None
        return
    loop = asyncio.get_running_loop()
    home: asyncio.Future[int] = loop.create_future()

    async def begin() -> None:
        await asyncio.wait([home])
        if home.cancelled():
            return
        try:
            await names
            await monitor.ahead([("netns", home.result()), *_joined(joined)])
        finally:
            os.close(home.result())

    def take(fd: int) -> None:
        if home.done():  # we have given up meanwhile
            os.close(fd)
        else:
            home.set_result(fd)

    def hand_over(fd: int) -> None:
        try:
            loop.call_soon_threadsafe(take, fd)
        except RuntimeError:  # the loop is closed
            os.close(fd)

    async with _beside(begin()):
        try:
            yield hand_over
        finally:
            home.cancel()


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


async def _configure(ctx: Context, record: Record, joined: joins.Joined, monitor: client.Launching) -> Json:
    """Tell the monitor what the container is to be."""
    if names_files(record.spec):
        config = await asyncio.to_thread(bundle.config, ctx, record, joined.paths)
    else:
        config = bundle.config(ctx, record, joined.paths)
    seccomp = bundle.known_filter(ctx, config)
    if seccomp is None:
        seccomp = await asyncio.to_thread(bundle.make_filter, ctx, config)
    await monitor.configure(bundle.for_monitor(config), seccomp)
    return config


def _descriptors(wiring: Wiring, joined: joins.Joined, attach: socket.socket | None) -> list[tuple[str, int]]:
    named = [] if wiring.netns is None else [("netns", wiring.netns)]
    named += _joined(joined)
    named += [(name, sock.fileno()) for name, sock in zip((UDP, TCP), wiring.resolver, strict=False)]
    named += [] if attach is None else [("attach", attach.fileno())]
    return named + [(name, sock.fileno()) for name, sock in wiring.reservations.items()]


def _joined(joined: joins.Joined) -> list[tuple[str, int]]:
    named = [(f"{client.JOINED}{kind}", fd) for kind, fd in joined.fds.items()]
    return named if joined.shm is None else [*named, (client.SHM, joined.shm)]


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
