"""``exec``: a further process in a running container."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from core.errors import Conflict, InvalidArgument, Unsupported
from core.kernel import process
from core.kernel.bpf import FILTER_NEW_LISTENER
from core.oci import console, readiness
from core.oci.create import check_preserved, compiled, drop_unheld, send_terminal, write_pid
from core.oci.store import Store, state, status
from core.runtime.check import check_process_file
from core.runtime.defaults import Json
from core.runtime.task import ExecTask
from core.supervise import listener, spawn


@dataclass
class Wanted:
    """What the options of ``exec`` say. ``None`` and empty: as the container's own process has it."""

    argv: Sequence[str] = ()
    process: Path | None = None  # a file with the whole OCI process; then only the last five count
    cwd: str = ""
    env: Sequence[str] = ()
    tty: bool = False
    user: str = ""
    groups: Sequence[int] = ()
    label: str = ""
    apparmor: str = ""
    no_new_privs: bool = False
    caps: Sequence[str] = ()
    cgroup: Sequence[str] = ()
    ignore_paused: bool = False
    detach: bool = False
    console: str = ""
    pid_file: Path | None = None
    preserve: int = 0
    keyring: bool = field(default=True)


def execute(store: Store, cid: str, wanted: Wanted, warn: Callable[[object], None]) -> int:
    """:returns: the command's exit code, 0 for a detached one

    :raises Conflict: the container does not run :raises StartFailed:
    """
    held = store.load(cid)
    now = status(store, held)
    if now not in ("created", "running") and not (now == "paused" and wanted.ignore_paused):
        raise Conflict(f"cannot run a command in container {cid!r}", f"it is {now}", "It must be running")
    config = store.config(cid)
    own = _checked(config, wanted, warn)
    check_preserved(wanted.preserve)
    # By its start time too: where it has ended just now, its pid may be a process of the host, whose root we would run
    # the command in.
    pidfd = process.open_pidfd(held.pid, held.pid_start)
    if pidfd is None:
        raise Conflict(f"cannot run a command in container {cid!r}", "it has just ended", "It must be running")
    try:
        linux = cast(Json, config.get("linux") or {})
        task = ExecTask(
            own,
            held.pid,
            pidfd,
            None if own.get("terminal") else (0, 1, 2),
            compiled(config),
            linux,
            preserve=wanted.preserve,
            keyring=wanted.keyring,
        )
        child = spawn.start_exec(_group(held.cgroup, wanted.cgroup), task, frozen_too=wanted.ignore_paused)
        if task.seccomp.flags & FILTER_NEW_LISTENER:
            child.take_listener = lambda fd, pid: listener.hand_over(fd, config, pid, state(store, held))
        child.wait(None, None)
    finally:
        os.close(pidfd)
    return _attend(child, wanted)


def _checked(config: Json, wanted: Wanted, warn: Callable[[object], None]) -> Json:
    """The process that is to run. :raises InvalidArgument: nobody would hold its terminal"""
    warnings: list[str] = []
    own = _process(config, wanted, warnings)
    drop_unheld(config, own, warnings)
    for words in warnings:
        warn(words)
    if own.get("terminal") and wanted.detach and not wanted.console:
        raise InvalidArgument("cannot make a terminal that nobody holds", "--detach is given", "Give --console-socket")
    return own


def _attend(child: spawn.Child, wanted: Wanted) -> int:
    """Tell its pid, give its terminal away, stay until it ends: what of these is asked for."""
    if wanted.pid_file is not None:
        write_pid(wanted.pid_file, child.pid)
    if child.master is not None and wanted.console:
        send_terminal(child.master, wanted.console)
        os.close(child.master)
        child.master = None
    if wanted.detach:
        return 0
    with console.passing_signals(child.pid, child.master):
        return console.stay(child.pid, child.master)


def _group(own: str, below: Sequence[str]) -> str:
    """``--cgroup``: a group below the container's own. :raises Unsupported: another one for each controller"""
    if not below:
        return own
    if len(below) > 1 or ":" in below[0]:
        raise Unsupported("--cgroup with controllers", "all of them have one group here", "Give one path without :")
    path = below[0].strip("/")
    if ".." in path.split("/"):
        raise InvalidArgument(f"invalid --cgroup {below[0]!r}", "it leads out of the container's group", "")
    return f"{own}/{path}" if path else own


def _process(config: Json, wanted: Wanted, warnings: list[str]) -> Json:
    if wanted.process is not None:
        try:
            given = json.loads(wanted.process.read_bytes())
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"cannot read --process {wanted.process}", str(error), "It must be JSON") from error
        return _plain(check_process_file(given, warnings=warnings))
    own = cast(Json, config.get("process") or {})
    made: Json = {**own, "args": list(wanted.argv), "terminal": wanted.tty}
    made["env"] = [*readiness.without(cast("list[str]", own.get("env") or [])), *wanted.env]
    if wanted.cwd:
        made["cwd"] = wanted.cwd
    user = dict(cast(Json, own.get("user") or {}))
    if wanted.user:
        user = _user(wanted.user)
    if wanted.groups:
        user["additionalGids"] = [*cast("list[int]", user.get("additionalGids") or []), *wanted.groups]
    made["user"] = user
    if wanted.label:
        made["selinuxLabel"] = wanted.label
    if wanted.apparmor:
        made["apparmorProfile"] = wanted.apparmor
    if wanted.no_new_privs:
        made["noNewPrivileges"] = True
    if wanted.caps:
        sets = dict(cast("dict[str, list[str]]", own.get("capabilities") or {}))
        for name in ("bounding", "effective", "permitted"):
            sets[name] = list(dict.fromkeys([*sets.get(name, []), *wanted.caps]))
        made["capabilities"] = sets
    return _plain(check_process_file(made, warnings=warnings))


def _plain(own: Json) -> Json:
    """Without the words that our own engine leaves there: who the user is, numbers say (CVE-2026-53488)."""
    return {key: value for key, value in own.items() if key != "annotations"}


def _user(text: str) -> Json:
    """``UID[:GID]``; never 0 by a mistake (CVE-2026-30892). :raises InvalidArgument:"""
    parts = text.split(":")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise InvalidArgument(f"invalid --user {text!r}", "it is not UID or UID:GID", "Write it like 1000:1000")
    return {"uid": int(parts[0]), "gid": int(parts[1]) if len(parts) == 2 else 0}
