"""The resolver's questions upstream: whom it asks, whom it believes, what it does when nobody answers."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.dnslab import COMES, TXT, Names, Upstream, over_tcp, over_udp, question, serving, told
from tests.patience import patience

SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5
TC = 0x0200


@pytest.fixture
def names(tmp_path: Path) -> Names:
    made = Names(tmp_path)
    made.network("back", {"db": ["172.28.0.2"]})
    made.container("back", servers=["127.0.0.1"])
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def simple(data: bytes, stream: bool) -> list[bytes]:
    return [told(data, "192.0.2.1")]


def test_what_is_not_ours_is_asked_for(names: Names, stack: ExitStack) -> None:
    upstream = stack.enter_context(Upstream(simple))
    to = stack.enter_context(serving(Path(names.run), port=upstream.port))
    for name in ("example.com", "eXaMpLe.CoM", "single"):  # a single label too, as Docker does
        for found in (over_udp(to, question(name)), over_tcp(to, question(name))[0]):
            assert (found.number, found.values, found.asked[0][0]) == (0x1234, ["192.0.2.1"], name)
    assert not over_udp(to, question("example.com")).flags & 0x0400  # not ours to decide
    before = len(upstream.seen)
    assert over_udp(to, question("db")).values == ["172.28.0.2"]
    assert over_udp(to, question("db", TXT)).records == []
    assert len(upstream.seen) == before  # what is ours is nobody else's affair


def test_ids_and_ports_cannot_be_guessed(names: Names, stack: ExitStack) -> None:
    upstream = stack.enter_context(Upstream(simple))
    to = stack.enter_context(serving(Path(names.run), port=upstream.port))
    for _ in range(60):
        over_udp(to, question("example.com"))
    assert len({number for _, number, _ in upstream.seen}) > 55
    assert len({peer[1] for _, _, peer in upstream.seen}) > 40


def test_only_the_right_answer_is_believed(names: Names, stack: ExitStack) -> None:
    def liar(data: bytes, stream: bool) -> list[bytes]:
        wrong = told(data, "203.0.113.66")
        other = told(question("other.com", number=int.from_bytes(data[:2], "big")), "203.0.113.66")
        number = bytes([data[0] ^ 1]) + wrong[1:]
        kind = bytearray(wrong)
        kind[12 + len("example.com") + 2 + 1] = 28
        return [number, other, bytes(kind), data, b"", wrong[:11], told(data, "192.0.2.1")]

    upstream = stack.enter_context(Upstream(liar))
    to = stack.enter_context(serving(Path(names.run), port=upstream.port, timeout=3))
    assert over_udp(to, question("example.com")).values == ["192.0.2.1"]
    server = (to[0], upstream.port)
    # Nor from anybody but the server that was asked.
    quiet = stack.enter_context(Upstream(lambda data, stream: [], address="127.0.0.7", port=upstream.port))
    names.container("back", servers=["127.0.0.7"])
    result: list[int] = []
    asking = threading.Thread(target=lambda: result.append(over_udp(to, question("example.com")).code))
    asking.start()
    while not quiet.seen:
        time.sleep(0.01)
    _, number, asker = quiet.seen[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        forger.bind((server[0], 0))
        forger.sendto(told(question("example.com", number=number), "203.0.113.66"), asker)
    asking.join()
    assert result == [SERVFAIL]


def test_the_next_server_is_asked_and_a_dead_one_remembered(names: Names, stack: ExitStack) -> None:
    silent = stack.enter_context(Upstream(lambda data, stream: []))
    good = stack.enter_context(Upstream(simple, address="127.0.0.2", port=silent.port))
    names.container("back", servers=["127.0.0.1", "127.0.0.2"])
    to = stack.enter_context(serving(Path(names.run), port=silent.port, timeout=1))
    took = []
    for _ in range(5):
        begun = time.monotonic()
        assert over_udp(to, question("example.com")).values == ["192.0.2.1"]
        took.append(time.monotonic() - begun)
    assert min(took[:2]) > 0.99
    assert (len(silent.seen), len(good.seen)) == (2, 5)


def test_nobody_listens_there(names: Names, stack: ExitStack) -> None:
    """A refusal comes at once: no timeout is waited for."""
    good = stack.enter_context(Upstream(simple, address="127.0.0.2"))
    to = stack.enter_context(serving(Path(names.run), port=good.port, timeout=60))
    for servers in (["127.0.0.3", "127.0.0.2"], ["not an address", "localhost", "127.0.0.2"], ["::1", "127.0.0.2"]):
        names.container("back", servers=servers)
        assert over_udp(to, question("example.com")).values == ["192.0.2.1"]
    names.container("back", servers=["127.0.0.3"])
    assert over_udp(to, question("example.com")).code == SERVFAIL
    assert over_tcp(to, question("example.com"))[0].code == SERVFAIL


@pytest.mark.parametrize("code", [SERVFAIL, REFUSED])
def test_a_server_that_cannot(names: Names, stack: ExitStack, code: int) -> None:
    bad = stack.enter_context(Upstream(lambda data, stream: [told(data, code=code)]))
    names.container("back", servers=["127.0.0.1", "127.0.0.2"])
    to = stack.enter_context(serving(Path(names.run), port=bad.port))
    assert over_udp(to, question("example.com")).code == code  # of all answers that came the best
    stack.enter_context(Upstream(simple, address="127.0.0.2", port=bad.port))
    assert over_udp(to, question("example.com")).values == ["192.0.2.1"]


def test_no_such_name_is_an_answer(names: Names, stack: ExitStack) -> None:
    first = stack.enter_context(Upstream(lambda data, stream: [told(data, code=NXDOMAIN)]))
    second = stack.enter_context(Upstream(simple, address="127.0.0.2", port=first.port))
    names.container("back", servers=["127.0.0.1", "127.0.0.2"])
    to = stack.enter_context(serving(Path(names.run), port=first.port))
    assert over_udp(to, question("example.com")).code == NXDOMAIN
    assert not second.seen


def test_truncated_answers(names: Names, stack: ExitStack) -> None:
    many = [f"192.0.2.{number}" for number in range(1, 101)]

    def honest(data: bytes, stream: bool) -> list[bytes]:
        return [told(data, *many) if stream else told(data, flags=TC)]

    upstream = stack.enter_context(Upstream(honest))
    to = stack.enter_context(serving(Path(names.run), port=upstream.port))
    assert over_udp(to, question("example.com")).truncated
    assert [each[0] for each in upstream.seen] == ["udp"]
    found = over_tcp(to, question("example.com"))[0]
    assert (found.truncated, found.values) == (False, many)
    assert [each[0] for each in upstream.seen] == ["udp", "udp", "tcp"]
    # One that sends more than was asked for: the client gets what it can take.
    upstream.reply = lambda data, stream: [told(data, *many)]
    cut = over_udp(to, question("example.com"))
    assert (cut.truncated, cut.records, cut.size <= 512) == (True, [], True)
    whole = over_udp(to, question("example.com", edns=4096))
    assert (whole.truncated, whole.values) == (False, many)
    # And one without TCP.
    upstream.reply = lambda data, stream: [] if stream else [told(data, flags=TC)]
    assert over_tcp(to, question("example.com"))[0].code == SERVFAIL


def test_internal_networks_lead_nowhere(names: Names, stack: ExitStack) -> None:
    upstream = stack.enter_context(Upstream(simple))
    names.network("inner", {"db": ["172.29.0.2"]}, internal=True)
    names.container("inner", servers=["127.0.0.1"])
    to = stack.enter_context(serving(Path(names.run), port=upstream.port))
    assert over_udp(to, question("example.com")).code == SERVFAIL
    assert over_udp(to, question("db")).values == ["172.29.0.2"]
    names.container("unknown", servers=["127.0.0.1"])  # nobody knows whether it is one
    assert over_udp(to, question("example.com")).code == SERVFAIL
    assert not upstream.seen
    names.container("inner", "back", servers=["127.0.0.1"])  # one way out is enough
    assert over_udp(to, question("example.com")).values == ["192.0.2.1"]


def test_questions_under_way_are_bounded(names: Names, stack: ExitStack) -> None:
    upstream = stack.enter_context(Upstream(lambda data, stream: []))
    to = stack.enter_context(serving(Path(names.run), port=upstream.port, timeout=patience(60), most=20))
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect(to)
    sock.settimeout(COMES)
    for number in range(50):
        sock.send(question("example.com", number=number))
    refused = {int.from_bytes(sock.recv(1000)[:2], "big") for _ in range(30)}
    assert refused == set(range(20, 50))
    assert over_udp(to, question("db")).values == ["172.28.0.2"]
    end = time.monotonic() + COMES
    while len(upstream.seen) < 20 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(upstream.seen) == 20


def test_the_hosts_servers_as_they_are_now(names: Names, stack: ExitStack, tmp_path: Path) -> None:
    """A laptop that goes from one network to another: nobody has to rewrite anything for containers that run."""
    upstream = stack.enter_context(Upstream(simple, address="127.0.0.2"))
    names.container("back")
    host = tmp_path / "resolv.conf"
    to = stack.enter_context(serving(Path(names.run), port=upstream.port, host=str(host)))
    assert over_udp(to, question("example.com")).code == SERVFAIL
    host.write_text("search x\nnameserver 127.0.0.3\n")
    assert over_udp(to, question("example.com")).code == SERVFAIL
    host.write_text("# changed\nnameserver 127.0.0.2\nnameserver\noptions ndots:2\n")
    assert over_udp(to, question("example.com")).values == ["192.0.2.1"]


def test_a_resolver_upstream_at_our_own_address(names: Names, stack: ExitStack) -> None:
    """Where the host is a container, its resolver is at 127.0.0.11: it is asked once, and nothing goes round."""
    outer = stack.enter_context(Upstream(simple, address="127.0.0.11"))
    names.container("back", servers=["127.0.0.11"])
    to = stack.enter_context(serving(Path(names.run), port=outer.port))
    assert over_udp(to, question("example.com")).values == ["192.0.2.1"]
    assert len(outer.seen) == 1


def test_garbage_from_upstream(names: Names, stack: ExitStack) -> None:
    dice = random.Random(22)

    def mad(data: bytes, stream: bool) -> list[bytes]:
        good = bytearray(told(data, "192.0.2.1", "192.0.2.2"))
        for _ in range(dice.randrange(6)):
            good[dice.randrange(2, len(good))] = dice.randrange(256)
        return [dice.randbytes(dice.randrange(60)), data[:2] + dice.randbytes(dice.randrange(60)), bytes(good)]

    upstream = stack.enter_context(Upstream(mad))
    to = stack.enter_context(serving(Path(names.run), port=upstream.port, timeout=0.02))
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect(to)
    sock.settimeout(COMES)
    for number in range(200):
        sock.send(question("example.com", number=number))
        assert int.from_bytes(sock.recv(65535)[:2], "big") == number
        if number % 10 == 0:
            with socket.create_connection(to, COMES) as stream:
                packet = question("example.com", number=number)
                stream.sendall(len(packet).to_bytes(2, "big") + packet)
                assert stream.recv(4)[2:] == number.to_bytes(2, "big")
