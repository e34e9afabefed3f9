"""More of what a registry can say that is not so (the first of it is in test_images_registry.py)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from core.errors import Corrupt, NotFound, Unauthorized, Unavailable, Unsupported, WharfError
from core.images.manifest import INDEXES, MANIFESTS, host_platform
from tests import images as make
from tests.engine.test_images_registry import BIG, big_blob, log_in, pair, refused, sample
from tests.images import member
from tests.images_lab import finish, leftovers, open_store
from tests.liar import Liar, liar, send_part, short_pauses
from tests.patience import patience

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")]


# -- documents ----------------------------------------------------------------------------------------------------
def offer(server: Liar, document: dict[str, object], media_type: str = MANIFESTS[0]) -> None:
    server.tags["latest"] = (json.dumps(document).encode(), media_type)


def indexed(server: Liar, made: make.Made, media_type: str = MANIFESTS[0], **change: object) -> None:
    """An index with one entry, of which something is not so."""
    here = host_platform()
    platform = {"os": "linux", "architecture": here.architecture}
    entry = make.describe(made.blobs[made.manifest], media_type, platform=platform) | change
    offer(server, {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [entry]}, INDEXES[0])


async def test_an_index_that_is_wrong_about_size_or_kind(tmp_path: Path) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)
        indexed(server, made, size=len(made.blobs[made.manifest]) + 1)
        await refused(server, images)
        indexed(server, made, MANIFESTS[1])
        await refused(server, images)
        indexed(server, made)
        assert await finish(images.pull(f"{server.address}/app"))


async def test_an_index_in_an_index(tmp_path: Path) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)
        indexed(server, made)
        inner = server.tags["latest"][0]
        outer = make.Made({make.sha(inner): inner}, make.sha(inner), "", [], [])
        server.blobs |= outer.blobs
        indexed(server, outer, INDEXES[0])

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if request.path.endswith(outer.manifest):
                return web.Response(body=inner, content_type=INDEXES[0])
            return None

        server.bend = bend
        assert "one level" in await refused(server, images, Unsupported)


async def test_a_digest_header_that_lies(tmp_path: Path) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            response = server.honest(request)
            response.headers["Docker-Content-Digest"] = "sha256:" + "0" * 64
            return response

        server.bend = bend
        assert "wrong digest" in await refused(server, images)


async def test_what_kind_a_manifest_is_said_twice(tmp_path: Path) -> None:
    made = sample()
    document = json.loads(made.blobs[made.manifest])
    async with pair(tmp_path) as (server, images):
        server.put(made)
        for media_type in (MANIFESTS[1], *INDEXES):
            offer(server, document, media_type)
            await refused(server, images)
        server.tags["latest"] = (made.blobs[made.manifest].replace(b"{", b'{"layers": [], ', 1), MANIFESTS[0])
        assert "twice" in await refused(server, images)
        offer(server, document | {"Layers": []})
        assert "'Layers'" in await refused(server, images)


async def test_urls_of_layers_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2020-15157: a manifest may say where else a layer lies; who is asked there would get our credentials."""
    made = sample()
    document = json.loads(made.blobs[made.manifest])
    async with liar() as thief, pair(tmp_path) as (server, images):
        log_in(tmp_path, monkeypatch, server.address)
        server.put(made)
        thief.put(made)
        for entry in document["layers"]:
            entry["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            entry["urls"] = [f"http://{thief.address}/v2/app/blobs/{entry['digest']}"]
            del server.blobs[entry["digest"]]
        offer(server, document)
        await refused(server, images, NotFound)
        assert not thief.seen


async def test_two_layers_that_are_one_blob(tmp_path: Path) -> None:
    """Each is measured by its own diffID; and a layer that is the configuration is no archive."""
    archive = make.tar(member("x"))
    wrong = make.image([archive, archive], diffids=[make.sha(archive), "sha256:" + "0" * 64])
    right, other = make.image([archive, archive]), make.image([archive, make.tar(member("y"))])
    async with pair(tmp_path) as (server, images):
        server.put(wrong)
        assert "wrong digest" in await refused(server, images)
        document = json.loads(other.blobs[other.manifest])
        server.put(other)
        document["layers"][1] = document["config"] | {"mediaType": document["layers"][0]["mediaType"]}
        offer(server, document)
        await refused(server, images)
        server.put(right)
        assert len(images.layer_dirs(await finish(images.pull(f"{server.address}/app")))) == 2


# -- transport ----------------------------------------------------------------------------------------------------
async def test_documents_that_are_cut(tmp_path: Path) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)
        for digest, part in ((made.manifest, "/manifests/"), (made.config, made.config)):

            async def bend(
                request: web.Request, data: bytes = made.blobs[digest], part: str = part
            ) -> web.StreamResponse | None:
                return await send_part(request, data, 100) if part in request.path else None

            server.bend = bend
            await refused(server, images, Unavailable)


