"""A small SOCKS 5 server (RFC 1928, 1929) on loopback, written by the RFCs and not by what we send."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Mapping


class Socks:
    """``hosts``: the names that it can resolve. ``users``: those that may; empty: anybody. ``seen``: what was asked."""

    def __init__(self, hosts: Mapping[str, str], users: Mapping[str, str], answer: int) -> None:
        self.hosts = hosts
        self.users = users
        self.answer = answer
        self.seen: list[tuple[str, int]] = []
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        wanted = 2 if self.users else 0
        if version != 5 or wanted not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes([5, wanted]))
        if self.users and not await self._login(reader, writer):
            return
        version, command, reserved, kind = await reader.readexactly(4)
        assert (version, command, reserved) == (5, 1, 0)
        if kind == 3:
            size = (await reader.readexactly(1))[0]
            host = (await reader.readexactly(size)).decode("ascii")
        else:
            host = str(ipaddress.ip_address(await reader.readexactly({1: 4, 4: 16}[kind])))
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.seen.append((host, port))
        answer = self.answer if host in self.hosts else 4
        # The bound address may be of any kind, also a name.
        writer.write(bytes([5, answer, 0, 3, 4]) + b"here" + b"\x00\x01")
        if answer == 0:
            there, back = await asyncio.open_connection(self.hosts[host], port)
            await asyncio.gather(_pump(reader, back), _pump(there, writer), return_exceptions=True)

    async def _login(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        version, size = await reader.readexactly(2)
        assert version == 1
        user = (await reader.readexactly(size)).decode()
        password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        right = self.users.get(user) == password
        writer.write(bytes([1, 0 if right else 1]))
        return right


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()


@contextlib.asynccontextmanager
async def socks(
    hosts: Mapping[str, str], users: Mapping[str, str] | None = None, *, answer: int = 0
) -> AsyncIterator[Socks]:
    """:param answer: the reply to each request for a host that it knows"""
    made = Socks(hosts, users or {}, answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
