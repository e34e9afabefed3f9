"""``create``: everything but the command itself, and on any error nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from core import cgroups
from core.cgroups import resctrl
from core.errors import InvalidArgument, StartFailed, Unavailable, WharfError
from core.kernel import caps, process
from core.kernel.bpf import FILTER_NEW_LISTENER
from core.oci import readiness
from core.oci.store import Held, Store, born
from core.runtime import defaults, hooks, namespaces, notify, seccomp
from core.runtime.check import check_config
from core.runtime.defaults import Json
from core.runtime.task import Filter, InitTask, Rootfs
from core.supervise import listener, sockets, spawn

_PARENT = "wharf-runtime"  # cgroup of those that name none


@dataclass
class Options:
    """How a container is created.

    :param console: path of the unix socket that gets the terminal's master side
    :param preserve: so many descriptors from 3 on go to the command
    :param listening: so many of them are sockets that it is told of (sd_listen_fds(3))
    """

    bundle: Path
    pid_file: Path | None = None
    console: str = ""
    preserve: int = 0
    keyring: bool = True
    listening: int = 0


@dataclass
class Created:
    """A container that waits for its start. ``master`` is its terminal where nobody else has got it."""

    held: Held
    child: spawn.Child
    master: int | None


def load_config(bundle: Path, warn: Callable[[object], None]) -> Json:
    """The bundle's config.json, checked.

    :param warn: told what is odd but no error
    :raises InvalidArgument: the field, its value and the rule
    """
    path = bundle / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InvalidArgument(f"{path} does not exist", "a bundle has a config.json", "`spec` writes one") from error
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"cannot read {path}", str(error), "It must be JSON") from error
    warnings: list[str] = []
    checked = check_config(config, bundle=bundle, warnings=warnings)
    drop_unheld(checked, cast(Json, checked.get("process") or {}), warnings)
    for words in warnings:
        warn(words)
    return checked


def drop_unheld(config: Json, own: Json, warnings: list[str]) -> None:
    """Capabilities that we do not have ourselves cannot be given; that is no error (config.md, "Linux Process").

    :param own: the ``process`` that loses them
    """
    if "user" in namespaces.listed(config):  # whose root has all of them, in there
        return
    held = set(caps.bounding())
    missing: set[str] = set()
    for names in cast("dict[str, list[str]]", own.get("capabilities") or {}).values():
        missing.update(set(names) - held)
        names[:] = [name for name in names if name in held]
    if missing:
        warnings.append(f"the process cannot have {', '.join(sorted(missing))}: this runtime has not")


def create(store: Store, cid: str, config: Json, options: Options) -> Created:
    """Make a container of a configuration from :func:`load_config`.

    The caller lets it go on by ``child.pass_gate()``, or ends it by :func:`undo`.

    :raises WharfError: nothing stays
    """
    _check_terminal(config, options)
    check_preserved(options.preserve)
    if options.listening and config.get("process"):
        own = cast("dict[str, Any]", config["process"])
        own["env"] = [*(own.get("env") or []), f"LISTEN_FDS={options.listening}", "LISTEN_PID=1"]
    if readiness.wanted():
        config = readiness.with_socket(store, cid, config)
    filter = compiled(config)
    held, lock = begin(store, cid, config, options)
    try:
        return _create(store, held, config, filter, options)
    finally:
        os.close(lock)


def _create(store: Store, held: Held, config: Json, filter: Filter, options: Options) -> Created:
    began = False
    child: spawn.Child | None = None
    try:
        if readiness.wanted():
            readiness.make_folder(store, held.id)
        held = make_cgroup(store, held, config)

        def hand_over(listener_fd: int, pid: int) -> None:
            state = hooks.state(config, cid=held.id, status="creating", pid=pid, bundle=held.bundle)
            listener.hand_over(listener_fd, config, pid, state)

        with _gate(store, held.id) as gate:
            began = True
            process.argument_area()  # asked now: inside, what it reads could be the image's (see the reaper)
            task = init_task(store, held, config, filter, options, gate.fileno())
            child = spawn.start_init(task, held.cgroup, host_hooks(held, config))
            if filter.flags & FILTER_NEW_LISTENER:
                child.take_listener = hand_over
            child.wait(None, None)
        held, master = tell(store, born(held, child.first), config, options, child.master)
        return Created(held, child, master)
    except BaseException:
        if child is not None and not child.gone:
            child.destroy()
        undo(store, held, config, began=began)
        raise


def begin(store: Store, cid: str, config: Json, options: Options) -> tuple[Held, int]:
    """The container's folder, and its lock. :raises Conflict: there is one of that name"""
    wanted = str(cast(Json, config.get("linux") or {}).get("cgroupsPath") or "")
    cgroup = cgroups.resolve(wanted, f"{_PARENT}/{cid}")
    held = Held(cid, str(options.bundle), cgroup, time.time(), os.getuid(), fresh=not cgroups.exists(cgroup))
    return held, store.make(held, config)


def make_cgroup(store: Store, held: Held, config: Json) -> Held:
    """:raises WharfError: see :func:`core.cgroups.create`"""
    linux = cast(Json, config.get("linux") or {})
    held = replace(held, folders=cgroups.create(held.cgroup, _resources(linux), join=True))
    store.save(held)
    return held


