"""Rows of the container table, and how they are read together with what the kernel and the monitor say.

A row holds what was last saved. Between two saves the truth is in the run root: ``state.json`` (the monitor: pid,
restarts, health) and ``exit.json``. :func:`observe` puts both together without a lock and without a write, so that
``ps`` never waits for anybody.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from core.errors import InvalidArgument, NotFound
from core.kernel.process import boot_id
from core.model import Container, ContainerSpec, EndpointInfo, ImageConfig, PortMapping, State
from core.names import DOCKER_HUB
from core.store.codec import from_plain, to_plain
from core.store.db import Row
from core.store.journal import is_open
from core.supervise.records import RunState, alive, monitor_alive, read_exit, read_state

if TYPE_CHECKING:
    from core.ops.context import Context
    from core.ops.idranges import Span
    from core.supervise.records import ExitRecord

STOP_GRACE = 15.0  # seconds: what a stop may take beyond its own time, SIGKILL included
_ID = re.compile(r"^[0-9a-f]{1,64}$")


@dataclass(frozen=True)
class Config:
    """What creation decided, for good."""

    argv: tuple[str, ...]
    hostname: str
    layers: tuple[str, ...]  # overlay's lower folders, topmost first
    image: ImageConfig
    ids: tuple[int, ...] = ()  # of its user namespace: the first one on the host, and how many


@dataclass(frozen=True)
class Saved:
    """The ``state`` column: what changes, as last saved."""

    state: State
    boot: str = ""  # boot id of the start
    started: float = 0.0
    finished: float = 0.0
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    restarts: int = 0
    endpoints: tuple[EndpointInfo, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    stop_by: float = 0.0  # seconds since the epoch: when a stop that is under way turns to SIGKILL

    @property
    def stop_broken_off(self) -> bool:
        """True where whoever was stopping it has gone: the time has passed, and it was not killed."""
        return self.state is State.STOPPING and time.time() > self.stop_by + STOP_GRACE


@dataclass(frozen=True)
class Record:
    """One row, decoded."""

    id: str
    name: str
    image: str
    created: float
    spec: ContainerSpec
    config: Config
    saved: Saved


def _decode(row: Row) -> Record:
    return Record(
        row["id"],
        row["name"],
        row["image"],
        row["created"],
        from_plain(ContainerSpec, json.loads(row["spec"])),
        from_plain(Config, json.loads(row["config"])),
        load(row["state"]),
    )


def _dump(value: Any) -> str:
    return json.dumps(to_plain(value), separators=(",", ":"))


def dump(saved: Saved) -> str:
    """The ``state`` column's text."""
    return _dump(saved)


def load(text: str) -> Saved:
    return from_plain(Saved, json.loads(text))


async def every(ctx: Context) -> list[Record]:
    """All records, newest first."""
    sql = "SELECT * FROM container ORDER BY created DESC"
    return await ctx.store.disk.run(lambda: [_decode(row) for row in ctx.store.disk.read(sql)])


async def find(ctx: Context, ref: str) -> Record:
    """The container with that name, id or unambiguous id prefix.

    :raises NotFound: there is none
    :raises InvalidArgument: the prefix fits several
    """
    return _decode(_one(ctx, ref, "*"))


async def find_id(ctx: Context, ref: str) -> str:
    """Its id only; see :func:`find`."""
    return str(_one(ctx, ref, "id, name")["id"])


def _one(ctx: Context, ref: str, columns: str) -> Row:
    db = ctx.store.disk
    name = ref.removeprefix("/")

    rows = db.peek(f"SELECT {columns} FROM container WHERE name = ? OR id = ?", (name, ref))
    if not rows and _ID.match(ref):
        rows = db.peek(f"SELECT {columns} FROM container WHERE id GLOB ?", (ref + "*",))
    if not rows:
        raise NotFound(f"no such container: {ref}", fix="`wharf ps -a` lists them")
    if len(rows) > 1:
        names = ", ".join(row["name"] for row in rows)
        raise InvalidArgument(f"ambiguous id {ref!r}", f"it fits {names}", "Give more digits or the name")
    return rows[0]


async def find_or_none(ctx: Context, cid: str) -> Record | None:
    try:
        return await find(ctx, cid)
    except NotFound:
        return None


