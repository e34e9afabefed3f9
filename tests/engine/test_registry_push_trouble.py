"""Pushing to registries that break off, lose things, answer oddly, or cannot take what there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from core.errors import Corrupt, InvalidArgument, NotFound, Unauthorized, Unavailable
from core.images import transport, upload
from core.images.auth import Credentials
from core.store.registries import CredentialSettings
from tests import images as make
from tests.engine.test_registry_push import layers, loaded, phases, pushed
from tests.images_lab import finish, open_store
from tests.liar import liar
from tests.patience import patience
from tests.registry import free_port, push, registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
    pytest.mark.usefixtures("own_settings"),
]


# -- trouble ------------------------------------------------------------------------------------------------------
@contextlib.asynccontextmanager
async def cutting(address: str, after: list[int]) -> AsyncIterator[str]:
    """A wire to ``address`` on which the n-th long request breaks off after so many bytes."""
    host, _, port = address.partition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there, back = await asyncio.open_connection(host, int(port))

        async def answers() -> None:
            while data := await there.read(65536):
                writer.write(data)
            writer.close()

        answering = asyncio.create_task(answers())
        sent = 0
        try:
            while data := await reader.read(65536):
                sent += len(data)
                back.write(data)
                await back.drain()
                if after and sent > after[0]:
                    after.pop(0)
                    return
        finally:
            for stream in (back, writer):
                stream.close()
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.registry
async def test_a_broken_upload_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, through a wire that breaks twice: all arrives, and less than two whole copies were sent."""
    monkeypatch.setattr(upload, "_PIECE", 700_000)
    cuts = [1_000_000, 900_000]
    with registry(tmp_path / "registry") as address:
        async with cutting(address, cuts) as wire, open_store(tmp_path / "one") as images:
            image = await loaded(images, tmp_path, f"{wire}/app:1")
            last = await pushed(images, f"{wire}/app:1")
            assert not cuts, "the wire never broke"
        async with open_store(tmp_path / "two") as images:
            found = await finish(images.pull(f"{address}/app@{last.digest}"))
            assert found.id == image.id


@pytest.mark.registry
async def test_a_proxy_that_takes_small_requests_only(tmp_path: Path) -> None:
    """413 from somebody on the way: smaller pieces, until they pass."""
    with registry(tmp_path / "registry") as address:
        async with liar() as server, open_store(tmp_path) as images:
            lengths = []

            async def bend(request: web.Request) -> web.StreamResponse | None:
                import aiohttp

                lengths.append(request.content_length or 0)
                if lengths[-1] > 1_100_000:
                    return web.Response(status=413)
                async with aiohttp.ClientSession(auto_decompress=False) as session:
                    async with session.request(
                        request.method,
                        f"http://{address}{request.path_qs}",
                        data=await request.read(),
                        headers={key: value for key, value in request.headers.items() if key != "Content-Length"},
                        allow_redirects=False,
                    ) as answer:
                        kept = ("Location", "Range", "Docker-Content-Digest", "Docker-Upload-UUID", "Content-Type")
                        headers = {key: value for key, value in answer.headers.items() if key in kept}
                        return web.Response(status=answer.status, headers=headers, body=await answer.read())

            server.bend = bend
            await loaded(images, tmp_path, f"{server.address}/app:1")
            await pushed(images, f"{server.address}/app:1")
            assert max(lengths) > 1_100_000 > sorted(lengths)[-3]


