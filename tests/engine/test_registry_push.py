"""Pushing: what arrives is what was here, nothing is sent twice, and a broken connection costs its last piece."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from core.errors import Unauthorized
from core.images import tarwrite
from core.images.auth import Credentials
from core.images.store import ImageStore
from core.model import Image, PushProgress
from core.store.registries import CredentialSettings
from tests import images as make
from tests.images_lab import finish, open_store, snapshot
from tests.registry import certificates, htpasswd, need, registry
from tests.tokens import token_server
from tests.trees import rich

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
    pytest.mark.usefixtures("own_settings"),
]


def layers(folder: Path) -> list[bytes]:
    """Two layers as the engine itself archives them: one with everything in it, one that is large and random."""
    (folder / "second").mkdir(parents=True)
    (folder / "second" / "noise").write_bytes(os.urandom(3_000_000))
    return [b"".join(tarwrite.layer(path)) for path in (rich(folder / "first"), folder / "second")]


async def loaded(images: ImageStore, folder: Path, *names: str) -> Image:
    """An image that never was in a registry, under these names."""
    made = make.image(layers(folder / "trees"))
    image = None
    for number, name in enumerate(names):
        image = await finish(images.load(make.layout(folder / f"layout{number}", made, name)))
    assert image is not None
    return image


async def pushed(images: ImageStore, reference: str, compression: str = "") -> PushProgress:
    steps = [step async for step in images.push(reference, compression=compression)]
    assert steps[-1].digest
    return steps[-1]


def phases(last: PushProgress) -> list[str]:
    return [layer.phase for layer in last.layers]


async def trees(images: ImageStore, reference: str) -> list[dict[bytes, tuple[object, ...]]]:
    return [snapshot(path) for path in images.layer_dirs(await images.get(reference))]


# -- round trips --------------------------------------------------------------------------------------------------
@pytest.mark.registry
@pytest.mark.parametrize("compression", ["", "zstd", "none"])
async def test_there_and_back(tmp_path: Path, compression: str) -> None:
    with registry(tmp_path / "registry") as address:
        name = f"{address}/team/app:1"
        async with open_store(tmp_path / "one") as images:
            image = await loaded(images, tmp_path, name)
            before = await trees(images, name)
            first = await pushed(images, name, compression)
            assert phases(first) == ["done", "done"]
            assert f"{address}/team/app@{first.digest}" in (await images.get(name)).repo_digests
            again = await pushed(images, name, compression)
            assert (phases(again), again.digest) == (["exists", "exists"], first.digest)
        async with open_store(tmp_path / "two") as images:
            assert (await finish(images.pull(f"{address}/team/app@{first.digest}"))).id == image.id
            await finish(images.pull(name))
            assert await trees(images, name) == before


@pytest.mark.registry
async def test_skopeo_and_umoci_read_what_was_pushed(tmp_path: Path) -> None:
    need("skopeo", "umoci")
    with registry(tmp_path / "registry") as address:
        async with open_store(tmp_path) as images:
            image = await loaded(images, tmp_path, f"{address}/app:1")
            await pushed(images, f"{address}/app:1")
        out = tmp_path / "out"
        copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{address}/app:1"]
        subprocess.run([*copy, f"oci:{out}:x"], check=True)
        subprocess.run(["umoci", "unpack", "--image", f"{out}:x", str(tmp_path / "bundle")], check=True)
        found = snapshot(tmp_path / "bundle" / "rootfs")
        for tree in ("first", "second"):
            for path, node in snapshot(tmp_path / "trees" / tree).items():
                assert found[path] == node, path
        inspect = ["skopeo", "inspect", "--tls-verify=false", "--config", f"docker://{address}/app:1"]
        config = json.loads(subprocess.run(inspect, check=True, capture_output=True).stdout)
        assert config["rootfs"]["diff_ids"] == list(image.layers)


@pytest.mark.registry
async def test_a_pulled_image_keeps_its_digest(tmp_path: Path) -> None:
    """Elsewhere in the same registry its layers are taken over; the manifest goes on as it came."""
    with registry(tmp_path / "registry") as address:
        async with open_store(tmp_path / "one") as images:
            await loaded(images, tmp_path, f"{address}/app:1")
            first = await pushed(images, f"{address}/app:1")
        async with open_store(tmp_path / "two") as images:
            image = await finish(images.pull(f"{address}/app:1"))
            await images.tag(image.id, f"{address}/other/place:2")
            last = await pushed(images, f"{address}/other/place:2")
            assert last.digest == first.digest
            assert [(layer.phase, layer.source) for layer in last.layers] == [("mounted", "app")] * 2
            found = await images.get(f"{address}/other/place:2")
            assert len(found.repo_digests) == 2


@pytest.mark.registry
async def test_a_layer_that_is_twice_in_an_image_goes_once(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"same")
    layer = b"".join(tarwrite.layer(tmp_path / "tree"))
    with registry(tmp_path / "registry") as address:
        async with open_store(tmp_path) as images:
            name = f"{address}/app:1"
            image = await finish(images.load(make.layout(tmp_path / "layout", make.image([layer, layer]), name)))
            last = await pushed(images, name)
            assert phases(last) == ["done"]
            with images.store.disk.write() as con:
                con.execute("DELETE FROM tag")
            assert (await finish(images.pull(name))).layers == image.layers


# -- being somebody -----------------------------------------------------------------------------------------------
@pytest.mark.registry
async def test_push_needs_a_login(tmp_path: Path) -> None:
    users = htpasswd(tmp_path / "htpasswd", "ann", "secret")
    with registry(tmp_path / "registry", htpasswd=users) as address:
        async with open_store(tmp_path) as images:
            await loaded(images, tmp_path, f"{address}/app:1")
            with pytest.raises(Unauthorized, match="wharf login"):
                await pushed(images, f"{address}/app:1")
            await images.keyring.keep(address, Credentials("ann", "secret"), CredentialSettings())
            await pushed(images, f"{address}/app:1")


@pytest.mark.registry
async def test_tokens_for_both_repositories_of_a_mount(tmp_path: Path) -> None:
    async with token_server(certificates(tmp_path / "certificates")) as service:
        service.users["ann"] = "secret"
        with registry(tmp_path / "registry", more=service.registry_config()) as address:
            async with open_store(tmp_path) as images:
                await images.keyring.keep(address, Credentials("ann", "secret"), CredentialSettings())
                image = await loaded(images, tmp_path, f"{address}/app:1")
                await pushed(images, f"{address}/app:1")
                await images.tag(image.id, f"{address}/other:1")
                service.seen.clear()
                last = await pushed(images, f"{address}/other:1")
                assert phases(last) == ["mounted", "mounted"]
                scopes = {tuple(scopes) for _, scopes, _ in service.seen}
                assert any({"repository:other:pull,push", "repository:app:pull"} <= set(words) for words in scopes)