async def insert(
    ctx: Context, record: Record, first: Callable[[], None] | None = None, free_ids: Sequence[Span] = ()
) -> Record:
    """Add a row.

    :param first: done before it, in the same thread
    :param free_ids: whence its user namespace gets its ids, if it has one
    :returns: the record with what was decided with the row
    :raises sqlite3.IntegrityError: the name is taken
    :raises NotFound: the image has been removed meanwhile
    :raises Conflict: no ids are left
    """
    values = (record.id, record.name, record.image, record.created)

    def work() -> Record:
        added = record
        if first is not None:
            first()
        with ctx.store.disk.write() as con:
            if not con.execute("SELECT 1 FROM image WHERE id = ?", (record.image,)).fetchone():
                raise NotFound(f"no such image: {record.spec.image}", "it has just been removed", "Pull it again")
            from core.ops import idranges  # late: who only looks needs neither
            from core.runtime import spaces

            if spaces.ids(record.spec)[1]:
                ids = idranges.choose(con, ctx.inst, record.spec, free_ids)
                added = replace(record, config=replace(record.config, ids=ids))
            texts = (_dump(added.spec), _dump(added.config), _dump(added.saved))
            con.execute("INSERT INTO container VALUES (?, ?, ?, ?, ?, ?, ?)", values + texts)
            _use(con, record.image)
        return added

    return await ctx.store.disk.run(work)


async def save(ctx: Context, cid: str, saved: Saved) -> None:
    """Replace the state column."""
    text = _dump(saved)

    def work() -> None:
        with ctx.store.disk.write() as con:
            con.execute("UPDATE container SET state = ? WHERE id = ?", (text, cid))

    await ctx.store.disk.run(work)


async def save_start(ctx: Context, record: Record, saved: Saved) -> None:
    """:func:`save`, and that the image is in use."""
    text = _dump(saved)

    def work() -> None:
        with ctx.store.disk.write() as con:
            con.execute("UPDATE container SET state = ? WHERE id = ?", (text, record.id))
            _use(con, record.image)

    await ctx.store.disk.run(work)


def _use(con: sqlite3.Connection, image_id: str) -> None:
    con.execute("UPDATE image SET used = ? WHERE id = ?", (time.time(), image_id))


async def save_spec(ctx: Context, cid: str, spec: ContainerSpec) -> None:
    """Replace the specification column."""
    text = _dump(spec)

    def work() -> None:
        with ctx.store.disk.write() as con:
            con.execute("UPDATE container SET spec = ? WHERE id = ?", (text, cid))

    await ctx.store.disk.run(work)


async def save_networks(ctx: Context, cid: str, spec: ContainerSpec, saved: Saved) -> None:
    """Replace both, at once: which networks it is to be on, and where it is."""
    texts = (_dump(spec), _dump(saved))

    def work() -> None:
        with ctx.store.disk.write() as con:
            con.execute("UPDATE container SET spec = ?, state = ? WHERE id = ?", (*texts, cid))

    await ctx.store.disk.run(work)


async def delete(ctx: Context, cid: str) -> None:
    def work() -> None:
        with ctx.store.disk.write() as con:
            row = con.execute("SELECT image FROM container WHERE id = ?", (cid,)).fetchone()
            con.execute("DELETE FROM container WHERE id = ?", (cid,))
            if row:
                _use(con, row["image"])  # it was in use until now, however long ago the start was

    await ctx.store.disk.run(work)


def names_using(ctx: Context, image_id: str) -> list[str]:
    """Names of the containers made from an image; for the database's thread."""
    return [row["name"] for row in ctx.store.disk.read("SELECT name FROM container WHERE image = ?", (image_id,))]


def cgroup(ctx: Context, cid: str, record: Record | None) -> str:
    """The container's cgroup, relative to each hierarchy's root; where its row is gone, the usual one."""
    parent = record.spec.cgroup_parent if record else ""
    return f"{parent or ctx.inst.cgroup}/{cid}"


