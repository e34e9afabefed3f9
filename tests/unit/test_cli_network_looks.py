"""Tables and trees about networks on narrow terminals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.cli.connections import _fitted, _row
from core.cli.network_check import _Paper
from core.cli.network_map import tree
from core.model import (
    Connection,
    EndpointInfo,
    MapPlace,
    MapPort,
    NetStep,
    Network,
    NetworkMap,
    PortMapping,
    Reach,
    State,
    Subnet,
)
from core.model.netlook import rate

LINE = Connection("c" * 64, "tcp", "10.0.0.2", 80, "2001:db8::7", 4711, "established", 100.0, sent=5000, received=10)


def test_rates() -> None:
    assert rate(10, 30, 2.0) == 10.0
    assert rate(30, 10, 2.0) == 0  # it began anew
    assert rate(None, 10, 2.0) is None
    assert rate(10, 30, 0.0) is None


def test_a_row_of_connections() -> None:
    row = _row(replace(LINE, time=102.0, sent=7000), "web", LINE)
    assert (row["Remote"], row["SentRate"], row["ReceivedRate"], row["Sent"]) == (
        "[2001:db8::7]:4711", "1kB", "0B", "7kB",
    )  # fmt: skip
    first = _row(replace(LINE, sent=None, process="a\x1b[2Jb\n"), "web", None)
    assert (first["Sent"], first["SentRate"], first["Process"]) == ("--", "--", "a\\x1b[2Jb\\n")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_long_names_give_way(width: int) -> None:
    heads = ["NAME", "LOCAL", "REMOTE", "STATE", "PROCESS", "SENT", "RCVD"]
    line = ["a-container-with-a-long-name", "65535/tcp", "another-one-with-a-name:65535", "established",
            "some-process/4194304", "123.4MB", "123.4MB"]  # fmt: skip
    for text in _fitted([heads, line], width):
        assert len(text) <= max(width, 76)
        assert ("…" in text) == (width < 120 and text.startswith("a-"))


def test_the_tree() -> None:
    network = Network("a" * 64, "web", "bridge", 0.0, (Subnet("10.0.0.0/24"),), "wh0", internal=True)
    port = PortMapping(80, 8080)
    end = EndpointInfo("web", "10.0.0.2", aliases=("db", "\x1b[2J"))
    who = Reach("one", port, "lan", (), "")
    places = (
        MapPlace("1", "one", State.RUNNING, end, "", (MapPort(port, who), MapPort(PortMapping(53, 53, "udp", "::1")))),
        MapPlace("2", "two", State.RUNNING, None, "one"),
        MapPlace("3", "three", State.EXITED, ports=(MapPort(PortMapping(81)),)),
    )
    assert tree([NetworkMap(network, places)]) == [
        "web  bridge, 10.0.0.0/24, internal",
        "├─ one             10.0.0.2  eth0  db, \\x1b[2J",
        "│  ├─ *:8080 → 80/tcp  the LAN",
        "│  └─ [::1]:53 → 53/udp",
        "├─ two             shares the network of one",
        "└─ three (exited)",
        "   └─ *:? → 81/tcp",
    ]
    assert tree([NetworkMap(network, places[2:])], stopped=False) == ["web  bridge, 10.0.0.0/24, internal"]


def test_a_range_of_ports_is_one_line() -> None:
    network = Network("a" * 64, "web", "bridge", 0.0, (Subnet("10.0.0.0/24"),), "wh0")
    both = [PortMapping(1000 + n, 20000 + n, "tcp", ip) for n in range(1000) for ip in ("", "::")]
    near = PortMapping(2000, 21000)  # the next one, but others reach it
    ports = [MapPort(port, Reach("one", port, "lan", (), f"element {port.host_port}")) for port in both]
    ports += [MapPort(near, Reach("one", near, "host", (), "")), MapPort(PortMapping(2001, 21002))]
    waiting = tuple(MapPort(PortMapping(number, 0, "udp")) for number in (7, 8, 9, 53))
    end = EndpointInfo("web", "10.0.0.2")
    places = (
        MapPlace("1", "one", State.RUNNING, end, "", tuple(ports)),
        MapPlace("2", "two", State.EXITED, ports=waiting),
    )
    assert tree([NetworkMap(network, places)])[2:] == [
        "│  ├─ *:20000-20999 → 1000-1999/tcp  the LAN",
        "│  ├─ *:21000 → 2000/tcp  this host",
        "│  ├─ *:21002 → 2001/tcp",
        "│  └─ [::]:20000-20999 → 1000-1999/tcp  the LAN",
        "└─ two (exited)",
        "   ├─ *:? → 7-9/udp",
        "   └─ *:? → 53/udp",
    ]


def test_what_a_check_says_fits() -> None:
    paper = _Paper(quiet=False, width=80, color=False)
    words = "it goes by 10.89.6.9 on eth0, not by 10.89.6.1 on eth0, which is the gateway of the network web"
    steps = [
        NetStep(
            "container \x1b[2J", "default route", "broken", words, "nsenter -t 4194304 -n ip route replace default"
        ),
        NetStep("container \x1b[2J", "port [2001:db8::1]:65535/tcp", "ok", words),
    ]
    lines = [line for step in steps for line in "\n".join(paper.step(step)).splitlines()]
    assert lines[0] == "container \\x1b[2J"
    assert lines[1].startswith("  broken   default route        it goes by")
    assert all(len(line) <= 80 for line in [*lines, *paper.summary(steps)])
    assert paper.summary(steps)[1].startswith("first broken: container \\x1b[2J, default route: it goes by")
    assert paper.summary(steps[1:])[-1] == "no link is broken"
