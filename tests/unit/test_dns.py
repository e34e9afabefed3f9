"""The resolver: names of the container's networks, over UDP and TCP, as clients of all kinds ask for them."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import struct
import time
from pathlib import Path

import pytest

from core.dns import wire, zone
from core.dns.zone import Zone, choose
from tests.dnslab import (
    AAAA,
    ANY,
    CID,
    COMES,
    MX,
    PTR,
    SVCB,
    A,
    Names,
    labels,
    over_tcp,
    over_udp,
    put,
    question,
    read,
    serving,
)

NOERROR, FORMERR, SERVFAIL, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 4, 5, 16
MANY = [f"172.28.1.{number}" for number in range(1, 101)]


@pytest.fixture
def names(tmp_path: Path) -> Names:
    made = Names(tmp_path)
    made.network(
        "back",
        {
            "db": ["172.28.0.2", "fd00::2"],
            "aaaaaaaaaaaa": ["172.28.0.2", "fd00::2"],
            "web": ["172.28.0.3", "172.28.0.4", "172.28.0.5"],
            "many": MANY,
            "old.name": ["172.28.0.9"],
        },
        internal=True,
    )
    made.container("back")
    return made


def test_addresses_and_types(names: Names) -> None:
    with serving(Path(names.run)) as to:
        for name in ("db", "db.back", "DB", "dB.bAcK"):
            found = over_udp(to, question(name))
            assert (found.code, found.values, found.asked) == (NOERROR, ["172.28.0.2"], [(name, A)])
            assert found.records[0][0] == name  # the letters as they were asked
            assert over_udp(to, question(name, AAAA)).values == ["fd00::2"]
            assert sorted(over_udp(to, question(name, ANY)).values) == ["172.28.0.2", "fd00::2"]
        for name, kind in (("web", AAAA), ("db", MX), ("db", SVCB), ("old.name", AAAA)):
            none = over_udp(to, question(name, kind))
            assert (none.code, none.records) == (NOERROR, [])  # it exists, but has nothing of the kind
        assert over_udp(to, question("old.name.back")).values == ["172.28.0.9"]
        flags = over_udp(to, question("db")).flags
        assert flags & 0x8580 == 0x8580  # an answer, authoritative, recursion wanted and available


def test_reverse(names: Names) -> None:
    with serving(Path(names.run)) as to:
        for address in ("172.28.0.2", "fd00::2"):
            pointer = ipaddress.ip_address(address).reverse_pointer
            assert over_udp(to, question(pointer, PTR)).values == ["db.back"]
            assert over_udp(to, question(pointer.upper(), PTR)).values == ["db.back"]
            assert over_udp(to, question(pointer, A)).code == NOERROR
        assert over_udp(to, question("99.0.28.172.in-addr.arpa", PTR)).code == SERVFAIL  # not ours, and nobody to ask


def test_rotation(names: Names) -> None:
    with serving(Path(names.run)) as to:
        firsts = []
        for _ in range(6):
            found = over_udp(to, question("web")).values
            assert sorted(found) == ["172.28.0.3", "172.28.0.4", "172.28.0.5"]
            over_udp(to, question("web", AAAA))  # what every getaddrinfo() asks next must not spoil the turn
            firsts.append(found[0])
    assert sorted(firsts) == sorted(2 * ["172.28.0.3", "172.28.0.4", "172.28.0.5"])


def test_truncation_and_edns(names: Names) -> None:
    with serving(Path(names.run)) as to:
        short = over_udp(to, question("many"))
        assert short.truncated
        assert 0 < len(short.records) < 100
        assert short.size <= 512
        assert short.opt is None
        middle = over_udp(to, question("many", edns=1232))
        assert (middle.truncated, middle.opt is not None) == (True, True)
        assert 512 < middle.size <= 1232
        assert middle.opt is not None
        assert middle.opt[1] & 0x8000  # DO, as asked
        assert over_udp(to, question("many", edns=100)).size <= 512  # less than everyone has to take
        whole = over_udp(to, question("many", edns=4096))
        assert (whole.truncated, len(whole.records)) == (False, 100)
        (whole,) = over_tcp(to, question("many"))
        assert (whole.truncated, sorted(whole.values)) == (False, sorted(MANY))
        bad = over_udp(to, question("db", edns=1232, version=1))
        assert (bad.code, bad.records, bad.asked) == (BADVERS, [], [("db", A)])


def test_what_is_refused(names: Names) -> None:
    plain = question("db")
    two = plain[:4] + b"\0\2" + plain[6:] + plain[12:]
    double_opt = question("db", edns=1232)
    double_opt = double_opt[:10] + b"\0\2" + double_opt[12:] + double_opt[-11:]
    cases = {
        two: FORMERR,
        plain[:4] + b"\0\0" + plain[6:12]: FORMERR,
        plain[:-1]: FORMERR,
        plain[:12] + b"\xc0\x0c\0\1\0\1": FORMERR,  # a name that points to itself
        plain[:12] + b"\x40" + b"x" * 64 + b"\0\0\1\0\1": FORMERR,
        plain[:12] + (b"\x3f" + b"x" * 63) * 4 + b"\0\0\1\0\1": FORMERR,  # 256 bytes
        double_opt: FORMERR,
        question("db", edns=1232)[:-1]: FORMERR,
        plain[:2] + b"\x28\0" + plain[4:]: NOTIMP,  # an update
        plain[:2] + b"\x10\0" + plain[4:]: NOTIMP,  # a status request
        question("version.bind", 16, what=3): REFUSED,
        question("db", what=255): REFUSED,
        question("back", 252): REFUSED,  # a transfer of the zone
    }
    with serving(Path(names.run)) as to:
        for packet, code in cases.items():
            for found in (over_udp(to, packet), over_tcp(to, packet)[0]):
                assert (found.code, found.records, found.number) == (code, [], 0x1234), packet
        assert over_udp(to, question("." * 0)).code == SERVFAIL  # the root is not ours


def test_many_questions_on_one_connection(names: Names) -> None:
    with serving(Path(names.run)) as to:
        packets = [question("db", number=number) for number in range(3000)]
        found = over_tcp(to, *packets)
        assert [each.number for each in found] == list(range(3000))
        assert {tuple(each.values) for each in found} == {("172.28.0.2",)}
        with socket.create_connection(to, COMES) as slow:
            for byte in len(packets[1]).to_bytes(2, "big") + packets[1]:
                slow.sendall(bytes([byte]))
            slow.shutdown(socket.SHUT_WR)
            assert read(slow.recv(1000)[2:]).number == 1
            assert slow.recv(1) == b""


def test_a_client_that_does_not_read_costs_nobody_else(names: Names) -> None:
    with serving(Path(names.run)) as to, socket.create_connection(to, COMES) as greedy:
        greedy.setblocking(False)
        data = len(packet := question("many")).to_bytes(2, "big") + packet
        sent, end = 0, time.monotonic() + COMES
        while time.monotonic() < end:
            try:
                sent += greedy.send(data * 100)
            except BlockingIOError:
                break
        assert time.monotonic() < end, f"{sent} bytes of questions were taken, and no answer was"
        assert over_tcp(to, question("db"))[0].values == ["172.28.0.2"]


def test_connections_are_bounded(names: Names) -> None:
    with serving(Path(names.run)) as to:
        held = [socket.create_connection(to, COMES) for _ in range(100)]
        try:
            assert over_tcp(to, question("db"))[0].values == ["172.28.0.2"]
            assert held[0].recv(1) == b""  # the one that was longest without use has gone
            held[-1].sendall(len(packet := question("db")).to_bytes(2, "big") + packet)
            assert read(held[-1].recv(1000)[2:]).values == ["172.28.0.2"]
        finally:
            for sock in held:
                sock.close()


def test_files_are_followed(names: Names) -> None:
    """From one question to the next, however fast they are replaced, and whatever was there."""
    with serving(Path(names.run)) as to:
        for number in range(2, 200):
            names.network("back", {"db": [f"172.28.0.{number}"]})
            assert over_udp(to, question("db")).values == [f"172.28.0.{number}"]
        put(zone.network_file(names.run, "back"), "{ not json")
        assert over_udp(to, question("db")).values == ["172.28.0.199"]  # the last good one
        put(zone.network_file(names.run, "back"), "[]")
        assert over_udp(to, question("db")).values == ["172.28.0.199"]
        os.unlink(zone.network_file(names.run, "back"))
        assert over_udp(to, question("db")).code == SERVFAIL
        names.network("front", {"db": ["172.29.0.1"], "x": ["172.29.0.2"]})
        names.container("back", "front")
        assert over_udp(to, question("db")).values == ["172.29.0.1"]
        names.network("back", {"db": ["172.28.0.7"]})
        assert over_udp(to, question("db")).values == ["172.28.0.7"]  # the first network has it
        assert over_udp(to, question("db.front")).values == ["172.29.0.1"]
        assert over_udp(to, question("x")).values == ["172.29.0.2"]
        names.container("front")
        assert over_udp(to, question("db")).values == ["172.29.0.1"]
        for path in Path(names.run, "dns").iterdir():
            path.unlink()
        Path(names.run, "dns").rmdir()
        assert over_udp(to, question("db")).code == SERVFAIL
        names.network("front", {"db": ["172.29.0.8"]})
        names.container("front")
        assert over_udp(to, question("db")).values == ["172.29.0.8"]


def test_a_change_is_seen_when_the_folder_was_quiet(names: Names) -> None:
    found = Zone(names.run, CID)
    found.refresh()
    time.sleep(0.1)
    found.refresh()
    for number in range(2, 50):
        names.network("back", {"db": [f"172.28.0.{number}"]})
        found.refresh()
        assert choose(found.find(labels("db")) or {}, A) == [wire.record(A, bytes([172, 28, 0, number]))]
        time.sleep(0.06 if number % 10 == 0 else 0)
    found.close()


def test_links_and_hosts(names: Names) -> None:
    names.container(
        "back", links={"database": "db", "web": "db", "gone": "nobody"}, hosts={"db": ["192.0.2.7"], "bad": ["x"]}
    )
    with serving(Path(names.run)) as to:
        assert over_udp(to, question("database")).values == ["172.28.0.2"]
        assert over_udp(to, question("web")).values == ["172.28.0.2"]  # the container's own word for it
        assert over_udp(to, question("db")).values == ["192.0.2.7"]
        assert over_udp(to, question("db.back")).values == ["172.28.0.2"]
        for name in ("gone", "bad"):
            assert over_udp(to, question(name)).code == SERVFAIL
        assert over_udp(to, question("2.0.28.172.in-addr.arpa", PTR)).values == ["db.back"]


@pytest.mark.parametrize(
    "content",
    [
        {"names": {"a" * 64: ["172.28.0.2"], "..": ["172.28.0.2"], "": ["172.28.0.2"], "ok": ["172.28.0.3"]}},
        {"names": {"x": "172.28.0.2", "y": [7, None, "300.1.1.1", "::g", "fe80::1%eth0"], "ok": ["172.28.0.3"]}},
        {"name": 7, "names": {"ok": ["172.28.0.3"]}, "internal": "yes"},
        {"name": "b" * 250, "names": {"ok": ["172.28.0.3"]}},
    ],
)
def test_strange_files(names: Names, content: dict[str, object]) -> None:
    put(zone.network_file(names.run, "back"), content)
    names.container("back", "../back", "../../etc/passwd", servers="x", links=["a"], hosts={"h": 5})
    with serving(Path(names.run)) as to:
        # A title with which no name can be made leaves the short name.
        assert over_udp(to, question("ok")).values == ["172.28.0.3"]
        assert over_udp(to, question("x")).code == SERVFAIL


def test_garbage_never_hurts(names: Names) -> None:
    """Random packets, and good ones with random damage: no exception, no answer without a header, each answer whole."""
    dice = random.Random(20)
    good = [
        question("db"),
        question("many", ANY, edns=1232),
        question("a.b.c", PTR),
        question("db", edns=4096, version=2),
    ]
    with serving(Path(names.run)) as to, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(COMES)
        sock.connect(to)
        for turn in range(6000):
            packet = _damaged(dice, dice.choice(good)) if turn % 3 else dice.randbytes(dice.randrange(80))
            packet = b"\xab\xcd" + packet[2:] if len(packet) >= 2 else packet
            sock.send(packet)
            sock.send(question("db", number=turn))
            found = read(sock.recv(65535))
            if found.number == 0xABCD and turn != 0xABCD:
                assert len(packet) >= 12
                assert not packet[2] & 0x80
                assert found.flags & 0x8000
                found = read(sock.recv(65535))
            assert (found.number, found.values) == (turn, ["172.28.0.2"]), packet


def test_garbage_over_tcp(names: Names) -> None:
    dice = random.Random(21)
    good = question("many", edns=1232)
    with serving(Path(names.run)) as to:
        for _ in range(300):
            with socket.create_connection(to, COMES) as sock:
                packet = _damaged(dice, good)
                sock.sendall(dice.choice([len(packet).to_bytes(2, "big") + packet, packet, dice.randbytes(50)]))
        assert over_tcp(to, question("db"))[0].values == ["172.28.0.2"]
        answer = bytes([0, 1, 0x81, 0x80]) + bytes(8)
        with socket.create_connection(to, COMES) as sock:
            sock.sendall(len(answer).to_bytes(2, "big") + answer)
            assert sock.recv(1) == b""  # an answer is no question: hung up


def _damaged(dice: random.Random, packet: bytes) -> bytes:
    data = bytearray(packet)
    for _ in range(dice.randrange(1, 6)):
        data[dice.randrange(len(data))] = dice.choice([0, 0xC0, 0xFF, dice.randrange(256)])
    return bytes(data[: dice.choice([len(data), dice.randrange(len(data))])])


@pytest.mark.parametrize("address", ["172.28.0.2", "fd00::2", "2001:db8::a:b"])
def test_reverse_names_as_the_library_makes_them(address: str) -> None:
    found = ipaddress.ip_address(address)
    assert wire.reverse(found.packed) == labels(found.reverse_pointer)
    assert wire.address(address) == ((AAAA if found.version == 6 else A), found.packed)


def test_a_cut_answer_counts_what_is_in_it(names: Names) -> None:
    query = wire.parse(question("many"))
    assert query is not None
    record = wire.record(A, bytes(4))
    for limit in range(22, 120):
        found = read(wire.answer(query, [record] * 5, limit=limit))
        assert found.size <= limit
        assert found.truncated == (len(found.records) < 5)
    assert struct.unpack_from("!H", wire.answer(query), 6) == (0,)


def test_answers_that_are_kept_are_those_of_now(names: Names) -> None:
    """The same question again and again, with other names between, more than are kept."""
    with serving(Path(names.run)) as to:
        for turn in range(2, 12):
            names.network("back", {f"n{number}": [f"172.28.{turn}.{number}"] for number in range(256)}, internal=True)
            for number in (0, 7, 255, 7, *range(256)) if turn == 5 else (0, 7, 255, 7):
                for edns in (0, 1232):
                    found = over_udp(to, question(f"N{number}", number=turn, edns=edns))
                    assert (found.number, found.values) == (turn, [f"172.28.{turn}.{number}"])
                    assert (found.opt is not None) == bool(edns)
            assert over_udp(to, question("N7", AAAA)).records == []
            assert over_udp(to, question("m7")).code == SERVFAIL
