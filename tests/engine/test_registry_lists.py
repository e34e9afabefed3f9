"""What a registry tells without a pull: tags, repositories, referrers, and whether there is something newer."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from aiohttp import web

from core.errors import Corrupt, InvalidArgument, NotFound, Unavailable
from core.images.listing import nearest
from core.images.manifest import INDEXES, MANIFESTS, host_platform
from core.images.remote import catalogue, check, referrers, search, tags
from tests import images as make
from tests.engine.test_registry_read import index, layout, sample
from tests.images_lab import finish, open_store
from tests.liar import liar
from tests.patience import patience
from tests.registry import free_port, push, registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
    pytest.mark.usefixtures("own_settings"),
]


# -- tags ---------------------------------------------------------------------------------------------------------
@pytest.mark.registry
async def test_tags_and_catalogue(tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        source = layout(tmp_path / "layout", sample())
        for name in ("team/app:1.0", "team/app:1.1", "team/app:bookworm-slim", "other:x"):
            push(source, f"{address}/{name}")
        async with open_store(tmp_path) as images:
            assert sorted(await tags(images, f"{address}/team/app")) == ["1.0", "1.1", "bookworm-slim"]
            assert await catalogue(images, address) == ["other", "team/app"]
            with pytest.raises(NotFound, match="no such repository"):
                await tags(images, f"{address}/nothing")
            with pytest.raises(InvalidArgument):
                await tags(images, f"{address}/team/app:1.0")
            for wrong, close in (
                ("1", "1.0 or 1.1"),
                ("bookworm", "bookworm-slim"),
                ("boookworm-slim", "bookworm-slim"),
            ):
                with pytest.raises(NotFound, match=f"Did you mean {close}"):
                    await finish(images.pull(f"{address}/team/app:{wrong}"))
            with pytest.raises(NotFound, match="Its tags: '"):
                await finish(images.pull(f"{address}/team/app:zzz"))
            # No /v1/search there: the catalogue is looked through.
            assert [one.name for one in await search(images, f"{address}/APP")] == [f"{address}/team/app"]


def test_nearest_tags() -> None:
    have = ["1.24.0", "1.24", "1.25", "1.25-alpine", "latest", "stable"]
    assert nearest("1.24.1", have)[0] == "1.24"
    assert nearest("lastest", have) == ["latest"]
    assert nearest("qqq", have) == []
    assert len(nearest("1.2", have)) <= 5


async def test_pages_of_tags(tmp_path: Path) -> None:
    """A page names the next; to what host it says that it goes does not matter, and in circles nobody runs."""
    async with liar() as thief, liar() as server, open_store(tmp_path) as images:
        pages = {"": ("a", "b"), "b": ("c", "d"), "d": ("e",)}
        following = {"": "b", "b": "d"}

        async def bend(request: web.Request) -> web.StreamResponse | None:
            last = request.query.get("last", "")
            headers = {}
            if last in following:
                headers["Link"] = f'<http://{thief.address}/v2/x/tags/list?last={following[last]}&n=2>; rel="next"'
            return web.json_response({"name": "app", "tags": list(pages[last])}, headers=headers)

        server.bend = bend
        assert await tags(images, f"{server.address}/app") == ["a", "b", "c", "d", "e"]
        assert not thief.seen
        following["d"] = "b"
        with pytest.raises(Unavailable, match="circles"):
            await tags(images, f"{server.address}/app")


async def test_names_that_are_harmful_to_a_terminal(tmp_path: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if "_catalog" in request.path:
                return web.json_response({"repositories": ["good", "bad\x1b[2J\n", 5]})
            if "search" in request.path:
                result = {"name": "x\x07", "description": "two\nlines\x1b]0;t\x07", "star_count": "many"}
                return web.json_response({"results": [result, 3], "num_pages": "x"})
            return web.json_response({"tags": ["v1", "v\x1b[31m", {}]})

        server.bend = bend
        assert await tags(images, f"{server.address}/app") == ["v1", "v[31m"]
        assert await catalogue(images, server.address) == ["good", "bad[2J"]
        (found,) = await search(images, f"{server.address}/app")
        assert (found.name, found.description, found.stars) == (f"{server.address}/x", "two lines]0;t", 0)


async def test_a_list_without_end(tmp_path: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:

        async def bend(request: web.Request) -> web.StreamResponse | None:
            return web.Response(body=b'{"tags": ["' + b"x" * 5_000_000)

        server.bend = bend
        with pytest.raises(Corrupt, match="too long"):
            await tags(images, f"{server.address}/app")


async def test_search_pages(tmp_path: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:

        async def bend(request: web.Request) -> web.StreamResponse | None:
            assert request.path == "/v1/search"
            page, count = int(request.query["page"]), int(request.query["n"])
            results = [{"name": f"app{page}-{number}", "star_count": number} for number in range(count)]
            return web.json_response({"results": results, "num_pages": 3})

        server.bend = bend
        found = await search(images, f"{server.address}/app", limit=100)
        assert len({one.name for one in found}) == 100
        assert len(await search(images, f"{server.address}/app", limit=7)) == 7


# -- referrers ----------------------------------------------------------------------------------------------------
def referring(*kinds: str) -> bytes:
    entries = [
        make.describe(kind.encode(), MANIFESTS[0], artifactType=kind, annotations={"made": kind[-3:]}) for kind in kinds
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": entries}).encode()


async def test_referrers(tmp_path: Path) -> None:
    made = sample()
    async with liar() as server, open_store(tmp_path) as images:
        server.put(made)
        document = referring("application/spdx", "application/vnd.sig")

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if request.path == f"/v2/app/referrers/{made.manifest}":
                return web.Response(body=document, content_type=INDEXES[0])
            return None

        server.bend = bend
        found = await referrers(images, f"{server.address}/app")
        assert [(one.kind, one.annotations) for one in found] == [
            ("application/spdx", {"made": "pdx"}),
            ("application/vnd.sig", {"made": "sig"}),
        ]
        (one,) = await referrers(images, f"{server.address}/app", "application/vnd.sig")
        assert one.digest == make.sha(b"application/vnd.sig")


async def test_referrers_of_a_registry_that_knows_none(tmp_path: Path) -> None:
    made = sample()
    async with liar() as server, open_store(tmp_path) as images:
        server.put(made)
        assert await referrers(images, f"{server.address}/app") == []
        server.tags[made.manifest.replace(":", "-")] = (referring("application/x"), INDEXES[0])
        assert [one.kind for one in await referrers(images, f"{server.address}/app")] == ["application/x"]


# -- is there something newer? ------------------------------------------------------------------------------------
@pytest.mark.registry
async def test_newer_versions(tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        source = layout(tmp_path / "one", sample())
        for tag in ("1", "2"):
            push(source, f"{address}/app:{tag}")
        async with open_store(tmp_path) as images:
            names = [f"{address}/app:1", f"{address}/app:2"]
            for name in names:
                await finish(images.pull(name))
            assert {one.status for one in await check(images, names)} == {"current"}
            push(layout(tmp_path / "two", sample(b"2")), f"{address}/app:1")
            one, two = await check(images, names)
            assert (one.status, two.status) == ("newer", "current")
            assert one.here != one.there
            await finish(images.load(make.layout(tmp_path / "local", sample(b"3"), f"{address}/never:1")))
            down = f"127.0.0.1:{free_port()}/x:1"
            await finish(images.load(make.layout(tmp_path / "down", sample(b"4"), down)))
            assert (await check(images, [f"{address}/never:1"]))[0].status == "local"
            (missing,) = await check(images, [down])
            assert missing.status == "local"


async def test_an_index_that_changed_for_others_is_nothing_newer(tmp_path: Path) -> None:
    here = host_platform().architecture
    mine, foreign, newer = sample(b"m", architecture=here), sample(b"f", architecture="s390x"), sample(b"n")
    async with liar() as server, open_store(tmp_path) as images:
        digests = {"latest": index(server, "latest", (mine, here, ""), (foreign, "s390x", ""))}

        async def bend(request: web.Request) -> web.StreamResponse | None:
            response = server.honest(request)
            if request.path.endswith("/latest") and response.status == 200:
                response.headers["Docker-Content-Digest"] = digests["latest"]
            return response

        server.bend = bend
        name = f"{server.address}/app"
        await finish(images.pull(name))
        assert (await check(images, [name]))[0].status == "current"
        digests["latest"] = index(server, "latest", (mine, here, ""), (newer, "s390x", ""))
        (found,) = await check(images, [name])
        assert (found.status, bool(found.why)) == ("current", True)
        digests["latest"] = index(server, "latest", (newer, here, ""), (foreign, "s390x", ""))
        assert (await check(images, [name]))[0].status == "newer"
        del server.tags["latest"]
        assert (await check(images, [name]))[0].status == "gone"
        server.bend = None
        server.tags["latest"] = (b"x" * 5_000_000, INDEXES[0])
        assert (await check(images, [name]))[0].status == "unknown"


async def test_a_search_without_end(tmp_path: Path) -> None:
    """A million pages, and nothing on them."""
    async with liar() as server, open_store(tmp_path) as images:

        async def bend(_: web.Request) -> web.StreamResponse:
            return web.json_response({"num_pages": 1_000_000, "results": []})

        server.bend = bend
        async with asyncio.timeout(patience(60)):
            assert await search(images, f"{server.address}/app") == []
        assert len(server.seen) == 1