def tell(store: Store, held: Held, config: Json, options: Options, terminal: int | None) -> tuple[Held, int | None]:
    """Its first process is there: note it down, and tell whoever wants to know.

    :returns: what is noted, and the terminal where nobody else has got it
    """
    rdt = cast("Mapping[str, Any] | None", cast(Json, config.get("linux") or {}).get("intelRdt"))
    if rdt:
        held = replace(held, resctrl=resctrl.apply(rdt, held.id, held.pid))
    master = _hand_over_terminal(terminal, options.console)
    store.save(held)
    if options.pid_file is not None:
        write_pid(options.pid_file, held.pid)
    return held, master


def host_hooks(held: Held, config: Json) -> Callable[[int], None]:
    """What is run when the container is made and not entered yet, given the pid of its first process."""

    def run(pid: int) -> None:
        state = hooks.state(config, cid=held.id, status="creating", pid=pid, bundle=held.bundle)
        for kind in ("prestart", "createRuntime"):
            hooks.run_all(config, kind, state)

    return run


def _resources(linux: Json) -> Mapping[str, Any]:
    """Limits, with the devices that the container's own /dev needs behind those that config.json allows or denies.

    As with runc, what no rule speaks of is denied.
    """
    found = dict(cast(Mapping[str, Any], linux.get("resources") or {}))
    if found.get("devices"):
        found["devices"] = [{"allow": False, "access": "rwm"}, *found["devices"], *defaults.needed_devices()]
    return found


def undo(store: Store, held: Held, config: Json, *, began: bool = True) -> list[WharfError]:
    """What :func:`create` has made is taken away; its processes are gone. Returns what the last hooks had to say."""
    failed: list[WharfError] = []
    try:
        if held.fresh:
            cgroups.kill(held.cgroup)  # in a group that was there before there may be others
        if held.folders or held.fresh:
            cgroups.remove(held.cgroup, folders=held.folders or None)
        resctrl.remove(held.resctrl)
    except WharfError as error:
        failed.append(error)
    if began:
        state = hooks.state(config, cid=held.id, status="stopped", pid=0, bundle=held.bundle)
        failed += hooks.run_each(config, "poststop", state)
    store.remove(held.id)
    return failed


def init_task(store: Store, held: Held, config: Json, filter: Filter, options: Options, gate: int) -> InitTask:
    own = cast(Json, config.get("process") or {})
    # Engines hand an image's annotations on, and an image must not choose its user, or its pid 1 (CVE-2026-53488).
    given = cast("dict[str, str]", config.get("annotations") or {})
    annotations = {name: value for name, value in given.items() if not name.startswith(defaults.OWN_ANNOTATIONS)}
    return InitTask(
        config={**config, "annotations": annotations},
        rootfs=Rootfs(path=str(cast(Json, config["root"])["path"])),
        mount_point=str(store.folder(held.id)),
        stdio=None if own.get("terminal") else (0, 1, 2),
        joined={},
        cgroup_views=spawn.cgroup_views(held.cgroup, config),
        seccomp=filter,
        cid=held.id,
        bundle=held.bundle,
        preserve=options.preserve,
        keyring=options.keyring,
        gate=gate,
    )


@contextlib.contextmanager
def _gate(store: Store, cid: str) -> Iterator[socket.socket]:
    """The socket that the first process waits on; ours is closed when it has its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gate:
        sockets.bind(gate, str(store.gate(cid)))
        gate.listen(1)
        yield gate


def compiled(config: Json) -> Filter:
    """The filter of ``linux.seccomp``."""
    rules = cast("dict[str, Any] | None", cast(Json, config.get("linux") or {}).get("seccomp"))
    return Filter() if rules is None else notify.unpack(seccomp.compiled(rules))


def _check_terminal(config: Json, options: Options) -> None:
    wanted = bool(cast(Json, config.get("process") or {}).get("terminal"))
    if options.console and not wanted:
        raise InvalidArgument(
            "--console-socket is given but the container has no terminal", "process.terminal is false", "Leave it out"
        )


def check_preserved(count: int) -> None:
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError as error:
            raise InvalidArgument(
                f"--preserve-fds {count} asks for descriptor {fd}", "it is not open", "Count those that are"
            ) from error


def _hand_over_terminal(master: int | None, console: str) -> int | None:
    """:raises Unavailable: nobody listens there"""
    if master is None or not console:
        return master
    send_terminal(master, console)
    os.close(master)
    return None


def send_terminal(master: int, console: str) -> None:
    """Give the terminal to whoever listens on the ``--console-socket``. :raises Unavailable:"""
    os.set_blocking(master, True)  # as other runtimes do: a reader that comes early must not take that for the end
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            sockets.connect(line, console)
            socket.send_fds(line, [b"/dev/ptmx"], [master])
        except OSError as error:
            raise Unavailable(
                f"cannot hand the terminal to {console}", str(error.strerror), "Somebody must listen on that socket"
            ) from error


def write_pid(path: Path, pid: int) -> None:
    """Whole or not at all: who waits for the file reads it at once."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(str(pid))
    aside.rename(path)


def refuse_terminal(config: Json, console: str) -> None:
    """A detached container's terminal needs somebody who takes it.

    :raises StartFailed:
    """
    if cast(Json, config.get("process") or {}).get("terminal") and not console:
        raise StartFailed(
            "cannot make a terminal that nobody holds",
            "process.terminal is true",
            "Give --console-socket",
            step="terminal",
        )
