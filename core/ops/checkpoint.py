"""``checkpoint``: save a running container's processes, to go on from there later, here or elsewhere.

CRIU stops all processes and saves them; what must be whole before anything goes on (metadata, the archive of an
export) is made in that pause. Only when it stands are the processes ended. Until then every failure, and the death of
this process, lets the container go on as if nothing had been.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from core import __version__
from core.errors import Conflict, InvalidArgument, NameTaken, Unsupported, WharfError
from core.model import Checkpoint, CheckpointOptions, State
from core.ops import portable, records
from core.ops.checkpoints import described, folder_of, offered, sync
from core.ops.context import Context
from core.ops.kill import KILL_SECONDS
from core.ops.records import Record
from core.ops.settle import await_end, settle
from core.store.journal import Journal
from core.store.lock import object_lock
from core.supervise import client, criu, dumping, outside
from core.supervise.restoring import IMAGES, Saved

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Wish:
    """What is asked for; see :func:`checkpoint`."""

    name: str
    leave_running: bool
    export: Path | None
    options: CheckpointOptions


async def checkpoint(
    ctx: Context,
    ref: str,
    name: str = "",
    *,
    leave_running: bool = False,
    export: Path | None = None,
    options: CheckpointOptions | None = None,
) -> Checkpoint:
    """Save a container's processes.

    :param name: of the checkpoint in the store; "" for none where it is exported, else for one by the time of day
    :param leave_running: the container goes on; else it is ended
    :param export: an archive to write, with the container's files and its log; gzip or zstd by its suffix
    :raises Unsupported: criu is not installed, or cannot do it here; or the container shares what cannot be restored
    :raises Conflict: the container does not run, or commands run in it
    """
    program = offered()
    if name and not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"invalid checkpoint name {name!r}", "it must be of letters, digits, _ . and -", "Choose another"
        )
    if export is not None:
        portable.check_target(export)
    elif not name:
        name = time.strftime("%Y%m%d-%H%M%S")
    wish = Wish(name, leave_running, export, options or CheckpointOptions())
    cid = (await records.find(ctx, ref)).id
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        _check(ctx, record, wish)
        assert run is not None
        work = _Work(ctx, record, run, program, wish)
        # Not cancelled with us: a dump that is broken off undoes itself, and one that is done must be written down.
        task = asyncio.create_task(work.run(), name=f"checkpoint {cid}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            work.given_up.set()
            await asyncio.wait({task})
            task.exception()  # seen: nobody waits for it any more
            raise


def _check(ctx: Context, record: Record, wish: Wish) -> None:
    what, state = f"cannot checkpoint {record.name}", record.saved.state
    if state is not State.RUNNING:
        fix = "Unpause it first" if state is State.PAUSED else "Start it first"
        raise Conflict(what, f"it is {state.value}", fix, object_id=record.id)
    if record.spec.runtime:
        raise Unsupported(what, f"it runs under {record.spec.runtime}", "Only the engine's own runtime can do that")
    if wish.name and record.spec.auto_remove and not wish.leave_running:
        raise Conflict(
            what, "it was created with --rm: its end would take the checkpoint along", "Export it, or leave it running"
        )
    if wish.name and folder_of(ctx, record.id, wish.name).exists():
        raise NameTaken(f"the checkpoint {wish.name!r} exists", f"it is one of {record.name}'s", "Choose another name")


class _Work:
    """One checkpoint in the making. ``given_up`` is set when nobody wants it any more."""

    def __init__(self, ctx: Context, record: Record, run: client.RunState, program: str, wish: Wish) -> None:
        self.given_up = threading.Event()
        self._ctx = ctx
        self._record = record
        self._run = run
        self._program = program
        self._wish = wish
        self._place = folder_of(ctx, record.id, wish.name or "export")
        self._aside = self._place.with_name(f".{self._place.name}.new")
        self._created = time.time()

    async def run(self) -> Checkpoint:
        ctx, record, leave = self._ctx, self._record, self._wish.leave_running
        async with Journal(ctx.inst, "checkpoint", record.id, ctx.undos) as journal:
            journal.step("checkpoint.undo", str(self._aside))
            line, answer = await client.hold(ctx.inst, record.id, ending=not leave)
            with line:
                made = await asyncio.to_thread(self._make, bool(answer.get("input_ended")))
                if not leave:
                    # The line is kept until the end is on record: without it, the monitor would start it again.
                    await await_end(ctx, record.id, self._run, KILL_SECONDS)
        ctx.tell("container", "checkpoint", record.id, name=record.name, image=record.spec.image)
        if not leave:
            with contextlib.suppress(WharfError):  # created with --rm, and gone; or released by the next verb
                await settle(ctx, record.id)
        return made

    # -- in a thread
    def _make(self, input_ended: bool) -> Checkpoint:
        shutil.rmtree(self._aside, ignore_errors=True)
        self._place.parent.mkdir(mode=0o700, exist_ok=True)
        (self._aside / IMAGES).mkdir(mode=0o700, parents=True)
        try:
            with portable.opened(self._aside / IMAGES) as images, portable.opened(self._aside) as work:
                return self._dump(images, work, input_ended)
        except WharfError as error:
            self._keep_log(error)
            raise
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _keep_log(self, error: WharfError) -> None:
        """CRIU's log of a dump that failed tells more than its first errors."""
        log = self._ctx.inst.container_dir(self._record.id) / criu.DUMP_LOG
        with contextlib.suppress(OSError):
            (self._aside / criu.DUMP_LOG).rename(log)
            error.fix = error.fix or f"See {log}"

    def _dump(self, images: int, work: int, input_ended: bool) -> Checkpoint:
        inst, cid, run, wish = self._ctx.inst, self._record.id, self._run, self._wish
        config = json.loads((inst.container_dir(cid) / "config.json").read_bytes())
        group = records.cgroup(self._ctx, cid, self._record)
        found = outside.look(run.pid, config, group, _streams(inst.container_run(cid)))
        hold = wish.options.tcp_established and criu.by_iptables()
        saved = Saved(criu.Options(**vars(wish.options)), found, input_ended, hold)
        meta = self._meta()
        self._check_network(str(meta["criu"]))
        pack = None if wish.export is None else portable.Pack(inst, self._record, self._aside, wish.export)
        made: list[Checkpoint] = []

        def publish() -> None:
            size = 0 if pack is None else pack.write()
            if wish.name:
                sync(work)
                self._aside.rename(self._place)
                made.append(described(self._place, cid))
            else:
                made.append(Checkpoint("", cid, self._created, size, str(meta["criu"]), wish.options))

        def dumped() -> None:
            if self.given_up.is_set():
                raise Conflict("the checkpoint was given up", "nobody waits for it any more")
            dumping.write_meta(work, saved, meta)
            if pack is not None:
                pack.take()
            if not wish.leave_running:
                publish()

        dumping.dump(
            self._program,
            str(meta["criu"]),
            run.pid,
            group,
            (images, work),
            saved,
            dumped,
            leave_running=wish.leave_running,
        )
        if wish.leave_running:
            publish()
        return made[0]

    def _check_network(self, release: str) -> None:
        """CRIU drops what comes for connections meanwhile, and leaves it so: another container would be cut off."""
        shared = self._record.spec.network.startswith("container:")
        if shared and criu.locks_network(self._wish.options.tcp_established, release):
            raise Unsupported(
                f"cannot checkpoint {self._record.name}",
                f"it shares its network with another container, which criu {release} would cut off",
                "Leave --tcp-established out" if self._wish.options.tcp_established else "Install criu 3.19 or newer",
            )

    def _meta(self) -> dict[str, object]:
        return {
            "version": 1,
            "created": self._created,
            "container": self._record.id,
            "image": self._record.image,
            "engine": __version__,
            "criu": dumping.version(self._program),
            "kernel": os.uname().release,
            "machine": os.uname().machine,
            "addresses": {end.network: [end.ip, end.ip6] for end in self._record.saved.endpoints},
        }


async def undo_checkpoint(ctx: Context, folder: str) -> None:
    """Delete one that was not finished."""
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _streams(run_dir: Path) -> dict[tuple[int, int], int]:
    """(device, inode) of the pipes that the container was started with → number of the stream."""
    found = {}
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(run_dir / name)
            found[status.st_dev, status.st_ino] = number
    return found
