"""Seccomp on whole containers: the default profile, one's own, none, and an agent that answers for a container."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.engine import Engine
from core.errors import InvalidArgument, StartFailed
from core.model import ContainerSpec, ExecSpec
from core.runtime.syscalls import NATIVE
from core.store.paths import Instance
from tests.engine.test_lifecycle import until
from tests.patience import patience
from tests.seccomp_lab import Agent, answer, profile

if os.uname().machine not in NATIVE:
    pytest.skip(f"no system call table for {os.uname().machine}", allow_module_level=True)

REFUSED = os.strerror(errno.EXDEV)
MODE = "grep ^Seccomp: /proc/self/status"
REFUSING = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV}


async def run(engine: Engine, image: str, script: str, *options: str, **more: Any) -> tuple[int, list[str]]:
    """Run to the end; the exit code and the lines."""
    spec = ContainerSpec(image, command=("sh", "-c", script), security_opt=options, **more)
    box = await engine.create(spec)
    await engine.start(box.id)
    code = await asyncio.wait_for(engine.wait(box.id), patience(20))
    lines = [line.text async for line in engine.logs(box.id)]
    await engine.remove(box.id)
    return code, lines


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """A profile's file as a security option."""

    def made(content: dict[str, Any]) -> str:
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(content))
        return f"seccomp={path}"

    return made


async def test_default_and_unconfined(engine: Engine, busybox_image: str, inst: Instance) -> None:
    script = f"exec 2>&1; {MODE}; unshare -m true && echo unshared"  # one stream: of two nobody promises the order
    _, filtered = await run(engine, busybox_image, script, cap_add=("SYS_PTRACE",))
    assert filtered == ["Seccomp:\t2", "unshare: unshare(0x20000): Operation not permitted"]
    _, unconfined = await run(engine, busybox_image, script, "seccomp=unconfined", cap_add=("SYS_ADMIN",))
    assert unconfined == ["Seccomp:\t0", "unshared"]
    # With the capability, the filter lets it pass too: it is resolved for what the container has.
    _, admin = await run(engine, busybox_image, script, cap_add=("SYS_ADMIN",))
    assert admin == ["Seccomp:\t2", "unshared"]
    assert await run(engine, busybox_image, MODE, privileged=True) == (0, ["Seccomp:\t0"])
    assert len(list((inst.run / "cache").iterdir())) >= 2


@pytest.mark.parametrize("privileges", [(), ("no-new-privileges",)])
async def test_own_profile(
    engine: Engine, busybox_image: str, write: Callable[[dict[str, Any]], str], privileges: tuple[str, ...]
) -> None:
    option = write(profile("SCMP_ACT_ALLOW", REFUSING, flags=["SECCOMP_FILTER_FLAG_LOG"]))
    code, lines = await run(engine, busybox_image, f"{MODE}; mkdir /tmp/x 2>&1", option, *privileges)
    assert (code, lines) == (1, ["Seccomp:\t2", f"mkdir: can't create directory '/tmp/x': {REFUSED}"])


async def test_exec_is_under_the_same_filter(
    engine: Engine, busybox_image: str, write: Callable[[dict[str, Any]], str]
) -> None:
    option = write(profile("SCMP_ACT_ALLOW", REFUSING))
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "60"), security_opt=(option,)))
    await engine.start(box.id)
    assert await execute(engine, box.id, f"{MODE}; mkdir /tmp/x 2>&1; echo $?") == [
        "Seccomp:\t2",
        f"mkdir: can't create directory '/tmp/x': {REFUSED}",
        "1",
    ]
    await engine.remove(box.id, force=True)


async def execute(engine: Engine, ref: str, script: str) -> list[str]:
    session = await engine.exec(ref, ExecSpec(("sh", "-c", script)))
    output = b""
    while (chunk := await session.read()) is not None:
        output += chunk[1]
    await session.wait()
    await session.close()
    return output.decode().splitlines()


async def test_malformed_profile_is_refused_at_create(
    engine: Engine, busybox_image: str, write: Callable[[dict[str, Any]], str]
) -> None:
    option = write(profile("SCMP_ACT_ALLOW", REFUSING, {**REFUSING, "action": "SCMP_ACT_NO"}))
    with pytest.raises(InvalidArgument, match=r"syscalls\[1\].action is 'SCMP_ACT_NO'; allowed are"):
        await engine.create(ContainerSpec(busybox_image, command=("true",), security_opt=(option,)))


