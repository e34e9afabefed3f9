"""Pulling from registries that are real, and from ones that lie."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from core.errors import Corrupt, NotFound, Unauthorized, Unavailable, Unsupported
from core.images.manifest import INDEXES, MANIFESTS, host_platform
from core.images.store import ImageStore
from tests import images as make
from tests.images import directory, member
from tests.images_lab import finish, leftovers, open_store
from tests.liar import Liar, liar
from tests.ports import free_port
from tests.registry import need, push, registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
    pytest.mark.usefixtures("own_settings"),
]
BIG = os.urandom(3_000_000)


def sample() -> make.Made:
    return make.image(
        [make.tar(directory("d"), member("d/big", data=BIG)), make.tar(directory("d"), member("d/small", data=b"s"))]
    )


@contextlib.asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[tuple[Liar, ImageStore]]:
    async with liar() as server, open_store(folder) as images:
        yield server, images


def big_blob(made: make.Made) -> str:
    return made.layers[0]


# -- a real one ---------------------------------------------------------------------------------------------------
@pytest.mark.registry
async def test_pull_from_docker_registry(tmp_path: Path) -> None:
    made = sample()
    folder = make.layout(tmp_path / "layout", made, "x")
    with registry(tmp_path / "registry") as address:
        push(f"oci:{folder}:x", f"{address}/team/app:1")
        async with open_store(tmp_path) as images:
            phases = set()
            async for step in images.pull(f"{address}/team/app:1"):
                phases |= {layer.phase for layer in step.layers}
                image = step.image
            assert image is not None
            assert phases <= {"waiting", "downloading", "unpacking", "done"}
            assert (image.id, image.tags) == (made.config, (f"{address}/team/app:1",))
            assert image.repo_digests[0].startswith(f"{address}/team/app@sha256:")
            assert image.config.cmd == ("/bin/true",)
            upper, lower = images.layer_dirs(image)
            assert (lower / "d" / "big").read_bytes() == BIG
            assert (upper / "d" / "small").read_bytes() == b"s"
            again = [step async for step in images.pull(f"{address}/team/app:1")]
            assert {layer.phase for layer in again[-1].layers} == {"exists"}
            by_digest = await finish(images.pull(image.repo_digests[0]))
            assert by_digest == image
            for ref in (image.id, image.short_id, image.tags[0], image.repo_digests[0]):
                assert await images.get(ref) == image
            with pytest.raises(NotFound, match="no such image"):
                await finish(images.pull(f"{address}/team/app:2"))
            with pytest.raises(NotFound, match="no such image"):
                await finish(images.pull(f"{address}/nobody/nothing"))
            assert await images.list() == [image]


@pytest.mark.registry
async def test_docker_formats_and_zstd(tmp_path: Path) -> None:
    need("skopeo")
    made = sample()
    folder = make.layout(tmp_path / "layout", made, "x")
    with registry(tmp_path / "registry") as address:
        for tag, options in {
            "v2s2": ["--format=v2s2"],
            "zstd": ["--dest-compress-format=zstd", "--format=oci"],
        }.items():
            copy = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *options]
            subprocess.run([*copy, f"oci:{folder}:x", f"docker://{address}/app:{tag}"], check=True)
            async with open_store(tmp_path / tag) as images:
                image = await finish(images.pull(f"{address}/app:{tag}"))
                assert (images.layer_dirs(image)[1] / "d" / "big").read_bytes() == BIG


@pytest.mark.registry
async def test_basic_authentication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("perl", "skopeo")
    users = tmp_path / "htpasswd"
    bcrypt = ["perl", "-e", "print crypt('secret', '$2y$05$abcdefghijklmnopqrstuu')"]
    users.write_bytes(b"ann:" + subprocess.run(bcrypt, check=True, capture_output=True).stdout + b"\n")
    folder = make.layout(tmp_path / "layout", sample(), "x")
    with registry(tmp_path / "registry", htpasswd=users) as address:
        copy = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--dest-creds=ann:secret"]
        subprocess.run([*copy, f"oci:{folder}:x", f"docker://{address}/app:1"], check=True)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        async with open_store(tmp_path) as images:
            with pytest.raises(Unauthorized, match=address):
                await finish(images.pull(f"{address}/app:1"))
            secret = base64.b64encode(b"ann:secret").decode()
            (tmp_path / "config.json").write_text(json.dumps({"auths": {address: {"auth": secret}}}))
            assert (await finish(images.pull(f"{address}/app:1"))).tags


# -- nobody there -------------------------------------------------------------------------------------------------
async def test_registry_down_names_host_and_port(tmp_path: Path) -> None:
    port = free_port()
    async with open_store(tmp_path) as images:
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            await finish(images.pull(f"127.0.0.1:{port}/x"))
        assert not leftovers(images)


async def test_no_such_host(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        with pytest.raises(Unavailable, match=r"registry\.invalid"):
            await finish(images.pull("registry.invalid/x"))


# -- lies ---------------------------------------------------------------------------------------------------------
async def refused(server: Liar, images: ImageStore, kind: type[Exception] = Corrupt) -> str:
    """Pull what must fail; afterwards nothing is there."""
    with pytest.raises(kind) as caught:
        await finish(images.pull(f"{server.address}/app"))
    assert not leftovers(images)
    assert not await images.list()
    return str(caught.value)


@pytest.mark.parametrize("which", [0, 1])
async def test_a_blob_with_other_bytes(tmp_path: Path, which: int) -> None:
    made = sample()
    digest = made.layers[which]
    async with pair(tmp_path) as (server, images):
        server.put(made)
        flipped = bytearray(made.blobs[digest])
        flipped[len(flipped) // 2] ^= 0x10
        server.blobs[digest] = bytes(flipped)
        await refused(server, images)
        assert not images.content.part(digest).exists()
        server.put(made)
        assert await finish(images.pull(f"{server.address}/app"))


async def test_another_good_archive_under_the_digest(tmp_path: Path) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)
        other = make.gz(make.tar(member("other")))
        # The same size: or the length would give it away.
        server.blobs[big_blob(made)] = other + bytes(len(made.blobs[big_blob(made)]) - len(other))
        assert "wrong digest" in await refused(server, images)


@pytest.mark.parametrize("change", [-100, 100])
async def test_a_blob_of_another_size(tmp_path: Path, change: int) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)
        blob = server.blobs[big_blob(made)]
        server.blobs[big_blob(made)] = blob[:change] if change < 0 else blob + bytes(change)
        await refused(server, images)


async def test_a_configuration_with_other_bytes(tmp_path: Path) -> None:
    made = sample()
    async with pair(tmp_path) as (server, images):
        server.put(made)
        server.blobs[made.config] += b" "
        assert "wrong digest" in await refused(server, images)


async def test_a_manifest_that_is_not_what_was_asked_for(tmp_path: Path) -> None:
    made, other = sample(), make.image([make.tar(member("other"))])
    async with pair(tmp_path) as (server, images):
        server.put(made)
        server.put(other, made.manifest)
        with pytest.raises(Corrupt, match="wrong digest"):
            await finish(images.pull(f"{server.address}/app@{made.manifest}"))


async def test_configuration_and_manifest_disagree(tmp_path: Path) -> None:
    made = make.image([make.tar(member("x"))], diffids=["sha256:" + "1" * 64, "sha256:" + "2" * 64])
    async with pair(tmp_path) as (server, images):
        server.put(made)
        assert "contradicts itself" in await refused(server, images)


async def test_a_manifest_without_end(tmp_path: Path) -> None:
    async with pair(tmp_path) as (server, images):
        server.tags["latest"] = (b" " * 5_000_000, MANIFESTS[0])
        assert "too long" in await refused(server, images)


async def test_a_web_page_instead_of_a_registry(tmp_path: Path) -> None:
    async with pair(tmp_path) as (server, images):
        server.tags["latest"] = (b"<html>Please log in</html>", "text/html")
        assert "not JSON" in await refused(server, images)


async def test_indexes(tmp_path: Path) -> None:
    made, foreign = sample(), make.image([make.tar(member("foreign"))], architecture="s390x")
    here = host_platform()
    entries = [
        make.describe(foreign.blobs[foreign.manifest], MANIFESTS[0], platform={"os": "linux", "architecture": "s390x"}),
        make.describe(
            made.blobs[made.manifest], MANIFESTS[0], platform={"os": "linux", "architecture": here.architecture}
        ),
    ]
    async with pair(tmp_path) as (server, images):
        server.put(made)
        server.put(foreign)
        document = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": entries}
        server.tags["latest"] = (json.dumps(document).encode(), INDEXES[0])
        image = await finish(images.pull(f"{server.address}/app"))
        assert image.id == made.config
        assert image.repo_digests == (f"{server.address}/app@{make.sha(json.dumps(document).encode())}",)
        document["manifests"] = entries[:1]
        server.tags["latest"] = (json.dumps(document).encode(), INDEXES[0])
        with pytest.raises(NotFound, match="s390x"):
            await finish(images.pull(f"{server.address}/app"))
        both = document | {"layers": [], "config": {}}
        server.tags["latest"] = (json.dumps(both).encode(), INDEXES[0])
        with pytest.raises(Corrupt):
            await finish(images.pull(f"{server.address}/app"))
        server.tags["latest"] = (b'{"schemaVersion": 1}', "application/vnd.docker.distribution.manifest.v1+json")
        with pytest.raises(Unsupported):
            await finish(images.pull(f"{server.address}/app"))


# -- credentials --------------------------------------------------------------------------------------------------
def log_in(folder: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    secret = base64.b64encode(b"ann:secret").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": secret}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


async def test_tokens_and_redirects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes to the registry alone: where it redirects blobs to, nobody sees it."""
    made = sample()
    async with liar() as storage, pair(tmp_path) as (server, images):
        server.put(made)
        storage.put(made)
        log_in(tmp_path, monkeypatch, server.address)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            if request.path == "/token":
                assert request.query["scope"] == "repository:app:pull"
                assert request.headers["Authorization"].startswith("Basic ")
                return web.json_response({"token": "t0ken"})
            if request.headers.get("Authorization") != "Bearer t0ken":
                challenge = f'Bearer realm="http://{server.address}/token",service="s",scope="repository:app:pull"'
                return web.Response(status=401, headers={"WWW-Authenticate": challenge})
            if "/blobs/" in request.path:
                raise web.HTTPTemporaryRedirect(f"http://{storage.address}{request.path}")
            return None

        server.bend = bend
        assert await finish(images.pull(f"{server.address}/app"))
        assert storage.seen
        assert not any("Authorization" in headers for _, headers in storage.seen)
        assert server.count("/token") == 1


async def test_a_realm_elsewhere_gets_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with liar() as thief, pair(tmp_path) as (server, images):
        other = thief.address.replace("127.0.0.1", "localhost")
        log_in(tmp_path, monkeypatch, server.address)

        async def bend(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{other}/token"'})

        server.bend = bend
        await refused(server, images, Unauthorized)
        assert not thief.seen


async def test_redirects_in_circles(tmp_path: Path) -> None:
    async with pair(tmp_path) as (server, images):

        async def bend(request: web.Request) -> web.StreamResponse | None:
            raise web.HTTPTemporaryRedirect(request.path)

        server.bend = bend
        assert "circles" in await refused(server, images, Unavailable)


async def test_a_redirect_to_a_file(tmp_path: Path) -> None:
    async with pair(tmp_path) as (server, images):

        async def bend(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=307, headers={"Location": "file:///etc/passwd"})

        server.bend = bend
        assert "not safe" in await refused(server, images, Unavailable)