async def wrong_place(server: Liar, request: web.Request, data: bytes) -> web.StreamResponse:
    """206 with other bytes than were asked for."""
    return web.Response(status=206, body=data[5:] + bytes(5))


async def whole_as_part(server: Liar, request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(status=206, body=data, headers={"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"})


async def no_such_range(server: Liar, request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(status=416)


async def without_end(server: Liar, request: web.Request, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
    await response.prepare(request)
    await response.write(data)
    for _ in range(1000):
        await response.write(b"x" * 100_000)
    return response


async def nothing(server: Liar, request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(status=204)


async def page(server: Liar, request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(text="<html>log in</html>", content_type="text/html")


async def teapot(server: Liar, request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(status=418)


async def redirect_to(where: str, request: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": where})


BLOBS: dict[str, Callable[[Liar, web.Request, bytes], object]] = {
    "other bytes than asked for": wrong_place,
    "all where a part was asked for": whole_as_part,
    "no such range": no_such_range,
    "without end": without_end,
    "nothing": nothing,
    "a web page": page,
    "a teapot": teapot,
    "redirect to no address": lambda server, request, data: redirect_to("http://[::1", request),
    "redirect to a port that is none": lambda server, request, data: redirect_to("http://127.0.0.1:99999/x", request),
    "redirect to a host that is none": lambda server, request, data: redirect_to("http://a..b/\x7f", request),
    "redirect without a place": lambda server, request, data: redirect_to("", request),
}


GOOD_FOR_ALL = ("all where a part was asked for",)


@pytest.mark.parametrize("resumed", [False, True], ids=["from the start", "resumed"])
@pytest.mark.parametrize("name", BLOBS)
async def test_answers_for_a_blob(tmp_path: Path, name: str, resumed: bool) -> None:
    """Whatever comes: one typed error, nothing of it stays, and an honest registry then delivers."""
    made = sample()
    digest = big_blob(made)
    data = made.blobs[digest]
    async with pair(tmp_path) as (server, images):
        server.put(made)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if digest not in request.path:
                return None
            return await BLOBS[name](server, request, data)  # type: ignore[misc,no-any-return]

        server.bend = bend
        if resumed:
            images.content.part(digest).write_bytes(data[:1000])
        ref = f"{server.address}/app"
        if name in GOOD_FOR_ALL:  # the right bytes, called by a wrong name: taken, or asked for again
            assert await asyncio.wait_for(finish(images.pull(ref)), patience(60))
            return
        with pytest.raises(WharfError) as caught:
            await asyncio.wait_for(finish(images.pull(ref)), patience(60))
        assert isinstance(caught.value, (Corrupt, Unavailable))
        assert caught.value.why
        assert not leftovers(images)
        assert not await images.list()
        server.bend = None
        image = await finish(images.pull(f"{server.address}/app"))
        assert (images.layer_dirs(image)[1] / "d" / "big").read_bytes() == BIG


SPEECH = {
    "noise": b"\x00\xff\xfe" * 1000,
    "silence": b"",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 100_000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a chunk below nothing": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
}


@pytest.mark.parametrize("name", SPEECH)
async def test_what_is_no_http(tmp_path: Path, name: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            writer.write(SPEECH[name])
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with open_store(tmp_path) as images:
            with short_pauses(), pytest.raises(WharfError) as caught:
                await asyncio.wait_for(finish(images.pull(f"127.0.0.1:{port}/app")), patience(60))
            assert f"127.0.0.1:{port}" in str(caught.value)
            assert not leftovers(images)
    finally:
        server.close()
        await server.wait_closed()


# -- who may see what ---------------------------------------------------------------------------------------------
CHALLENGES = [
    *("", "Bearer", "Bearer realm=", 'Bearer realm=""', "Basic", "Negotiate", 'Digest realm="x",nonce="y"', "=", ",,,"),
    *('Bearer realm="http://[::1"', 'Bearer realm="http://127.0.0.1:99999/"', 'Bearer realm="file:///etc/passwd"'),
    *('Bearer realm="http://a@127.0.0.1@b/"', 'Bearer realm="//x"', 'Bearer realm="http://127.0.0.1:0/t"'),
    *('Bearer realm="' + "x" * 5000 + '"', 'Bearer realm="http://\u00e4/"', 'Bearer realm="http://169.254.169.254/x"'),
]


@pytest.mark.parametrize("challenge", CHALLENGES)
async def test_challenges_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, challenge: str) -> None:
    async with pair(tmp_path) as (server, images):
        log_in(tmp_path, monkeypatch, server.address)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})

        server.bend = bend
        with pytest.raises((Unauthorized, Unavailable)):
            await asyncio.wait_for(finish(images.pull(f"{server.address}/app")), patience(60))
        assert server.count("/v2/") < 20
        assert not leftovers(images)


async def tokens(server: Liar, answer: Callable[[web.Request], object]) -> None:
    """Have the registry ask for a token, which ``answer`` gives."""

    async def bend(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            return await answer(request)  # type: ignore[misc,no-any-return]
        if request.headers.get("Authorization") != "Bearer t0ken":
            challenge = f'Bearer realm="http://{server.address}/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return None

    server.bend = bend


async def test_a_token_that_comes_in_pieces(tmp_path: Path) -> None:
    made = sample()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"tok', b'en": "t0', b'ken"}'):
            await response.write(piece)
            await asyncio.sleep(0.05)
        return response

    async with pair(tmp_path) as (server, images):
        server.put(made)
        await tokens(server, answer)
        assert await finish(images.pull(f"{server.address}/app"))


BAD_TOKENS = [b"", b"[]", b"5", b'{"token": 5}', b'{"token": ""}', b"<html>", b"{}", b"[" * 9999, b" " * 5_000_000]
BAD_TOKENS.append(rb'{"token": "a\r\nX: y"}')


@pytest.mark.parametrize("body", BAD_TOKENS)
async def test_tokens_that_are_none(tmp_path: Path, body: bytes) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    async with pair(tmp_path) as (server, images):
        await tokens(server, answer)
        with pytest.raises((Unauthorized, Unavailable)):
            await asyncio.wait_for(finish(images.pull(f"{server.address}/app")), patience(60))
        assert server.count("/v2/") < 20


async def test_a_token_service_that_sends_us_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our password was for the realm, not for where it redirects to."""
    async with liar() as thief, pair(tmp_path) as (server, images):
        log_in(tmp_path, monkeypatch, server.address)

        async def answer(request: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(f"http://{thief.address}/token")

        await tokens(server, answer)
        await refused(server, images, Unauthorized)
        assert not thief.seen


async def test_a_redirect_never_carries_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to another port of the same host, nor back from there to a place of the thief's choice."""
    made = sample()
    async with liar() as thief, pair(tmp_path) as (server, images):
        log_in(tmp_path, monkeypatch, server.address)
        server.put(made)

        async def away(request: web.Request) -> web.StreamResponse | None:
            if "Authorization" not in request.headers and "stolen" not in request.path:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in request.path:
                raise web.HTTPTemporaryRedirect(f"http://{thief.address}/x")
            return None

        async def back(request: web.Request) -> web.StreamResponse | None:
            raise web.HTTPTemporaryRedirect(f"http://{server.address}/stolen")

        server.bend, thief.bend = away, back
        await refused(server, images, WharfError)
        assert thief.seen
        assert not any("Authorization" in headers for _, headers in thief.seen)
        stolen = [headers for path, headers in server.seen if "stolen" in path]
        assert stolen
        assert not any("Authorization" in headers for headers in stolen)
