"""Messages between engine, launcher and monitors: descriptors in batches, quick answers, silent clients; and what a
monitor writes down on a disk that is full."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.model.container import LogOptions, RestartPolicy
from core.store.paths import Instance
from core.supervise import paper, protocol, sockets
from core.supervise.contact import Line
from core.supervise.launching import Launching
from core.supervise.listen import Reception
from core.supervise.loop import Loop
from core.supervise.protocol import Launch, Message
from core.supervise.records import ExitRecord, load_exit, write_exit
from core.supervise.rundir import RunDir
from tests.patience import patience


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("count", [0, 1, 253, 254, 1000])
async def test_descriptors_come_in_order(count: int) -> None:
    """More than one message can carry (SCM_MAX_FD is 253), by the blocking and the asynchronous side."""
    pipes = [os.pipe() for _ in range(3)]
    fds = [pipes[number % 3][0] for number in range(count)]
    expected = [os.fstat(fd).st_ino for fd in fds]
    message: Message = {"names": [str(number) for number in range(count)]}
    one, other = socket.socketpair()
    with one, other:
        sending = threading.Thread(target=protocol.send, args=(one, message, fds))
        sending.start()
        got, copies = protocol.receive(other)
        sending.join()
        assert (got, [os.fstat(fd).st_ino for fd in copies]) == (message, expected)
        protocol.close_all(copies)
        for sock in (one, other):
            sock.setblocking(False)
        await Line(one).send(message, fds)
        got, copies = await Line(other).receive()
        assert (got, [os.fstat(fd).st_ino for fd in copies]) == (message, expected)
        protocol.close_all(copies)
    for pair in pipes:
        protocol.close_all(pair)


async def test_an_answer_that_came_before_the_question_was_read() -> None:
    one, other = socket.socketpair()
    with one:
        one.setblocking(False)
        with other:
            protocol.send(other, {"pid": 3})
        assert await Line(one).ask({"op": "exec"}, [0, 1, 2]) == ({"pid": 3}, [])


async def test_a_message_that_nobody_read_may_be_sent_again() -> None:
    one, other = socket.socketpair()
    with one:
        one.setblocking(False)
        await Line(one).send({"op": "launch"}, [0])
        other.close()
        with pytest.raises(ConnectionError):
            await Line(one).receive()


def test_silent_clients_delay_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    sockets.bind(listener, path)
    listener.listen(64)
    loop = Loop()

    def serve(message: Message, fds: list[int], sock: socket.socket) -> bool:
        protocol.send(sock, {"got": len(fds)})
        loop.stop()
        return False

    reception = Reception(loop, listener, serve)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for sock in silent:
        sockets.connect(sock, path)
        sock.send(b"\x03\x00")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(patience(10))
        sockets.connect(client, path)
        protocol.send(client, {"op": "x"}, [0, 1])
        loop.run()
        assert protocol.receive(client) == ({"got": 2}, [])
    reception.close()
    loop.close()
    for sock in silent:
        sock.close()


def test_without_descriptors_a_caller_waits_and_nobody_is_kept_busy(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    sockets.bind(listener, path)
    listener.listen(64)
    loop = Loop()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)

    def serve(message: Message, fds: list[int], sock: socket.socket) -> bool:
        protocol.send(sock, {"got": message["op"]})
        loop.stop()
        return False

    reception = Reception(loop, listener, serve)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(patience(10))
        sockets.connect(client, path)
        protocol.send(client, {"op": "x"})
        fds = [os.dup(0) for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(fds), limit[1]))
        try:
            loop.after(0.5, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit))
            begun = time.process_time()
            loop.run()
            busy = time.process_time() - begun
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            protocol.close_all(fds)
        assert protocol.receive(client) == ({"got": "x"}, [])
    assert busy < 0.1, busy
    reception.close()
    loop.close()


def test_a_full_disk_loses_no_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "containers"
    home.mkdir()
    loop = Loop()
    monkeypatch.setattr(paper, "_AGAIN", 0.01)
    writer = paper.Paper(loop, str(home / "exit.json"), loop.stop)
    writer.rundir = RunDir(str(tmp_path / "run"))
    tries = 0

    def full(path: str, record: ExitRecord) -> None:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_exit(path, record)

    monkeypatch.setattr(paper, "write_exit", full)
    record = ExitRecord(7, 0, False, 1.0, 2.0)
    writer.note_exit(record)
    assert writer.owes
    assert load_exit(home / "exit.json", tmp_path / "run") == record
    loop.run()
    assert (writer.owes, tries) == (False, 5)
    assert os.listdir(tmp_path / "run") == []
    assert load_exit(home / "exit.json", tmp_path / "run") == record
    loop.close()


async def test_a_launcher_that_leaves_after_it_has_read_the_launch(tmp_path: Path) -> None:
    """The next one is told all of it again."""
    inst = Instance(tmp_path / "root", tmp_path / "run")
    inst.prepare()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(inst.launcher_socket))
    listener.listen()
    left, told = threading.Event(), []

    def serve() -> None:
        first = listener.accept()[0]
        protocol.receive_payload(first)
        first.close()
        left.set()
        with listener.accept()[0] as second:
            told.extend(protocol.receive(second)[0] for _ in range(2))

    server = threading.Thread(target=serve)
    server.start()
    places = dict.fromkeys(("bundle", "run_dir", "upper", "work", "cgroup", "exit_path", "events", "engines"), "/none")
    launch = Launch(
        id="x", lower=(), log_path="", log=LogOptions(), restart=RestartPolicy(), attributes={}, **places
    )  # fmt: skip
    async with Launching(inst, launch) as monitor:
        await asyncio.to_thread(left.wait)
        await monitor.configure({"linux": {}}, b"filter")
        await asyncio.to_thread(server.join)
    listener.close()
    assert told[0]["op"] == "launch"
    assert told[1] == {"config": {"linux": {}}, "filter": "ZmlsdGVy"}