# ---- an agent


class Answering(threading.Thread):
    """An agent that lets every call it is asked about fail with EXDEV, for as many processes as come."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = str(path)
        self.agent = Agent(self.path)
        self.messages: list[dict[str, Any]] = []
        self.asked: list[int] = []
        self._leave, self._end = os.pipe()

    def run(self) -> None:
        poll, server = select.poll(), self.agent.server.fileno()
        poll.register(server, select.POLLIN)
        poll.register(self._leave, select.POLLHUP)
        while True:
            for fd, events in poll.poll():
                if fd == self._leave:
                    return
                if fd == server:
                    self.messages.append(self.agent.take())
                    poll.register(self.agent.listener, select.POLLIN)
                elif events & select.POLLIN:
                    self.asked.append(answer(fd, error=errno.EXDEV)[0])
                else:  # nobody is under the filter any more
                    poll.unregister(fd)
                    os.close(fd)

    def close(self) -> None:
        os.close(self._end)
        self.join()
        self.agent.server.close()
        os.close(self._leave)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    made = Answering(tmp_path / "agent.sock")
    made.start()
    yield made
    made.close()


NOTIFYING = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}


@pytest.mark.parametrize("privileges", [(), ("no-new-privileges",)])
async def test_agent_answers(
    answering: Answering,
    engine: Engine,
    busybox_image: str,
    write: Callable[[dict[str, Any]], str],
    privileges: tuple[str, ...],
) -> None:
    option = write(profile("SCMP_ACT_ALLOW", NOTIFYING, listenerPath=answering.path, listenerMetadata="mine"))
    spec = ContainerSpec(
        busybox_image,
        command=("sh", "-c", "mkdir /tmp/a; rmdir /none; sleep 60"),
        security_opt=(option, *privileges),
    )
    box = await engine.create(spec)
    await engine.start(box.id)
    box = await engine.container(box.id)
    said = await execute(engine, box.id, "mkdir /tmp/b 2>&1; ls -l /proc/self/fd 2>/dev/null | grep -c seccomp")
    assert said == [f"mkdir: can't create directory '/tmp/b': {REFUSED}", "0"]
    lines: list[str] = []

    async def both() -> bool:
        lines[:] = [line.text async for line in engine.logs(box.id)]
        return len(lines) >= 2

    await until(both)
    assert lines[0] == f"mkdir: can't create directory '/tmp/a': {REFUSED}"
    assert lines[1].startswith("rmdir: '/none': No such file")
    first, second = answering.messages
    assert first["fds"] == ["seccompFd"]
    assert first["metadata"] == "mine"
    assert first["pid"] == first["state"]["pid"] == box.pid
    assert (first["state"]["id"], first["state"]["status"]) == (box.id, "creating")
    assert first["state"]["bundle"] == box.bundle
    assert second["pid"] not in (0, box.pid)
    assert (second["state"]["pid"], second["state"]["status"]) == (box.pid, "running")
    await engine.remove(box.id, force=True)


async def test_no_agent(
    engine: Engine, busybox_image: str, write: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    """Its calls would wait for nobody: it does not start, and nothing of it stays (the oracle looks)."""
    option = write(profile("SCMP_ACT_ALLOW", NOTIFYING, listenerPath=str(tmp_path / "nobody.sock")))
    box = await engine.create(ContainerSpec(busybox_image, command=("true",), security_opt=(option,)))
    with pytest.raises(StartFailed, match=r"cannot hand the seccomp listener to .*nobody.sock: No such file"):
        await engine.start(box.id)
    await engine.remove(box.id)


async def test_agent_that_goes_while_the_container_runs(
    answering: Answering, engine: Engine, busybox_image: str, write: Callable[[dict[str, Any]], str]
) -> None:
    option = write(profile("SCMP_ACT_ALLOW", NOTIFYING, listenerPath=answering.path))
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "60"), security_opt=(option,)))
    await engine.start(box.id)
    assert (await execute(engine, box.id, "mkdir /tmp/b"))[0].endswith(REFUSED)
    os.unlink(answering.path)
    with pytest.raises(StartFailed, match="cannot hand the seccomp listener"):
        await execute(engine, box.id, "mkdir /tmp/b")
    assert (await engine.container(box.id)).state.value == "running"
    await engine.remove(box.id, force=True)
