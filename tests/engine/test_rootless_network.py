"""Networks of an ordinary user's containers: by pasta or slirp4netns."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.engine.rootlesslab import (  # noqa: F401
    SERVE,
    ask,
    call,
    connected_person,
    host_server,
    nothing_left,
    one,
    own_address,
    tools_of,
    wait_for,
)
from tests.person import Person
from tests.ports import free_port
from tests.world import carriers

pytestmark = pytest.mark.real


# -- the way out
def test_out_to_an_address_of_the_host_and_not_to_its_loopback(person: Person) -> None:
    address = own_address()
    with host_server(address) as port:
        said = person.ok("run", "--rm", "busybox:test", *call(address, port, 15))
    assert set(said.splitlines()) == {f"from {address}"}  # an answer for each piece of the question
    with host_server("127.0.0.1") as port:
        # All at once: where nobody answers it takes a while.
        script = (
            "for to in $(ip route | sed -n 's/default via //p' | cut -d' ' -f1) 169.254.2.2 127.0.0.1; do "
            f'{{ timeout 5 nc -w 3 $to {port} </dev/null | sed "s/^/$to: /"; echo $to asked; }} & done; wait'
        )
        said = person.ok("run", "--rm", "busybox:test", "sh", "-c", script)
        assert said.count("asked") == 3, said
        assert "from" not in said, f"the host's loopback is reached by {said}"


def test_the_default_network_is_a_bridge_with_an_address(person: Person) -> None:
    assert person.ok("run", "--rm", "busybox:test", "sh", "-c", "ip -4 -o addr show eth0 | wc -l") == "1"
    assert "bridge" in person.ok("network", "ls", "--format", "{{.Name}}").split()
    assert person.ok("run", "--rm", "busybox:test", "cat", "/etc/resolv.conf").startswith("nameserver 169.254.2.3")


def test_names_on_a_network_of_ones_own(person: Person) -> None:
    person.ok("network", "create", "back")
    person.ok("run", "-d", "--name", "web", "--network", "back", "busybox:test", "sh", "-c", SERVE)
    said = person.ok(
        "run", "--rm", "--network", "back", "busybox:test", "sh", "-c",
        "for i in $(seq 100); do nc -w 5 web 80 </dev/null && exit; sleep 0.3; done; exit 1",
    )  # fmt: skip
    assert said == "hello"
    found = person.ok("exec", "web", "nslookup", "web", "127.0.0.11")
    assert json.loads(person.ok("inspect", "web"))[0]["NetworkSettings"]["Networks"]["back"]["IPAddress"] in found


@contextlib.contextmanager
def name_server(address: str) -> Iterator[list[bytes]]:
    """Says of every name that it is 203.0.113.7; yields the questions."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        server.settimeout(0.2)
        stop, asked = threading.Event(), list[bytes]()

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    data, peer = server.recvfrom(2000)
                    end = data.index(b"\0", 12) + 5
                    asked.append(data[12:end])
                    a = data[end - 4 : end - 2] == b"\0\1"
                    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xcb\0\x71\x07" if a else b""
                    server.sendto(data[:2] + b"\x81\x80\0\1\0" + bytes([a, 0, 0, 0, 0]) + data[12:end] + answer, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            stop.set()
            thread.join()


def test_a_name_server_on_the_loopback_of_the_host(person: Person) -> None:
    """As systemd-resolved is: by the way out on the default bridge, by the monitor on a network of one's own."""
    (person.base / "resolv.conf").write_text("nameserver 127.77.0.53\n")
    (person.base / "resolv.conf").chmod(0o644)
    bind = f"mount --bind {person.base}/resolv.conf /etc/resolv.conf"
    poor = replace(person, mounts=(*person.mounts, bind))
    poor.end()
    try:
        poor.ok("network", "create", "own")
        for network, server in (("bridge", "169.254.2.3"), ("own", "127.0.0.11")):
            with name_server("127.77.0.53") as asked:
                look = f"cat /etc/resolv.conf; timeout 10 nslookup {network}.example"
                said = poor.ok("run", "--rm", "--network", network, "busybox:test", "sh", "-c", look)
            assert f"nameserver {server}" in said
            assert "203.0.113.7" in said
            assert any(network.encode() in question for question in asked)
    finally:
        poor.end()


# -- when something is killed
def test_the_tool_is_replaced_and_ends_with_the_last_container(person: Person) -> None:
    address = own_address()
    person.ok("run", "-d", "--name", "box", "busybox:test", "sleep", "600")
    with host_server(address) as port:
        for word in (tools_of(person)[0], "wharf-uplink", "wharf-monitor"):
            before = one(person, word)
            os.kill(before, signal.SIGKILL)
            wait_for(f"another {word}", lambda word=word, before=before: one(person, word) != before)  # type: ignore[misc]
            wait_for("one tool", lambda: one(person, tools_of(person)[0]))
            wait_for(
                f"the way out after {word} was killed",
                lambda: person.wharf("exec", "box", *call(address, port)).stdout.startswith("from"),
            )
    person.ok("rm", "-f", "box")
    wait_for("the end of what carried traffic", lambda: not carriers(person.uid))


def test_nothing_is_left_when_everything_is_killed(person: Person) -> None:
    person.ok("run", "-d", "--name", "box", "busybox:test", "sleep", "600")
    assert one(person, tools_of(person)[0])
    person.end()
    wait_for("the end of what carried traffic", lambda: not carriers(person.uid))
    assert person.ok("run", "--rm", "busybox:test", "echo", "again") == "again"


def test_a_container_that_lost_launcher_monitor_and_network_gets_them_back(person: Person) -> None:
    address, port = own_address(), free_port()
    person.ok("run", "-d", "--name", "box", "-p", f"{port}:80", "busybox:test", "sh", "-c", SERVE)
    assert ask(port) == b"hello\n"
    for word in ("core.supervise.launcher", "wharf-monitor", "wharf-uplink"):
        os.kill(one(person, word), signal.SIGKILL)
    wait_for("the end of what carried traffic", lambda: not carriers(person.uid))
    assert person.ok("ps", "--format", "{{.Names}}") == "box"
    with host_server(address) as server:
        wait_for(
            "the way out",
            lambda: person.wharf("exec", "box", *call(address, server)).stdout.startswith("from"),
            40,
        )
    assert ask(port) == b"hello\n"


# -- what is said of it
def test_doctor_tries_it_out(person: Person) -> None:
    before = carriers(person.uid)  # the uplink of the last test may still be there
    checks = {row["name"]: row for row in json.loads(person.wharf("doctor", "--format", "json").stdout)}
    assert checks["networks"]["status"] == "ok"
    wait_for("the end of what was tried", lambda: not set(carriers(person.uid)) - set(before))


def test_the_network_is_checked_link_by_link(person: Person) -> None:
    port = free_port()
    person.ok("run", "-d", "--name", "box", "-p", f"{port}:80", "busybox:test", "sh", "-c", SERVE)
    ask(port)
    steps = {step["name"]: step for step in json.loads(person.ok("network", "check", "--format", "json", "box"))}
    assert "broken" not in [step["status"] for step in steps.values()]
    assert steps[f"port {port}/tcp"]["found"] == f"127.0.0.1:{port} accepts connections from this host"
    assert "nc *:80" in person.ok("network", "conn", "-a", "--format", "{{.Process}} {{.Local}}", "box").splitlines()
