"""Ports of an ordinary user's containers, which a proxy serves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.kernel import netns
from tests.engine.rootlesslab import (  # noqa: F401
    SERVE,
    ask,
    call,
    connected_person,
    host_server,
    nothing_left,
    one,
    own_address,
    wait_for,
)
from tests.patience import patience
from tests.person import Person
from tests.ports import free_port

pytestmark = pytest.mark.real


def test_a_published_port(person: Person) -> None:
    port = free_port()
    person.ok("run", "-d", "--name", "web", "-p", f"{port}:80", "busybox:test", "sh", "-c", SERVE)
    assert f"0.0.0.0:{port}" in person.ok("port", "web", "80")
    for host in ("127.0.0.1", own_address(), "::1"):
        assert ask(port, host) == b"hello\n", host
    person.ok("rm", "-f", "web")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


@contextlib.contextmanager
def echo_inside(pid: int, number: int) -> Iterator[list[int]]:
    """A server of datagrams in the network of a process; yields the ports of those who have called."""
    namespace = netns.of_process(pid)
    with netns.inside(namespace):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    os.close(namespace)
    server.bind(("0.0.0.0", number))
    server.settimeout(0.2)
    stop, callers = threading.Event(), list[int]()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, peer = server.recvfrom(65536)
                callers.append(peer[1])
                server.sendto(data, peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield callers
    finally:
        stop.set()
        thread.join()
        server.close()


def test_datagrams(person: Person) -> None:
    port = free_port()
    person.ok("run", "-d", "--name", "echo", "-p", f"{port}:9/udp", "busybox:test", "sleep", "600")
    with echo_inside(one(person, "sleep 600"), 9) as callers:
        for host in ("127.0.0.1", own_address(), "::1"):
            # Two clients, each with its own answers, and none lost of a burst.
            with contextlib.ExitStack() as stack:
                clients = []
                for _ in range(2):
                    client = stack.enter_context(
                        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
                    )
                    client.settimeout(patience(20))
                    client.connect((host, port))  # so that only an answer from where it was asked comes in
                    clients.append(client)
                for number in range(100):
                    for which, client in enumerate(clients):
                        client.send(f"{which} {number}".encode())
                for which, client in enumerate(clients):
                    assert [client.recv(100) for _ in range(100)] == [f"{which} {n}".encode() for n in range(100)]
    assert len(set(callers)) == 6


def test_a_proxy_is_replaced_and_outlives_its_monitor(person: Person) -> None:
    port = free_port()
    person.ok("run", "-d", "--name", "echo", "-p", f"{port}:80", "busybox:test", "nc", "-ll", "-p", "80", "-e", "cat")
    assert ask(port, data=b"one") == b"one"
    before = one(person, "wharf-proxy")
    os.kill(before, signal.SIGKILL)
    assert ask(port, data=b"two") == b"two"
    proxy = one(person, "wharf-proxy")
    assert proxy != before
    with socket.create_connection(("127.0.0.1", port), timeout=patience(20)) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        monitor = one(person, "wharf-monitor")
        os.kill(monitor, signal.SIGKILL)
        wait_for("another monitor", lambda: one(person, "wharf-monitor") != monitor)
        sock.sendall(b"b")
        assert sock.recv(1) == b"b"
    assert one(person, "wharf-proxy") == proxy
    os.kill(proxy, signal.SIGKILL)
    assert ask(port, data=b"three") == b"three"


def test_changes_while_it_runs(person: Person) -> None:
    port = free_port()
    person.ok("network", "create", "back")
    person.ok("network", "create", "--internal", "inner")
    person.ok("run", "-d", "--name", "echo", "busybox:test", "nc", "-ll", "-p", "80", "-e", "cat")
    person.ok("run", "-d", "--name", "peer", "--network", "container:echo", "busybox:test", "sleep", "600")
    person.ok("port", "add", "echo", f"{port}:80")
    assert ask(port, data=b"one") == b"one"
    person.ok("network", "connect", "back", "echo")
    assert person.ok("exec", "echo", "nslookup", "echo", "127.0.0.11")
    # Without the network that it was on, the port leads to the other.
    person.ok("network", "disconnect", "bridge", "echo")
    assert ask(port, data=b"two") == b"two"
    assert "eth1" in person.ok("exec", "peer", "ls", "/sys/class/net")
    person.ok("port", "rm", "echo", str(port))
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    with host_server(own_address()) as server:
        done = person.wharf("run", "--rm", "--network", "inner", "busybox:test", *call(own_address(), server))
        assert "from" not in done.stdout


def test_drivers_that_are_not_for_users(person: Person) -> None:
    done = person.wharf("network", "create", "-d", "macvlan", "--subnet", "10.99.0.0/24", "-o", "parent=eth0", "mac")
    assert done.returncode != 0
    assert "ordinary user" in done.stderr
    done = person.wharf("run", "--rm", "-p", "9:9/sctp", "busybox:test", "true")
    assert done.returncode == 125
    assert "SCTP" in done.stderr


def test_ports_that_cannot_be_had(person: Person) -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if lowest > 1:
        done = person.wharf("run", "--rm", "-p", f"{lowest - 1}:80", "busybox:test", "true")
        assert done.returncode == 125
        assert f"below {lowest}" in done.stderr
        assert "ip_unprivileged_port_start" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = person.wharf("run", "--rm", "-p", f"{taken.getsockname()[1]}:80", "busybox:test", "true")
    assert done.returncode == 125
    assert "is taken" in done.stderr
