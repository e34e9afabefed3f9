"""Hooks (config.md, "POSIX-platform Hooks"): programs of the host that are run at points of a container's life, with
its state on their standard input."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Mapping
from typing import NoReturn, cast

from core.errors import StartFailed, Timeout, WharfError
from core.kernel import libc
from core.runtime.defaults import Json

#: In the order in which they come.
KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_SAID = 4096  # bytes of a hook's output that go into an error


def listed(config: Json, kind: str) -> list[Json]:
    """The hooks of one kind."""
    return cast("list[Json]", cast(Json, config.get("hooks") or {}).get(kind) or [])


def run_all(config: Json, kind: str, state: Json) -> None:
    """Run the hooks of one kind, one after the other, up to the first that fails.

    :param state: of the container (runtime.md, "State")
    :raises StartFailed: one ended with an error :raises Timeout: one took longer than its ``timeout``
    """
    for hook in listed(config, kind):
        run(kind, hook, state)


def run_each(config: Json, kind: str, state: Json) -> list[WharfError]:
    """Run all hooks of one kind, whatever becomes of each (``poststart``, ``poststop``); returns what went wrong."""
    failed: list[WharfError] = []
    for hook in listed(config, kind):
        try:
            run(kind, hook, state)
        except WharfError as error:
            failed.append(error)
    return failed


def run(kind: str, hook: Json, state: Json) -> None:
    """Run one hook. :raises StartFailed: :raises Timeout:"""
    path = str(hook["path"])
    # A file in memory, not a pipe: a hook that does not read its state must not hold us.
    stdin = os.memfd_create("state", os.MFD_CLOEXEC)
    os.write(stdin, json.dumps(state).encode())
    os.lseek(stdin, 0, os.SEEK_SET)
    said, output = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(hook, stdin, output)
    pidfd = os.pidfd_open(pid)
    os.close(stdin)
    os.close(output)
    try:
        words = _follow(pidfd, said, cast("int | None", hook.get("timeout")), f"{kind} hook {path}")
        status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        code = 0 if status is None else status.si_status
    except BaseException:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        raise
    finally:
        os.close(pidfd)
        os.close(said)
    if code:
        raise StartFailed(f"the {kind} hook {path} failed", f"it ended with {code}: {words}".rstrip(": "), step=kind)


def _become(hook: Json, stdin: int, output: int) -> NoReturn:
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for signo in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signo, signal.SIG_DFL)
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        libc.close_range(3, cloexec=True)
        path = str(hook["path"])
        env = dict(entry.partition("=")[::2] for entry in cast("list[str]", hook.get("env") or []))
        os.execve(path, cast("list[str]", hook.get("args") or [path]), env)
    except OSError as error:
        os.write(2, f"{error.strerror}\n".encode())
    finally:
        os._exit(127)


def _follow(pidfd: int, said: int, timeout: int | None, what: str) -> str:
    """Read what it prints until it ends. :raises Timeout:"""
    end = None if timeout is None else time.monotonic() + timeout
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(said, select.POLLIN)
    words = b""
    while True:
        left = None if end is None else max(0.0, end - time.monotonic()) * 1000
        ready = dict(poll.poll(left))
        if not ready:
            raise Timeout(f"the {what} does not end", f"it was given {timeout} s", "Give it more, or mend it")
        if said in ready:
            part = os.read(said, _SAID)
            words = (words + part)[:_SAID]
            if not part:
                poll.unregister(said)
        elif pidfd in ready:
            return " ".join(words.decode(errors="replace").split())


def state(config: Json, *, cid: str, status: str, pid: int, bundle: str) -> Json:
    """The state of a container as hooks get it and ``state`` prints it (runtime.md, "State")."""
    found: Json = {"ociVersion": config.get("ociVersion", "1.2.0"), "id": cid, "status": status}
    if pid:
        found["pid"] = pid
    found["bundle"] = bundle
    annotations = cast(Mapping[str, str], config.get("annotations") or {})
    if annotations:
        found["annotations"] = dict(annotations)
    return found
