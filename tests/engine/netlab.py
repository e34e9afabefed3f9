"""Tools of the network tests: programs in a namespace that play the container, an outside host, what is left over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from core.kernel import netns
from core.model import EndpointInfo, EndpointSpec, PortMapping
from core.names import make_id
from core.net import Attachment, Net, Published
from core.store.db import Store
from core.store.paths import Instance, find_instance
from tests.patience import patience
from tests.world import processes

OUTSIDE = "198.51.100.2"  # TEST-NET-2 (RFC 5737): the machine outside
UPLINK = "198.51.100.1"  # the host's address there
OUTSIDE6, UPLINK6 = "2001:db8:51::2", "2001:db8:51::1"  # RFC 3849


COMES = patience(10)  # seconds for an answer that has to come; who is to get none says how long that is waited for


def run_inside(namespace: int | None, work: Callable[..., Any], *args: object, seconds: float = 2 * COMES) -> Any:
    """``work(*args)`` in a forked child inside the namespace (``None``: the host's); its result goes through JSON.

    :param seconds: after which the child is ended

    An OSError or timeout in the child comes back as the string ``error:NAME``.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            if namespace is not None:
                netns.enter(namespace)
            try:
                result = work(*args)
            except OSError as error:
                result = f"error:{type(error).__name__}"
            os.write(writing, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(data) if data else "error:died"


def ask_tcp(host: str, port: int, timeout: float = COMES) -> str:
    """Connect; the server answers with the address from which it was called."""
    with socket.create_connection((host, port), timeout) as peer:
        return peer.recv(100).decode()


def ask_udp(host: str, port: int, timeout: float = COMES, source_port: int = 0, question: bytes = b"who am I") -> str:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(timeout)
        peer.bind(("", source_port))
        peer.sendto(question, (host, port))
        return peer.recv(100).decode()


def ping(host: str, timeout: float = COMES) -> bool:
    """One ICMP echo (RFC 792)."""
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
    total = sum(struct.unpack("!4H", head))
    head = head[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(timeout)
        raw.sendto(head, (host, 0))
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            packet, peer = raw.recvfrom(200)
            if peer[0] == host and packet[20] == 0:
                return True
    return False


class Server:
    """A process that answers every caller on a port with the caller's address."""

    def __init__(self, namespace: int | None, protocol: str, port: int, address: str = "") -> None:
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(ready)
                if namespace is not None:
                    netns.enter(namespace)
                _serve(protocol, (address, port), tell)
            finally:
                os._exit(1)
        os.close(tell)
        assert os.read(ready, 1) == b"!"
        os.close(ready)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _serve(protocol: str, address: tuple[str, int], tell: int) -> None:
    """``dns``: over UDP, the question comes back as an answer that knows nothing."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, kind) as listener:
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if protocol == "tcp":
            listener.listen(16)
        os.write(tell, b"!")
        while True:
            if protocol == "tcp":
                peer, caller = listener.accept()
                with contextlib.suppress(OSError):
                    peer.sendall(caller[0].encode())
                peer.close()
            else:
                data, caller = listener.recvfrom(2000)
                known = data[:2] + b"\x81\x80" + data[4:] if protocol == "dns" else caller[0].encode()
                listener.sendto(known, caller)


@dataclass
class Box:
    """A stand-in for a container: an id, its namespace, what it serves."""

    id: str
    attachment: Attachment
    published: Published | None = None
    servers: list[Server] = field(default_factory=list)
    others: list[Attachment] = field(default_factory=list)  # further places, in the same namespace

    @property
    def fd(self) -> int:
        return self.attachment.netns_fd

    @property
    def ends(self) -> list[EndpointInfo]:
        return [made.endpoint for made in (self.attachment, *self.others)]

    @property
    def ip(self) -> str:
        return self.attachment.endpoint.ip

    @property
    def ip6(self) -> str:
        return self.attachment.endpoint.ip6

    def serve(self, protocol: str, port: int, address: str = "") -> None:
        self.servers.append(Server(self.fd, protocol, port, address))

    def port(self, number: int, protocol: str = "tcp") -> int:
        """The host port behind which the box's port is."""
        assert self.published
        return next(p.host_port for p in self.published.ports if (p.container_port, p.protocol) == (number, protocol))

    def die(self) -> None:
        """Its processes end and the last descriptors close, as when its monitor exits."""
        for server in self.servers:
            server.close()
        self.servers.clear()
        for held in self.published.sockets.values() if self.published else ():
            held.close()
        for made in (self.attachment, *self.others):
            with contextlib.suppress(OSError):
                os.close(made.netns_fd)


class Lab:
    """One instance with its ``Net``."""

    def __init__(self, inst: Instance) -> None:
        self.inst = inst
        self.store = Store.open(inst)
        self.net = Net(inst, self.store)
        self.boxes: list[Box] = []

    async def box(self, *ports: PortMapping, ip: str | None = None, network: str = "bridge", ip6: str = "") -> Box:
        cid = make_id()
        box = Box(cid, await self.net.attach(network, cid, EndpointSpec(network, ip=ip or "", ip6=ip6)))
        self.boxes.append(box)
        if ports:
            box.published = await self.net.publish(cid, box.ends, ports)
        return box

    async def end(self, box: Box) -> None:
        self.boxes.remove(box)
        box.die()
        await self.net.detach(box.id)

    async def close(self) -> None:
        for box in list(self.boxes):
            await self.end(box)
        await self.net.recover(set())
        await self.net.remove_all()
        await self.net.close()
        self.store.close()


def command(*argv: str) -> str:
    """The output of a program; none where it fails."""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def link_names() -> list[str]:
    """Interfaces of the calling thread's namespace (which is not always the one that /sys/class/net shows)."""
    lines = command("ip", "-o", "link").splitlines()
    return sorted(line.split(": ")[1].partition("@")[0] for line in lines)


def left_over(inst: Instance) -> list[str]:
    """Every trace of the instance in the kernel, seen by other tools than our own."""
    found = [
        name
        for name in link_names()
        if name.startswith((inst.link_prefix, inst.bridge_prefix, inst.shim_prefix, inst.bridge))
    ]
    found += [line for line in command("nft", "list", "tables").splitlines() if line.endswith(f" {inst.nft_table}")]
    return found


def soon(check: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait until ``check()`` holds."""
    end = time.monotonic() + patience(seconds)
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def flows_of(address: str) -> list[str]:
    """Tracked connections that name the address, by the kernel's own text interface."""
    lines = Path("/proc/net/nf_conntrack").read_text().splitlines()
    return [line for line in lines if f"={address} " in line]


@pytest.fixture
def netinst(tmp_path: Path) -> Iterator[Instance]:
    """An instance of its own; the kernel holds nothing of it afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and nftables")
    made = find_instance(tmp_path / "root", tmp_path / "run")
    yield made
    assert soon(lambda: not left_over(made)), left_over(made)


@contextlib.contextmanager
def keeper_held(inst: Instance) -> Iterator[None]:
    """Nobody puts the firewall right meanwhile: its keeper, the launcher, is held."""
    launcher = min(processes(inst), key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().split()[21]))
    os.kill(launcher, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(launcher, signal.SIGCONT)


@pytest.fixture
def private_host() -> Iterator[None]:
    """The test, its threads and its programs on a host of their own, with no interface but lo: what they do to the
    firewall as a whole touches nobody else."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and nftables")
    home = netns.current()
    with netns.fresh() as fd:
        pass
    netns.enter(fd)
    try:
        subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
        yield
    finally:
        netns.enter(home)
        os.close(home)
        os.close(fd)


@pytest_asyncio.fixture
async def lab(netinst: Instance) -> AsyncIterator[Lab]:
    made = Lab(netinst)
    yield made
    await made.close()


@pytest.fixture
def outside() -> Iterator[int]:
    """A namespace that is another machine, wired to this host; its default route goes through the host."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and nftables")
    with netns.fresh() as fd:
        pass
    name = f"out{os.getpid() % 100000}"
    path = f"/proc/{os.getpid()}/fd/{fd}"
    enter = ("nsenter", f"--net={path}")
    for argv in (
        ("ip", "link", "add", name, "type", "veth", "peer", "name", "up0", "netns", path),
        ("sysctl", "-qw", f"net.ipv6.conf.{name}.accept_dad=0"),
        (*enter, "sysctl", "-qw", "net.ipv6.conf.up0.accept_dad=0"),
        ("ip", "address", "add", f"{UPLINK}/24", "dev", name),
        ("ip", "link", "set", name, "up"),
        (*enter, "ip", "address", "add", f"{OUTSIDE}/24", "dev", "up0"),
        (*enter, "ip", "link", "set", "up0", "up"),
        (*enter, "ip", "route", "add", "default", "via", UPLINK),
        ("ip", "address", "add", f"{UPLINK6}/64", "dev", name, "nodad"),
        (*enter, "ip", "address", "add", f"{OUTSIDE6}/64", "dev", "up0", "nodad"),
        (*enter, "ip", "route", "add", "default", "via", UPLINK6),
    ):
        subprocess.run(argv, check=True)
    yield fd
    subprocess.run(("ip", "link", "del", name), check=True)
    os.close(fd)
