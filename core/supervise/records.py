"""``state.json`` and ``exit.json``: what a monitor writes down and every engine may read, without any lock."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from core.kernel import process
from core.supervise.protocol import PROTOCOL

if TYPE_CHECKING:
    from core.store.paths import Instance

STATE = "state.json"
EXIT = "exit.json"


class RunState(NamedTuple):
    """``$RUN/c/ID/state.json``: a container that has a monitor. Times are seconds since the epoch."""

    monitor_pid: int
    monitor_start: int  # clock ticks since boot, as ``pid_start``
    pid: int  # 0 while it waits for its next automatic start
    pid_start: int
    status: str  # running, restarting
    started: float
    restarts: int = 0
    health: str = ""  # "", starting, healthy, unhealthy
    failing_streak: int = 0
    health_output: str = ""  # of the last check, at most 4 KiB
    tty: bool = False
    stopping: bool = False  # asked to stop: no automatic restart
    external: bool = False  # under another OCI runtime: it is asked for signals and pauses
    boot_id: str = ""
    protocol: int = PROTOCOL
    version: int = 1


class ExitRecord(NamedTuple):
    """``containers/ID/exit.json``: how the last run ended. ``exit_code`` is None where nobody can know."""

    exit_code: int | None
    signal: int
    oom_killed: bool
    started: float
    finished: float
    error: str = ""
    restarts: int = 0
    restarting: bool = False  # by policy: the monitor starts it again
    ran: float = 0.0  # seconds, by a clock that nobody sets
    version: int = 1


def write_state(run_dir: str, state: RunState) -> None:
    """Replace state.json: readers see the old or the new one, never a part."""
    path = os.path.join(run_dir, STATE)
    _write(path + ".new", state._asdict(), durable=False)
    os.rename(path + ".new", path)


def write_exit(path: str, record: ExitRecord) -> None:
    """Replace exit.json so that it survives a power cut: content, then name, then folder. :raises OSError:"""
    _write(path + ".new", record._asdict(), durable=True)
    os.rename(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_exit_aside(run_dir: str, record: ExitRecord) -> None:
    """Keep the record in the run folder, which is mostly on another file system, while its own place takes nothing.

    :raises OSError:
    """
    path = os.path.join(run_dir, EXIT)
    _write(path + ".new", record._asdict(), durable=False)
    os.rename(path + ".new", path)


def _write(path: str, data: dict[str, object], *, durable: bool) -> None:
    content = json.dumps(data).encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, content) < len(content):  # a disk that gets full takes a part first
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def load_state(run_dir: str | os.PathLike[str]) -> RunState | None:
    """The state, or None where there is no monitor, or it is of another boot."""
    data = _read(os.path.join(run_dir, STATE))
    if data is None:
        return None
    known = {name: data[name] for name in RunState._fields if name in data}
    with contextlib.suppress(TypeError):
        state = RunState(**known)  # type: ignore[arg-type]
        return state if state.boot_id == process.boot_id() else None
    return None


def read_state(inst: Instance, cid: str) -> RunState | None:
    """What the monitor of a container has written down; None where there is none (or it is of another boot)."""
    return load_state(inst.container_run(cid))


def read_exit(inst: Instance, cid: str) -> ExitRecord | None:
    """How the container's last run ended; None where it never did."""
    return load_exit(inst.container_dir(cid) / "exit.json", inst.container_run(cid))


def load_exit(path: str | os.PathLike[str], run_dir: str | os.PathLike[str]) -> ExitRecord | None:
    """How the last run ended: by exit.json, or by what the run folder holds while that cannot be written."""
    return _exit(os.path.join(run_dir, EXIT)) or _exit(path)


def _exit(path: str | os.PathLike[str]) -> ExitRecord | None:
    data = _read(path)
    if data is None:
        return None
    with contextlib.suppress(TypeError):
        return ExitRecord(**{n: data[n] for n in ExitRecord._fields if n in data})  # type: ignore[arg-type]
    return None


def _read(path: str | os.PathLike[str]) -> dict[str, object] | None:
    try:
        with open(path, "rb") as file:
            data = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def monitor_alive(state: RunState) -> bool:
    return process.is_running(state.monitor_pid, state.monitor_start)


def monitor_goes_on(state: RunState) -> bool:
    """False also for one that was killed a moment ago and is not gone yet: whoever counted on it would leave its
    container to nobody. But what it has not finished is not over before another one has taken its place."""
    return process.goes_on(state.monitor_pid, state.monitor_start)


def alive(state: RunState) -> bool:
    """True while the container's first process runs (never mistaken for another with the same pid)."""
    return state.pid > 0 and process.is_running(state.pid, state.pid_start)
