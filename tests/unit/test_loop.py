"""The event loop of launcher, monitor, proxy and uplink: what it keeps, and whose events are whose."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.dns.forward import MOST, Forwarder
from core.dns.server import Server
from core.dns.zone import Zone
from core.supervise.loop import READ, Loop, Timer
from tests.dnslab import CID, Names, pair, question


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_an_event_of_a_closed_file_is_not_that_of_the_next_with_its_number(loop: Loop) -> None:
    heard: list[int] = []
    with contextlib.ExitStack() as held:
        (one, its_peer), (two, its_other), (quiet, _) = [
            [held.enter_context(each) for each in socket.socketpair()] for _ in range(3)
        ]

        def first(other: socket.socket) -> None:
            """Whichever comes first closes the other, whose number then is that of a file on which nothing happens."""
            for end in (one, two):
                loop.unwatch(end.fileno())
            os.dup2(quiet.fileno(), other.fileno())
            loop.watch(other.fileno(), heard.append)
            loop.after(0.05, loop.stop)

        loop.watch(one.fileno(), lambda events: first(two))
        loop.watch(two.fileno(), lambda events: first(one))
        its_peer.close()
        its_other.close()
        loop.run()
    assert heard == []


def test_cancelled_timers_take_no_room(loop: Loop) -> None:
    gc.collect()
    kept = loop.after(50, lambda: None)
    for _ in range(20_000):
        loop.after(60, lambda: None).cancel()
    assert sum(type(each) is Timer for each in gc.get_objects()) < 500
    ran: list[int] = []
    loop.after(0.01, lambda: ran.append(1))
    loop.after(0.02, loop.stop)
    kept.cancel()
    loop.run()
    kept.cancel()
    assert ran == [1]


def test_output_has_its_turn_between_questions_over_tcp(loop: Loop, tmp_path: Path) -> None:
    """However many of them come at once: the monitor has more to do than to answer them."""
    names = Names(tmp_path)
    names.network("back", {"db": ["172.28.0.2"]})
    names.container("back")
    udp, tcp = pair()
    packet = question("db")
    with udp, tcp, socket.create_connection(tcp.getsockname()) as client:
        client.sendall((len(packet).to_bytes(2, "big") + packet) * 4000)
        server = Server(loop, udp, tcp, Zone(str(tmp_path), CID))
        answered, rounds = [0], []
        answer = server._streams.ask

        def counted(data: bytes, done: object) -> bool:
            answered[0] += 1
            return answer(data, done)  # type: ignore[arg-type]

        server._streams.ask = counted
        reading, writing = os.pipe()
        os.write(writing, b"!")  # output, always

        def output(events: int) -> None:
            rounds.append(answered[0])
            answered[0] = 0
            with contextlib.suppress(BlockingIOError):
                client.recv(1 << 20, socket.MSG_DONTWAIT)
            if sum(rounds) == 4000:
                loop.stop()

        loop.watch(reading, output, READ)
        loop.after(20, loop.stop)
        loop.run()
        server.close()
        os.close(reading)
        os.close(writing)
    assert sum(rounds) == 4000
    assert max(rounds) <= 400, max(rounds)


def test_questions_leave_descriptors_to_the_monitor(loop: Loop) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        assert Forwarder(loop)._most == 64
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, before[1]), before[1]))
        assert Forwarder(loop)._most == MOST
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
