"""From what the engine tells to the rows and lines that are printed, and what filters leave of them."""

from __future__ import annotations

import time

import pytest

from core.cli.command import parse_filters
from core.cli.events import line as event_line
from core.cli.events import matches
from core.cli.ps import select
from core.cli.stats import cpu_percent
from core.cli.views import container_row, image_rows, ports, status
from core.errors import InvalidArgument
from core.model import (
    Container,
    ContainerSpec,
    Event,
    Image,
    ImageConfig,
    PortMapping,
    Sample,
    State,
)


def test_filters() -> None:
    assert parse_filters(["a=1", "b=x=y", "a=2"], ("a", "b")) == {"a": ["1", "2"], "b": ["x=y"]}
    for wrong in ("a", "c=1"):
        with pytest.raises(InvalidArgument):
            parse_filters([wrong], ("a", "b"))


def box(number: int, **fields: object) -> Container:
    made = ContainerSpec("docker.io/library/nginx:1", name=f"web-{number}", labels={"app": "web", "n": str(number)})
    values: dict[str, object] = {
        "state": State.RUNNING,
        "created": time.time() - 100 + number,
        "started": time.time() - 9,
    }
    return Container(f"{number:064x}", made.name, made, "sha256:" + "ab" * 32, **{**values, **fields})  # type: ignore[arg-type]


def test_ps_filters() -> None:
    boxes = [box(1), box(2, state=State.EXITED, exit_code=3), box(3, health="healthy")]

    def chosen(**filters: list[str]) -> list[str]:
        return [one.name for one in select(boxes, filters)]

    assert chosen(name=["web-[12]"]) == ["web-1", "web-2"]
    assert chosen(name=["^/web-3$"]) == ["web-3"]
    assert chosen(name=["["]) == []
    assert chosen(status=["exited", "created"]) == ["web-2"]
    assert chosen(exited=["3"]) == ["web-2"]
    assert chosen(label=["app=web", "n=3"]) == ["web-3"]
    assert chosen(label=["none"]) == []
    assert chosen(health=["healthy"]) == ["web-3"]
    assert chosen(health=["none"]) == ["web-1", "web-2"]
    assert (
        chosen(ancestor=["nginx"])
        == chosen(ancestor=["nginx:1"])
        == chosen(ancestor=["abab"])
        == ["web-1", "web-2", "web-3"]
    )
    assert chosen(ancestor=["busybox"]) == []
    assert chosen(since=["web-1"]) == ["web-2", "web-3"]
    assert chosen(before=["web-2"], status=["running"]) == ["web-1"]


def test_ps_rows() -> None:
    row = container_row(box(1, argv=("sh", "-c", "echo \x1b[2J and more words"), ports=(PortMapping(80, 8080),)))
    assert row["ID"] == "0" * 12
    assert row["Image"] == "nginx:1"
    assert row["Command"] == '"sh -c echo \\u001b[2J and…"'
    assert row["Ports"] == "0.0.0.0:8080->80/tcp"
    assert row["Status"] == "Up 9 seconds"
    assert row["Label"]("app") == "web"
    now = time.time()
    assert status(box(1, health="unhealthy")) == "Up 9 seconds (unhealthy)"
    assert status(box(1, state=State.PAUSED)) == "Up 9 seconds (Paused)"
    assert status(box(1, state=State.EXITED, exit_code=137, finished=now - 61)) == "Exited (137) 1 minute ago"
    assert status(box(1, state=State.UNKNOWN, finished=now - 5)) == "Exited (unknown) 5 seconds ago"
    assert status(box(1, state=State.CREATED, started=0.0)) == "Created"
    assert status(box(1, state=State.STARTING, started=0.0)) == "Starting"
    assert status(box(1, state=State.DEAD)) == "Dead"


def test_port_ranges_are_joined() -> None:
    mappings = [PortMapping(81, 8081), PortMapping(80, 8080), PortMapping(53, 53, "udp", "::1"), PortMapping(99, 9000)]
    assert ports(mappings) == "0.0.0.0:8080-8081->80-81/tcp, 0.0.0.0:9000->99/tcp, [::1]:53->53/udp"


def test_image_rows() -> None:
    image = Image(
        "sha256:" + "cd" * 32,
        ("docker.io/library/debian:12", "127.0.0.1:5000/team/debian:test"),
        ("docker.io/library/debian@sha256:ff",),
        time.time() - 7200,
        71_200_000,
        (),
        ImageConfig(),
    )
    rows = image_rows(image)
    assert [(r["Repository"], r["Tag"], r["Digest"]) for r in rows] == [
        ("debian", "12", "sha256:ff"),
        ("127.0.0.1:5000/team/debian", "test", "<none>"),
    ]
    assert (rows[0]["ID"], rows[0]["Size"], rows[0]["CreatedSince"]) == ("cd" * 6, "71.2MB", "2 hours ago")


def test_event_lines_and_filters() -> None:
    event = Event(1714564800.25, "container", "die", "a" * 64, {"name": "web", "exitCode": "3", "image": "nginx"})
    expected = f"2024-05-01T12:00:00.250000000Z container die {'a' * 64} (exitCode=3, image=nginx, name=web)"
    assert event_line(event) == expected
    assert matches(event, {"type": ["container"], "event": ["die", "start"], "container": ["web"]})
    assert matches(event, {"container": ["aaaa"], "image": ["nginx"], "label": ["exitCode=3"]})
    assert not matches(event, {"event": ["start"]})
    assert not matches(event, {"image": ["other"]})


def test_cpu_percent() -> None:
    assert cpu_percent(Sample("x", 1.0, cpu_ns=0), Sample("x", 3.0, cpu_ns=1_000_000_000)) == 50.0
    assert cpu_percent(None, Sample("x", 3.0, cpu_ns=5)) == 0.0
    assert cpu_percent(Sample("x", 1.0, cpu_ns=9), Sample("x", 2.0, cpu_ns=0)) == 0.0