@pytest.mark.registry
async def test_closing_cancels(tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        async with open_store(tmp_path) as images:
            await loaded(images, tmp_path, f"{address}/app:1")
            steps = images.push(f"{address}/app:1")
            async for step in steps:
                if any(layer.phase == "pushing" for layer in step.layers):
                    break
            await steps.aclose()  # type: ignore[attr-defined]
            assert not list(images.content.parts.iterdir())
            with pytest.raises(NotFound):
                await finish(images.pull(f"{address}/app:1"))
            await pushed(images, f"{address}/app:1")


async def test_a_registry_that_says_it_got_something_else(tmp_path: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if request.method == "HEAD":
                return web.Response(status=200)
            return web.Response(status=201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64})

        server.bend = bend
        await loaded(images, tmp_path, f"{server.address}/app:1")
        with pytest.raises(Corrupt, match="another manifest"):
            await pushed(images, f"{server.address}/app:1")


async def test_a_registry_that_loses_what_it_got(tmp_path: Path) -> None:
    """It never finds the blob in what was sent: after a second whole try that is said, not tried for ever."""
    async with liar() as server, open_store(tmp_path) as images:

        async def bend(request: web.Request) -> web.StreamResponse | None:
            await request.read()
            there = {"Location": "/v2/app/blobs/uploads/1"}
            answers = {"HEAD": 404, "POST": 202, "PATCH": 202, "PUT": 400, "DELETE": 204}
            return web.Response(status=answers[request.method], headers=there)

        server.bend = bend
        await loaded(images, tmp_path, f"{server.address}/app:1")
        with pytest.raises(Corrupt, match="does not take a layer"):
            await pushed(images, f"{server.address}/app:1")


async def test_a_registry_that_has_the_layers_sent_elsewhere(tmp_path: Path) -> None:
    """An upload's place on another host gets the bytes (storage may be there), and never the password."""
    async with liar() as thief, liar() as server, open_store(tmp_path) as images:
        await images.keyring.keep(server.address, Credentials("ann", "secret"), CredentialSettings())

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if request.method == "HEAD":
                return web.Response(status=404)
            return web.Response(status=202, headers={"Location": f"http://{thief.address}/up/1"})

        async def take(request: web.Request) -> web.StreamResponse | None:
            await request.read()
            return web.Response(status=403)

        server.bend, thief.bend = bend, take
        await loaded(images, tmp_path, f"{server.address}/app:1")
        with pytest.raises(Unauthorized):
            await pushed(images, f"{server.address}/app:1")
        assert thief.seen
        assert not any("Authorization" in headers for _, headers in thief.seen)


async def test_a_registry_that_knows_docker_manifests_only(tmp_path: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:
        kinds = []

        async def bend(request: web.Request) -> web.StreamResponse | None:
            data = await request.read()
            if request.method == "HEAD":
                return web.Response(status=200)
            document = json.loads(data)
            kinds.append((request.headers["Content-Type"], document["mediaType"], document["layers"][0]["mediaType"]))
            return web.Response(status=201 if "docker" in kinds[-1][0] else 415)

        server.bend = bend
        await loaded(images, tmp_path, f"{server.address}/app:1")
        await pushed(images, f"{server.address}/app:1")
        docker = "application/vnd.docker.distribution.manifest.v2+json"
        assert kinds[-1] == (docker, docker, "application/vnd.docker.image.rootfs.diff.tar.gzip")


async def test_what_cannot_be_pushed(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        down = f"127.0.0.1:{free_port()}"
        await loaded(images, tmp_path, f"{down}/app:1")
        with pytest.raises(NotFound, match="no image has the tag"):
            await pushed(images, f"{down}/app:2")
        with pytest.raises(InvalidArgument, match="digest"):
            await pushed(images, f"{down}/app@sha256:{'0' * 64}")
        with pytest.raises(InvalidArgument, match="lz4"):
            await pushed(images, f"{down}/app:1", "lz4")
        with pytest.raises(Unavailable, match=down):
            await pushed(images, f"{down}/app:1")


@pytest.mark.registry
async def test_a_blob_that_only_a_manifest_claims(tmp_path: Path) -> None:
    """An image may call any blob one of our layers: it is not fetched, as the layer is here, and nobody has looked."""
    with registry(tmp_path / "registry") as address:
        good, bad = layers(tmp_path / "trees")
        real = make.image([good])
        lie = make.image([bad], diffids=real.diffids, config={"Cmd": ["/bin/false"]})
        for made, repository in ((real, "team/base"), (lie, "evil/app")):
            source = make.layout(tmp_path / repository, made, "x")
            push(f"oci:{source}:x", f"{address}/{repository}:1")
        async with open_store(tmp_path / "one") as images:
            await finish(images.pull(f"{address}/team/base:1"))
            await finish(images.pull(f"{address}/evil/app:1"))
            await images.tag(f"{address}/team/base:1", f"{address}/our/app:1")
            last = await pushed(images, f"{address}/our/app:1")
            assert phases(last) == ["mounted"]
            assert last.digest == real.manifest
            # What an upload has sent is known, too.
            await images.tag(f"{address}/team/base:1", f"{address}/our/other:1")
            assert phases(await pushed(images, f"{address}/our/other:1", "zstd")) == ["done"]
            assert phases(await pushed(images, f"{address}/our/other:1", "zstd")) == ["exists"]


async def test_a_registry_that_never_takes_the_next_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """416, whatever is sent: given up, and not asked for ever."""
    monkeypatch.setattr(transport, "_PAUSE", 0.001)
    async with liar() as server, open_store(tmp_path) as images:

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if request.method == "HEAD":
                return web.Response(status=404)
            status = {"POST": 202, "PATCH": 416, "GET": 204}.get(request.method, 204)
            return web.Response(status=status, headers={"Location": "/v2/app/blobs/uploads/1", "Range": "0-0"})

        server.bend = bend
        await loaded(images, tmp_path, f"{server.address}/app:1")
        async with asyncio.timeout(patience(60)):
            with pytest.raises(Unavailable, match="does not take what follows"):
                await pushed(images, f"{server.address}/app:1")
