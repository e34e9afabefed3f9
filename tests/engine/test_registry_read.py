"""Mirrors, limits, platforms, and what a registry tells without a pull."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from core.errors import InvalidArgument, NotFound, RateLimited
from core.images.manifest import INDEXES, MANIFESTS, host_platform
from core.images.store import ImageStore
from tests import images as make
from tests.images import directory, member
from tests.images_lab import finish, leftovers, open_store
from tests.liar import Liar, liar
from tests.registry import free_port, push, registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
    pytest.mark.usefixtures("own_settings"),
]
BIG = os.urandom(400_000)


def sample(mark: bytes = b"1", **options: Any) -> make.Made:
    layers = [
        make.tar(directory("d"), member("d/big", data=BIG)),
        make.tar(directory("d"), member("d/mark", data=mark)),
    ]
    return make.image(layers, **options)


def mirrors(file: Path, domain: str, *places: str) -> None:
    file.write_text(f'[registries."{domain}"]\nmirrors = {json.dumps(list(places))}\n')


def layout(folder: Path, made: make.Made) -> str:
    return f"oci:{make.layout(folder, made, 'x')}:x"


async def notices(images: ImageStore, reference: str) -> Sequence[str]:
    """Pull; what was noted on the way."""
    steps = [step async for step in images.pull(reference)]
    assert steps[-1].image
    return steps[-1].notices


def methods(server: Liar, part: str) -> int:
    return server.count(part)


# -- mirrors ------------------------------------------------------------------------------------------------------
@pytest.mark.registry
async def test_a_mirror_stands_for_a_registry_that_is_not_there(tmp_path: Path, own_settings: Path) -> None:
    made = sample()
    with registry(tmp_path / "registry") as address:
        push(layout(tmp_path / "layout", made), f"{address}/copies/team/app:1")
        mirrors(own_settings, "registry.invalid", f"{address}/copies")
        async with open_store(tmp_path) as images:
            image = await finish(images.pull("registry.invalid/team/app:1"))
            assert image.tags == ("registry.invalid/team/app:1",)
            assert (images.layer_dirs(image)[1] / "d/big").read_bytes() == BIG


async def test_mirrors_of_every_registry_are_told_which(tmp_path: Path, own_settings: Path) -> None:
    asked: set[str] = set()

    async def bend(request: web.Request) -> web.StreamResponse | None:
        asked.add(request.query.get("ns", ""))
        return None

    async with liar() as mirror, open_store(tmp_path) as images:
        mirror.put(sample())
        mirror.bend = bend
        own_settings.write_text(f'[registries."*"]\nmirrors = ["{mirror.address}"]\n')
        assert await finish(images.pull("registry.invalid/app"))
        assert asked == {"registry.invalid"}


async def test_a_mirror_that_is_down_is_passed_by(tmp_path: Path, own_settings: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:
        server.put(sample())
        dead = f"127.0.0.1:{free_port()}"
        mirrors(own_settings, server.address, dead, server.address)
        (notice,) = await notices(images, f"{server.address}/app")
        assert dead in notice


async def test_a_mirror_that_lacks_the_image_is_passed_by(tmp_path: Path, own_settings: Path) -> None:
    async with liar() as mirror, liar() as server, open_store(tmp_path) as images:
        server.put(sample())
        mirrors(own_settings, server.address, mirror.address)
        assert not await notices(images, f"{server.address}/app")
        assert mirror.seen


@pytest.mark.parametrize("which", [0, 1])
async def test_a_mirror_that_lies_is_passed_by(tmp_path: Path, own_settings: Path, which: int) -> None:
    """Wrong bytes of a layer, or of the configuration: the registry itself is asked, and the image is right."""
    made = sample()
    bad = made.layers[0] if which else made.config
    async with liar() as mirror, liar() as server, open_store(tmp_path) as images:
        server.put(made)
        mirror.put(made)
        mirror.blobs[bad] = bytes(len(made.blobs[bad]))
        mirrors(own_settings, server.address, mirror.address)
        assert any(mirror.address in line for line in await notices(images, f"{server.address}/app"))
        image = await images.get(f"{server.address}/app")
        assert (images.layer_dirs(image)[1] / "d/big").read_bytes() == BIG
        assert not leftovers(images)


async def test_a_mirror_that_breaks_off_in_the_middle(tmp_path: Path, own_settings: Path) -> None:
    """What it has sent is kept: the registry itself is asked for the rest alone."""
    made = sample()
    blob = made.layers[0]
    async with liar() as mirror, liar() as server, open_store(tmp_path) as images:
        server.put(made)
        mirror.put(made)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if blob not in request.path:
                return None
            if "Range" in request.headers:
                return web.Response(status=404)
            response = web.StreamResponse()
            response.content_length = len(made.blobs[blob])
            await response.prepare(request)
            await response.write(made.blobs[blob][:200_000])
            assert request.transport is not None
            request.transport.close()
            return response

        mirror.bend = bend
        mirrors(own_settings, server.address, mirror.address)
        assert await finish(images.pull(f"{server.address}/app"))
        ranges = [headers.get("Range") for path, headers in server.seen if blob in path]
        assert len(ranges) == 1
        assert ranges[0]
        assert 0 < int(ranges[0].removeprefix("bytes=").removesuffix("-")) <= 200_000


# -- limits -------------------------------------------------------------------------------------------------------
async def limited(tmp_path: Path, headers: dict[str, str]) -> str:
    async with liar() as server, open_store(tmp_path) as images:

        async def bend(request: web.Request) -> web.StreamResponse | None:
            body = {"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached\x1b[31m your limit"}]}
            return web.json_response(body, status=429, headers=headers)

        server.bend = bend
        with pytest.raises(RateLimited) as caught:
            await finish(images.pull(f"{server.address}/app"))
        assert server.count("manifests") == 1, "it asked again, although it was told to wait"
        assert "\x1b" not in str(caught.value)
        return str(caught.value)


async def test_limits_are_shown_as_such(tmp_path: Path) -> None:
    told = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600", "docker-ratelimit-source": "1.2.3.4"}
    text = await limited(tmp_path / "a", told)
    assert "100 per 6 hours, 0 left; counted for 1.2.3.4; You have reached" in text
    assert "wharf login" in text
    assert "in 2 hours" in await limited(tmp_path / "b", {"Retry-After": "7200"})
    date = formatdate(time.time() + 7300, usegmt=True)
    assert "in 2 hours" in await limited(tmp_path / "c", {"Retry-After": date})


async def test_a_short_wait_is_waited(tmp_path: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:
        server.put(sample())

        async def bend(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=429, headers={"Retry-After": "1"}) if len(server.seen) == 1 else None

        server.bend = bend
        began = time.monotonic()
        assert await finish(images.pull(f"{server.address}/app"))
        assert time.monotonic() - began >= 1


async def test_what_is_left_is_noted_when_it_is_little(tmp_path: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:
        server.put(sample())

        async def bend(request: web.Request) -> web.StreamResponse | None:
            response = server.honest(request)
            response.headers.update({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "3;w=21600"})
            return response

        server.bend = bend
        assert any("100 per 6 hours, 3 left" in line for line in await notices(images, f"{server.address}/app"))


# -- asking first -------------------------------------------------------------------------------------------------
@pytest.mark.registry
async def test_nothing_is_fetched_that_is_the_same(tmp_path: Path) -> None:
    log = tmp_path / "registry" / "log"
    more = ""
    with registry(tmp_path / "registry", more=more) as address:
        config = tmp_path / "registry" / "config.yml"
        assert config.exists()
        push(layout(tmp_path / "one", sample()), f"{address}/app:1")
        async with open_store(tmp_path) as images:
            first = [step async for step in images.pull(f"{address}/app:1")][-1]
            assert first.changed
            assert first.image
            assert first.digest == first.image.repo_digests[0].partition("@")[2]
            second = [step async for step in images.pull(f"{address}/app:1")][-1]
            assert (second.changed, second.digest) == (False, first.digest)
            push(layout(tmp_path / "two", sample(b"2")), f"{address}/app:1")
            third = [step async for step in images.pull(f"{address}/app:1")][-1]
            assert third.changed
            assert third.image != first.image
    assert log.exists()


async def test_one_head_tells_that_nothing_has_changed(tmp_path: Path) -> None:
    made = sample()
    async with liar() as server, open_store(tmp_path) as images:
        server.put(made)
        asked: list[str] = []

        async def bend(request: web.Request) -> web.StreamResponse | None:
            asked.append(f"{request.method} {request.path}")
            response = server.honest(request)
            if "manifests" in request.path:
                response.headers["Docker-Content-Digest"] = made.manifest
            return response

        server.bend = bend
        await finish(images.pull(f"{server.address}/app"))
        asked.clear()
        await finish(images.pull(f"{server.address}/app"))
        assert asked == ["HEAD /v2/app/manifests/latest"]
        asked.clear()
        await finish(images.pull(f"{server.address}/app@{made.manifest}"))
        assert asked == []


# -- platforms ----------------------------------------------------------------------------------------------------
def index(server: Liar, tag: str, *made: tuple[make.Made, str, str]) -> str:
    """Put an index of images for (architecture, variant); its digest."""
    entries = []
    for image, architecture, variant in made:
        server.put(image, image.manifest)
        platform = {"os": "linux", "architecture": architecture} | ({"variant": variant} if variant else {})
        entries.append(make.describe(image.blobs[image.manifest], MANIFESTS[0], platform=platform))
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": entries}).encode()
    server.tags[tag] = (data, INDEXES[0])
    return make.sha(data)


async def test_another_platform(tmp_path: Path) -> None:
    here = host_platform().architecture
    mine, foreign = sample(b"mine", architecture=here), sample(b"foreign", architecture="s390x")
    async with liar() as server, open_store(tmp_path) as images:
        index(server, "latest", (mine, here, ""), (foreign, "s390x", ""))
        name = f"{server.address}/app"
        assert (await finish(images.pull(name))).id == mine.config
        image = await finish(images.pull(name, platform="linux/s390x"))
        assert (image.id, image.architecture) == (foreign.config, "s390x")
        assert (await images.get(name)).id == foreign.config
        assert (await finish(images.pull(name))).id == mine.config
        with pytest.raises(NotFound, match="linux/s390x"):
            await finish(images.pull(name, platform="linux/arm/v7"))
        with pytest.raises(InvalidArgument):
            await finish(images.pull(name, platform="a/b/c/d"))
        server.put(foreign, "single")
        with pytest.raises(NotFound, match="it is for linux/s390x only"):
            await finish(images.pull(f"{name}:single", platform=f"linux/{here}"))
        last = [step async for step in images.pull(f"{name}:single")][-1]
        assert last.image
        assert last.image.architecture == "s390x"  # without a choice, as docker …
        assert "made for linux/s390x" in last.notices[0]  # … and it is said
