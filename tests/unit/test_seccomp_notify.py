"""The listener of a filter with SCMP_ACT_NOTIFY, on this kernel: from the process under the filter to who answers."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import StartFailed
from core.kernel.process import set_no_new_privs
from core.runtime import notify, seccomp
from core.runtime.syscalls import NATIVE, TABLES
from core.runtime.task import Report
from core.supervise import listener
from tests.seccomp_lab import CONTINUE, Agent, profile

if os.uname().machine not in NATIVE:
    pytest.skip(f"no system call table for {os.uname().machine}", allow_module_level=True)

TABLE = TABLES[seccomp.native_arch()]
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: int) -> int:
    """The error of a raw call, 0 if it had none."""
    done = LIBC.syscall(ctypes.c_long(TABLE[name]), *(ctypes.c_long(arg) for arg in args))
    return ctypes.get_errno() if done == -1 else 0


@pytest.fixture
def agent(short: Path) -> Iterator[Agent]:
    made = Agent(str(short / "agent.sock"))
    yield made
    made.close()


def notifying(path: str, *names: str, **more: Any) -> dict[str, Any]:
    return profile("SCMP_ACT_ALLOW", {"names": list(names), "action": "SCMP_ACT_NOTIFY"}, listenerPath=path, **more)


def start(oci: dict[str, Any], action: Callable[[], object]) -> tuple[int, socket.socket]:
    """A child on its way, as the container's first process is: pid and the line that its listener comes by."""
    seccomp_filter = notify.unpack(seccomp.compiled(oci))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        report = Report(theirs.fileno())
        try:
            ours.close()
            set_no_new_privs()
            notify.install(seccomp_filter, report)
            os.write(report.fd, json.dumps(action()).encode())
            os._exit(0)
        except BaseException as error:
            report.fail(error)
    theirs.close()
    return pid, ours


STATE = {"ociVersion": "1.2.0", "id": "box", "status": "creating", "pid": 1, "bundle": "/b", "annotations": {"a": "b"}}


def test_listener(agent: Agent) -> None:
    oci = notifying(agent.server.getsockname(), "getppid", "getpgid", "gettid", listenerMetadata="MORE=1")
    pid, line = start(oci, lambda: [call("getpgid", 0), call("getppid"), call("gettid"), os.getppid()])
    with line:
        packet, fds, _, _ = socket.recv_fds(line, 10, 1)
        assert (packet, len(fds)) == (b"L", 1)
        listener.hand_over(fds[0], {"linux": {"seccomp": oci}}, pid, {**STATE, "pid": pid})
        message = agent.take()
        assert message == {
            "ociVersion": "1.2.0",
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": "MORE=1",
            "state": {**STATE, "pid": pid},
        }
        assert agent.answer(error=errno.EXDEV) == (TABLE["getpgid"], pid)
        assert agent.answer(value=77) == (TABLE["getppid"], pid)
        assert agent.answer(flags=CONTINUE) == (TABLE["gettid"], pid)
        assert agent.answer(value=4711) == (TABLE["getppid"], pid)
        assert json.loads(line.recv(1000)) == [errno.EXDEV, 0, 0, 4711]
    assert os.waitpid(pid, 0)[1] == 0


def test_calls_of_the_start_itself_may_be_notified(agent: Agent) -> None:
    """All but the one that hands the listener over; runc's list of what has gone wrong."""
    names = ["close", "fcntl", "execve", "openat", "read", "exit_group", "mmap", "munmap", "brk"]
    pid, line = start(notifying(agent.server.getsockname(), *names), lambda: 1)
    with line:
        _, fds, _, _ = socket.recv_fds(line, 10, 1)
        listener.hand_over(fds[0], {"linux": {"seccomp": notifying(agent.server.getsockname())}}, pid, STATE)
        agent.take()
        seen = set()
        while TABLE["exit_group"] not in seen:
            seen.add(agent.answer(flags=CONTINUE)[0])
        assert TABLE["close"] in seen
        assert os.waitpid(pid, 0)[1] == 0


def test_agent_that_dies_leaves_enosys(agent: Agent) -> None:
    """Nobody else may hold the listener then, the process itself least of all."""
    gate, opener = os.pipe()
    pid, line = start(notifying(agent.server.getsockname(), "getppid"), lambda: [os.read(gate, 1), call("getppid")][1])
    with line:
        _, fds, _, _ = socket.recv_fds(line, 10, 1)
        listener.hand_over(fds[0], {"linux": {"seccomp": notifying(agent.server.getsockname())}}, pid, STATE)
        agent.take()
        os.close(agent.listener)
        agent.listener = -1
        os.write(opener, b"x")
        assert json.loads(line.recv(1000)) == errno.ENOSYS
    os.waitpid(pid, 0)
    os.close(gate)
    os.close(opener)


@pytest.mark.parametrize("flags", [["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], ["SECCOMP_FILTER_FLAG_TSYNC"]])
def test_listener_with_flags(flags: list[str], tmp_path: Path) -> None:
    rules = notifying(str(tmp_path / "agent"), "getppid", flags=flags)
    if not set(flags) <= set(seccomp.features()["supportedFlags"]):
        pytest.skip(f"this kernel lacks {flags}")
    pid, line = start(rules, os.getpid)
    with line:
        packet, fds, _, _ = socket.recv_fds(line, 10, 1)
        assert (packet, len(fds)) == (b"L", 1)
        os.close(fds[0])
        assert json.loads(line.recv(1000)) == pid
    os.waitpid(pid, 0)


def test_filter_that_forbids_the_hand_over(tmp_path: Path) -> None:
    rules = notifying(str(tmp_path / "agent"), "getppid")
    rules["syscalls"].append({"names": ["sendmsg"], "action": "SCMP_ACT_ERRNO"})
    pid, line = start(rules, os.getpid)
    with line:
        assert "Let the profile allow sendmsg" in line.recv(10_000).decode()
    os.waitpid(pid, 0)


def test_nobody_takes_the_listener(tmp_path: Path) -> None:
    path, text = tmp_path / "agent.sock", tmp_path / "text"
    text.write_text("no socket")
    dead = Agent(str(path))
    dead.close()
    for place in (str(path), str(tmp_path / "nowhere"), str(text), "@nobody-listens-here", "/" + "x" * 200):
        fd = os.open("/dev/null", os.O_RDONLY)
        with pytest.raises(StartFailed, match="cannot hand the seccomp listener to") as caught:
            listener.hand_over(fd, {"linux": {"seccomp": {"listenerPath": place}}}, 1, STATE)
        assert "Start the agent first" in caught.value.fix
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.parametrize("kind", ["long", "abstract"])
def test_other_addresses(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / ("f" * 120)
    folder.mkdir()
    path = f"@wharf-test-{os.getpid()}" if kind == "abstract" else str(folder / "agent.sock")
    here = os.getcwd()
    if kind == "long":
        os.chdir(folder)
    try:
        made = Agent(path if kind == "abstract" else "agent.sock")
    finally:
        os.chdir(here)
    big = {**STATE, "annotations": {"big": "x" * 500_000}}
    reader = threading.Thread(target=lambda: messages.append(made.take()))
    messages: list[dict[str, Any]] = []
    reader.start()
    listener.hand_over(os.open("/dev/null", os.O_RDONLY), {"linux": {"seccomp": {"listenerPath": path}}}, 1, big)
    reader.join()
    assert messages[0]["state"] == big
    made.close()
