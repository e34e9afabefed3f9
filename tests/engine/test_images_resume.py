"""Trouble on the way that passes: cut connections, failing servers, parts that went bad, pulls that are closed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from core.errors import Unavailable
from core.images import unpackers
from tests.engine.test_images_registry import BIG, big_blob, pair, refused, sample
from tests.images_lab import finish, leftovers
from tests.liar import send_part
from tests.patience import patience

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
    pytest.mark.usefixtures("own_settings"),
]


# -- trouble that passes ------------------------------------------------------------------------------------------
async def test_cut_connections_resume_where_they_ended(tmp_path: Path) -> None:
    made = sample()
    data = made.blobs[big_blob(made)]
    starts = []
    async with pair(tmp_path) as (server, images):
        server.put(made)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if big_blob(made) not in request.path or len(starts) >= 3:
                starts.append(request.headers.get("Range")) if big_blob(made) in request.path else None
                return None
            starts.append(request.headers.get("Range"))
            offset = int((starts[-1] or "bytes=0-")[6:-1])
            return await send_part(request, data, 700_000, offset)

        server.bend = bend
        image = await finish(images.pull(f"{server.address}/app"))
        assert (images.layer_dirs(image)[1] / "d" / "big").read_bytes() == BIG
        assert starts[0] is None
        assert all(start and start != "bytes=0-" for start in starts[1:])


async def test_a_registry_without_ranges(tmp_path: Path) -> None:
    made = sample()
    data = made.blobs[big_blob(made)]
    async with pair(tmp_path) as (server, images):
        server.put(made)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if big_blob(made) not in request.path:
                return None
            if server.count(big_blob(made)) == 1:
                return await send_part(request, data, 700_000)
            return web.Response(body=data)

        server.bend = bend
        image = await finish(images.pull(f"{server.address}/app"))
        assert (images.layer_dirs(image)[1] / "d" / "big").read_bytes() == BIG


async def test_errors_of_the_server_then_fine(tmp_path: Path) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)
        failures = [503, 500, 429, 502]

        async def bend(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=failures.pop()) if failures else None

        server.bend = bend
        assert await finish(images.pull(f"{server.address}/app"))


async def test_errors_of_the_server_for_ever(tmp_path: Path) -> None:
    async with pair(tmp_path) as (server, images):

        async def bend(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=503)

        server.bend = bend
        assert "503" in await refused(server, images, Unavailable)
        assert server.count("manifests") == 5


async def test_a_part_that_went_bad_is_fetched_again(tmp_path: Path) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)
        images.content.part(big_blob(made)).write_bytes(b"not what it should be" * 1000)
        image = await finish(images.pull(f"{server.address}/app"))
        assert (images.layer_dirs(image)[1] / "d" / "big").read_bytes() == BIG
        assert server.count(big_blob(made)) == 2
        assert not leftovers(images)


async def test_closing_cancels_and_keeps_what_can_be_resumed(tmp_path: Path) -> None:
    made = sample()
    data = made.blobs[big_blob(made)]
    async with pair(tmp_path) as (server, images):
        server.put(made)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if big_blob(made) not in request.path or "Range" in request.headers:
                return None
            response = web.StreamResponse()
            response.content_length = len(data)
            await response.prepare(request)
            await response.write(data[:1_000_000])
            await asyncio.sleep(3600)
            return response

        server.bend = bend
        steps = images.pull(f"{server.address}/app")
        async for step in steps:
            if any(layer.done >= 1_000_000 for layer in step.layers):
                break
        await steps.aclose()  # type: ignore[attr-defined]
        assert not leftovers(images)
        assert images.content.part(big_blob(made)).stat().st_size == 1_000_000
        assert await finish(images.pull(f"{server.address}/app"))
        assert ("bytes=1000000-") in [headers.get("Range") for _, headers in server.seen]


async def test_layers_arrive_while_no_worker_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpackers, "_WORKERS", 1)
    made = sample()
    data, small = made.blobs[big_blob(made)], made.layers[1]
    there = b""
    async with pair(tmp_path) as (server, images):
        server.put(made)
        part = images.content.part(small)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            nonlocal there
            if big_blob(made) not in request.path:
                return None
            response = web.StreamResponse()
            response.content_length = len(data)
            await response.prepare(request)
            await response.write(data[:1_000_000])
            async with asyncio.timeout(patience(20)):  # the one worker waits for the rest of this layer
                while not part.exists() or part.stat().st_size < len(made.blobs[small]):
                    await asyncio.sleep(0.01)
            there = part.read_bytes()
            await response.write(data[1_000_000:])
            return response

        server.bend = bend
        upper, lower = images.layer_dirs(await finish(images.pull(f"{server.address}/app")))
        assert there == made.blobs[small]
        assert (lower / "d" / "big").read_bytes() == BIG
        assert (upper / "d" / "small").read_bytes() == b"s"
        assert not leftovers(images)
