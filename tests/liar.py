"""A registry that lies: an aiohttp server on loopback whose answers a test can bend."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from aiohttp import web

from core.images import transport
from core.images.manifest import MANIFESTS
from tests.images import Made

Bend = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Liar:
    """Serves the images put into it. ``bend`` sees each request first; what it returns is the answer."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, tuple[bytes, str]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []  # path and headers of every request
        self.bend: Bend | None = None
        self.address = ""

    def put(self, made: Made, tag: str = "latest") -> None:
        self.blobs.update(made.blobs)
        self.tags[tag] = (made.blobs[made.manifest], MANIFESTS[0])

    def count(self, part: str) -> int:
        """How many requests had ``part`` in their path."""
        return sum(part in path for path, _ in self.seen)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path, dict(request.headers)))
        if self.bend and (bent := await self.bend(request)):
            return bent
        return self.honest(request)

    def honest(self, request: web.Request) -> web.StreamResponse:
        kind, _, name = request.path.rpartition("/")
        if kind.endswith("/manifests"):
            data, media_type = self.tags.get(name) or (self.blobs.get(name, b""), MANIFESTS[0])
            if not data:
                return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
            return web.Response(body=data, content_type=media_type)
        data = self.blobs.get(name, b"")
        if not data:
            return web.Response(status=404)
        if start := request.headers.get("Range", "").removeprefix("bytes=").removesuffix("-"):
            return web.Response(status=206, body=data[int(start) :])
        return web.Response(body=data)


async def send_part(request: web.Request, data: bytes, count: int, offset: int = 0) -> web.StreamResponse:
    """Promise ``data`` from ``offset`` on, send ``count`` bytes of it, and cut the connection."""
    response = web.StreamResponse(status=206 if offset else 200)
    response.content_length = len(data) - offset
    await response.prepare(request)
    await response.write(data[offset : offset + count])
    assert request.transport is not None
    request.transport.close()
    return response


@contextlib.asynccontextmanager
async def liar() -> AsyncIterator[Liar]:
    server = Liar()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.address = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        with short_pauses():
            yield server
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def short_pauses() -> Iterator[None]:
    """Nobody is spared by waiting before it is tried again: the server is on this machine."""
    pause = transport._PAUSE
    transport._PAUSE = 0.01
    try:
        yield
    finally:
        transport._PAUSE = pause