def observe(ctx: Context, record: Record) -> tuple[Saved, RunState | None]:
    """The state as it is now. Reads at most two small files; takes no lock."""
    saved = record.saved
    run = read_state(ctx.inst, record.id)
    if run is not None and (alive(run) or (run.status == "restarting" and monitor_alive(run))):
        return _running(saved, run), run
    ended = read_exit(ctx.inst, record.id)
    if ended is not None and ended.restarting and run is not None and monitor_alive(run):
        return replace(_running(saved, run), state=State.RESTARTING), run
    was_live = saved.state.live or saved.state is State.RESTARTING or run is not None
    if ended is not None and was_live and _of_this_run(ended, run):
        return _ended(saved, ended), run
    if run is not None and monitor_alive(run):
        # Its init is gone, and the monitor is about to write the exit record.
        return _running(saved, run), run
    if saved.state is State.STARTING and is_open(ctx.inst, "start", record.id):
        return saved, run
    if was_live:
        reason = "its monitor was killed with it" if saved.boot in ("", boot_id()) else "the host was restarted"
        return replace(saved, state=State.UNKNOWN, exit_code=None, error=reason), run
    return saved, run


def _of_this_run(ended: ExitRecord, run: RunState | None) -> bool:
    """Every start by an engine deletes the record first, so that only automatic restarts leave an older one behind.

    Times are compared for equality alone: a clock may be set back.
    """
    return run is None or run.status == "restarting" or ended.started == run.started


def _running(saved: Saved, run: RunState) -> Saved:
    state = State.RESTARTING if run.status == "restarting" else State.RUNNING
    if state is State.RUNNING and saved.state in (State.PAUSED, State.STOPPING) and not saved.stop_broken_off:
        state = saved.state
    return replace(
        saved, state=state, started=run.started, restarts=run.restarts, exit_code=None, oom_killed=False, error=""
    )


def _ended(saved: Saved, ended: ExitRecord) -> Saved:
    return replace(
        saved,
        state=State.EXITED if ended.exit_code is not None else State.UNKNOWN,
        started=ended.started or saved.started,
        finished=ended.finished,
        exit_code=ended.exit_code,
        oom_killed=ended.oom_killed,
        error=ended.error,
        restarts=ended.restarts,
    )


def snapshot(ctx: Context, record: Record) -> Container:
    """The public view of a record, with what is true now."""
    return picture(ctx, record, *observe(ctx, record))


def picture(ctx: Context, record: Record, saved: Saved, run: RunState | None) -> Container:
    """The same with what has been seen of it (:func:`observe`)."""
    live = saved.state.live
    return Container(
        id=record.id,
        name=record.name,
        spec=record.spec,
        image_id=record.image,
        state=saved.state,
        created=record.created,
        argv=record.config.argv,
        pid=run.pid if run and live else 0,
        started=saved.started,
        finished=0.0 if live else saved.finished,
        exit_code=saved.exit_code,
        oom_killed=saved.oom_killed,
        error=saved.error,
        health=run.health if run and live else "",
        restarts=saved.restarts,
        endpoints=saved.endpoints if live or saved.state is State.RESTARTING else (),
        ports=saved.ports if live or saved.state is State.RESTARTING else (),
        bundle=str(ctx.inst.container_dir(record.id)),
        log_path=str(ctx.inst.log_path(record.id)),
        ids=record.config.ids,
    )


async def listed(ctx: Context) -> list[Container]:
    """All containers, newest first, each with ``image_moved`` told. Takes no locks."""
    boxes = [snapshot(ctx, record) for record in await every(ctx)]
    names = await ctx.store.disk.run(lambda: _names(ctx)) if boxes else {}
    return [replace(box, image_moved=True) if _moved(box, names[box.image_id]) else box for box in boxes]


def _names(ctx: Context) -> defaultdict[str, set[str]]:
    """Image id → its full references, tags and digests."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for row in ctx.store.disk.read(
        "SELECT reference, image FROM tag UNION ALL SELECT reference, image FROM repo_digest"
    ):
        found[row["image"]].add(row["reference"])
    return found


def _moved(box: Container, names: Collection[str]) -> bool:
    said = box.spec.image
    # The usual forms by themselves; all others are the parser's.
    if any(f"{start}{said}{end}" in names for start in ("", *DOCKER_HUB) for end in ("", ":latest")):
        return False
    digits = said.removeprefix("sha256:")
    if len(digits) >= 4 and box.image_id.removeprefix("sha256:").startswith(digits):
        return False  # made by its id
    from core.images import reference  # late: whoever lists containers should not wait for what few of them need

    try:
        full = reference.parse(said)
    except InvalidArgument:
        return True
    if full.digest:  # whatever tag was given with it
        return f"{full.name}@{full.digest}" not in names
    return str(full) not in names
