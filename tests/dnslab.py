"""Tools of the resolver's tests: questions and answers by their own codec, a server in a thread, one upstream."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from core.dns import zone
from core.dns.forward import Forwarder
from core.dns.server import Server
from core.dns.zone import Zone
from core.supervise.loop import Loop
from tests.patience import patience

A, PTR, MX, TXT, AAAA, SVCB, ANY = 1, 12, 15, 16, 28, 64, 255
CID = "c" * 64
COMES = patience(30)  # seconds for an answer that must come


def labels(name: str) -> bytes:
    parts = [part.encode() for part in name.split(".") if part]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def question(
    name: str, kind: int = A, *, number: int = 0x1234, edns: int = 0, version: int = 0, what: int = 1
) -> bytes:
    """A packet with RD set; ``edns`` bytes are taken, where it is not 0."""
    head = struct.pack("!6H", number, 0x0100, 1, 0, 0, 1 if edns else 0)
    opt = b"\0" + struct.pack("!HHIH", 41, edns, version << 16 | 0x8000, 0) if edns else b""
    return head + labels(name) + struct.pack("!HH", kind, what) + opt


class Answer(NamedTuple):
    number: int
    flags: int
    asked: list[tuple[str, int]]
    records: list[tuple[str, int, str]]
    opt: tuple[int, int] | None  # size, and what stands for the seconds to live
    size: int

    @property
    def code(self) -> int:
        return self.flags & 0xF | ((self.opt[1] >> 24) << 4 if self.opt else 0)

    @property
    def truncated(self) -> bool:
        return bool(self.flags & 0x0200)

    @property
    def values(self) -> list[str]:
        return [value for _, _, value in self.records]


def read(data: bytes) -> Answer:
    """A whole packet, with every pointer followed; what stands behind its end is an error."""
    number, flags, questions, answers, authorities, more = struct.unpack_from("!6H", data)
    offset, asked, records, opt = 12, [], [], None
    for _ in range(questions):
        name, offset = _name(data, offset)
        asked.append((name, struct.unpack_from("!H", data, offset)[0]))
        offset += 4
    for _ in range(answers + authorities + more):
        name, offset = _name(data, offset)
        kind, what, ttl, length = struct.unpack_from("!HHIH", data, offset)
        offset += 10
        if kind == 41:
            opt = (what, ttl)
        elif kind == PTR:
            records.append((name, kind, _name(data, offset)[0]))
        elif kind in (A, AAAA):
            records.append((name, kind, str(ipaddress.ip_address(data[offset : offset + length]))))
        else:
            records.append((name, kind, data[offset : offset + length].hex()))
        offset += length
    assert offset == len(data)
    return Answer(number, flags, asked, records, opt, len(data))


def _name(data: bytes, offset: int) -> tuple[str, int]:
    parts: list[str] = []
    end = 0
    while length := data[offset]:
        if length >= 0xC0:
            end = end or offset + 2
            offset = struct.unpack_from("!H", data, offset)[0] & 0x3FFF
            continue
        parts.append(data[offset + 1 : offset + 1 + length].decode("latin-1"))
        offset += length + 1
    return ".".join(parts), end or offset + 1


def over_udp(to: tuple[str, int], data: bytes, timeout: float = COMES) -> Answer:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect(to)
        sock.send(data)
        return read(sock.recv(65535))


def over_tcp(to: tuple[str, int], *packets: bytes, timeout: float = COMES) -> list[Answer]:
    """Several questions on one connection, sent in one piece."""
    with socket.create_connection(to, timeout) as sock:
        sock.sendall(b"".join(len(data).to_bytes(2, "big") + data for data in packets))
        with sock.makefile("rb") as file:
            return [read(file.read(int.from_bytes(file.read(2), "big"))) for _ in packets]


def put(path: str | Path, value: object) -> None:
    """Replace a file, as engines do."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.new").write_text(value if isinstance(value, str) else json.dumps(value))
    os.rename(f"{path}.new", path)


class Names:
    """The files of one container."""

    def __init__(self, run: Path) -> None:
        self.run = str(run)

    def network(self, ref: str, names: dict[str, list[str]], **more: object) -> None:
        put(zone.network_file(self.run, ref), {"name": ref, "internal": False, "names": names, **more})

    def container(self, *networks: str, **more: object) -> None:
        put(zone.container_file(self.run, CID), {"networks": list(networks), **more})


def pair(address: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on the same port."""
    while True:
        tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp.bind((address, 0))
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
            continue
        tcp.listen(128)
        return udp, tcp


@contextlib.contextmanager
def serving(
    run: Path, *, host: str = "/nonexistent", port: int = 53, timeout: float = COMES / 2, **options: Any
) -> Iterator[tuple[str, int]]:
    """The resolver in a thread; where it listens. An exception in there fails the test.

    :param port: of the servers upstream
    :param timeout: seconds for each of them: short only where a test has one that does not answer
    """
    udp, tcp = pair()
    ours, theirs = socket.socketpair()
    failures: list[BaseException] = []

    def work() -> None:
        loop = Loop()
        server = Server(
            loop, udp, tcp, Zone(str(run), CID, host=host), Forwarder(loop, port=port, timeout=timeout, **options)
        )
        loop.watch(theirs.fileno(), lambda events: loop.stop())
        try:
            loop.run()
        except BaseException as error:
            failures.append(error)
        server.close()
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield udp.getsockname()
    finally:
        ours.close()
        thread.join()
        for sock in (udp, tcp, theirs):
            sock.close()
        assert not failures, failures


class Upstream:
    """A server upstream on both protocols; ``reply`` makes packets of a question, each of which is sent.

    :param address: of the loopback net: tests ask several on the same port
    """

    def __init__(
        self, reply: Callable[[bytes, bool], list[bytes]], *, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.reply = reply
        self.seen: list[tuple[str, int, tuple[str, int]]] = []  # protocol, id, asker
        if port:
            self._udp, self._tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
            self._udp.bind((address, port))
            self._tcp.bind((address, port))
            self._tcp.listen(128)
        else:
            self._udp, self._tcp = pair(address)
        self.port: int = self._udp.getsockname()[1]
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serve_udp(self) -> None:
        while True:
            try:
                data, peer = self._udp.recvfrom(65535)
            except OSError:
                return
            if not data:
                return
            self.seen.append(("udp", int.from_bytes(data[:2], "big"), peer))
            for packet in self.reply(data, False):
                self._udp.sendto(packet, peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                sock, peer = self._tcp.accept()
            except OSError:
                return
            with sock, sock.makefile("rb") as file:
                data = file.read(int.from_bytes(file.read(2), "big"))
                self.seen.append(("tcp", int.from_bytes(data[:2], "big"), peer))
                for packet in self.reply(data, True):
                    sock.sendall(len(packet).to_bytes(2, "big") + packet)


def told(data: bytes, *addresses: str, code: int = 0, flags: int = 0) -> bytes:
    """An upstream's answer to a question: these addresses."""
    end = _name(data, 12)[1]
    body = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 60, 4) + ipaddress.IPv4Address(each).packed for each in addresses
    )
    head = data[:2] + struct.pack("!5H", 0x8180 | code | flags, 1, len(addresses), 0, 0)
    return head + data[12 : end + 4] + body
