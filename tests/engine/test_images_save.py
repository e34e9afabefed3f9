"""Archives written and read again, images from plain tars, names, history."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from core.engine import Engine
from core.errors import Conflict, Corrupt, InvalidArgument, NotFound
from core.images import save as saving
from core.images.store import ImageStore
from core.model import Image
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_cli import Wharf
from tests.images_lab import finish, leftovers, open_store, snapshot
from tests.patience import patience
from tests.trees import rich

pytestmark = pytest.mark.real
HOUSE = Path(__file__).resolve().parents[2]
ONE = make.tar(make.directory("d"), make.member("d/one", data=b"1" * 50_000), make.symlink("s", "d/one"))
# As no writer of ours would make them: other formats, other orders, something behind the end.
TWO = make.tar(make.member("z", data=b"2"), make.directory("a"), form=tarfile.GNU_FORMAT) + bytes(10240)
THREE = make.tar(make.member("d/x", data=b"3"), make.member("d/.wh.one"), form=tarfile.USTAR_FORMAT)


@pytest.fixture
def wharf(instance_env: dict[str, str], busybox_image: str) -> Wharf:
    return Wharf(instance_env, busybox_image)


async def loaded(images: ImageStore, folder: Path, *layers: bytes, name: str, **more: Any) -> Image:
    return await finish(images.load(make.layout(folder, make.image(layers, **more), name)))


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


# -- save -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", saving.FORMS)
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_saved_and_loaded_it_is_the_same_image(tmp_path: Path, form: str, compression: str) -> None:
    async with open_store(tmp_path / "a") as images:
        first = await loaded(images, tmp_path / "l1", ONE, TWO, name="app:1")
        second = await loaded(images, tmp_path / "l2", ONE, THREE, name="other.org:5000/team/db:2")
        await images.tag(first.id, "app:2")
        refs = ["app", "other.org:5000/team/db:2"]
        await saving.save(images, refs, tmp_path / "saved", form, compression)
        trees = {key: snapshot(images.layers.diff(key)) for image in (first, second) for key in images.keys(image)}
        for path in (tmp_path / "saved").parent.iterdir():
            assert not path.name.startswith(".saved"), "a half-made file is left"
    async with open_store(tmp_path / "b") as images:
        found = {step.image.id: step.image async for step in images.load(tmp_path / "saved") if step.image}
        assert set(found) == {first.id, second.id}
        assert found[first.id].tags == ("docker.io/library/app:1", "docker.io/library/app:2")
        assert found[second.id].tags == second.tags
        assert (found[first.id].layers, found[second.id].layers) == (first.layers, second.layers)
        for image in found.values():
            for key in images.keys(image):
                assert snapshot(images.layers.diff(key)) == trees[key]
        assert not leftovers(images)


async def test_layers_are_saved_to_the_byte_and_once(tmp_path: Path) -> None:
    async with open_store(tmp_path / "a") as images:
        first = await loaded(images, tmp_path / "l1", ONE, TWO, name="app:1")
        second = await loaded(images, tmp_path / "l2", ONE, THREE, name="app:2")
        await saving.save(images, [first.id, "app:2"], tmp_path / "saved")
        found = members(tmp_path / "saved")
    blobs = {name.removeprefix("blobs/sha256/"): data for name, data in found.items() if name.startswith("blobs/")}
    for layer in (ONE, TWO, THREE):
        assert blobs[make.sha(layer).removeprefix("sha256:")] == layer
    assert all(make.sha(data) == f"sha256:{name}" for name, data in blobs.items())
    entries = json.loads(found["manifest.json"])
    assert [entry["RepoTags"] for entry in entries] == [None, ["app:2"]]  # an id gives no name
    assert {entry["Config"].rpartition("/")[2] for entry in entries} == {
        image.id.removeprefix("sha256:") for image in (first, second)
    }
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o600


async def test_the_same_image_is_the_same_archive(tmp_path: Path) -> None:
    async with open_store(tmp_path / "a") as images:
        await loaded(images, tmp_path / "l1", ONE, THREE, name="app:1")
        for name in ("one", "two"):
            await saving.save(images, ["app:1"], tmp_path / name, compression="gzip")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


async def test_what_cannot_be_saved(tmp_path: Path) -> None:
    async with open_store(tmp_path / "a") as images:
        image = await loaded(images, tmp_path / "l1", ONE, name="app:1")
        (tmp_path / "full").mkdir()
        (tmp_path / "full/x").touch()
        kinds: list[tuple[list[str], Path | int, str, type[Exception]]] = [
            (["nothing:1"], tmp_path / "out", saving.DOCKER, NotFound),
            (["app:1"], tmp_path / "no/out", saving.DOCKER, NotFound),
            (["app:1"], tmp_path, saving.DOCKER, Conflict),
            (["app:1"], tmp_path / "full", saving.FOLDER, Conflict),
            (["app:1"], 1, saving.FOLDER, InvalidArgument),
            (["app:1"], tmp_path / "out", "rar", InvalidArgument),
        ]
        for refs, target, form, error in kinds:
            with pytest.raises(error):
                await saving.save(images, refs, target, form)
        with pytest.raises(OSError, match="No space"):
            await saving.save(images, ["app:1"], Path("/dev/full"))
        (images.layer_dirs(image)[0] / "d/one").write_bytes(b"0" * 50_000)
        with pytest.raises(Corrupt, match=r"layer 1 of docker\.io/library/app:1"):
            await saving.save(images, ["app:1"], tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


async def test_a_save_that_is_broken_off_leaves_nothing(
    engine: Engine, busybox_image: str, instance_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "tui", "save", "-o", str(tmp_path / "out/saved"), busybox_image]
    for delay in (0.1, 0.2, 0.25, 0.3, 0.4):
        process = subprocess.Popen(command, cwd=HOUSE, env=instance_env)
        await asyncio.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in (tmp_path / "out").iterdir():
            assert path.name == "saved"
            assert "manifest.json" in members(path)
            path.unlink()


# -- import -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, zstd.compress, bz2.compress, lzma.compress], ids=lambda f: f.__name__
)
async def test_import(engine: Engine, inst: Instance, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    # Without entries for its folders, as `tar -c etc/x` makes it.
    plain = make.tar(make.member("etc/deep/x", data=b"x" * 300_000), make.symlink("l", "etc"))
    (tmp_path / "rootfs").write_bytes(compress(plain))
    changes = ['CMD ["sh"]', "ENV A=1"]
    image = await engine.import_image(tmp_path / "rootfs", "base:1", message="by hand", changes=changes)
    assert (image.layers, image.tags) == ((make.sha(plain),), ("docker.io/library/base:1",))
    assert (image.config.cmd, image.config.env) == (("sh",), ("A=1",))
    view = await engine.inspect(image.id)
    assert (view["Comment"], view["Os"]) == ("by hand", "linux")
    await engine.save([image.id], tmp_path / "saved")
    assert members(tmp_path / "saved")[f"blobs/sha256/{make.sha(plain)[7:]}"] == plain


async def test_import_from_a_pipe_and_for_another_machine(engine: Engine) -> None:
    read, write = os.pipe()

    async def feed() -> None:
        for at in range(0, len(ONE), 7):
            os.write(write, ONE[at : at + 7])
            if at % 7000 == 0:
                await asyncio.sleep(0)
        os.close(write)

    feeding = asyncio.create_task(feed())
    image = await engine.import_image(read, platform="linux/arm64/v8")
    await feeding
    os.close(read)
    assert (image.layers, image.architecture, image.tags) == ((make.sha(ONE),), "arm64", ())


async def test_bad_imports_leave_nothing(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no tar at all" * 1000)
    (tmp_path / "cut").write_bytes(ONE[:30_000])
    (tmp_path / "evil").write_bytes(make.tar(make.member("../x")))
    (tmp_path / "one").write_bytes(ONE)
    for source, more, error in (
        ("none", {}, NotFound),
        (".", {}, InvalidArgument),
        ("text", {}, Corrupt),
        ("cut", {}, Corrupt),
        ("evil", {}, Corrupt),
        ("one", {"platform": "linux"}, InvalidArgument),
        ("one", {"name": "UPPER"}, InvalidArgument),
        ("one", {"changes": ["COPY a b"]}, InvalidArgument),
    ):
        with pytest.raises(error):
            await engine.import_image(tmp_path / source, **more)  # type: ignore[arg-type]
    assert await engine.images() == []
    assert not list((inst.images / "layers").iterdir())


async def test_a_silent_pipe_can_be_given_up(engine: Engine, inst: Instance) -> None:
    read, write = os.pipe()
    for work in (engine.import_image(read), _load(engine, read)):
        task = asyncio.create_task(work)
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), patience(20))  # not for the pipe
    os.close(read)
    os.close(write)
    assert not list((inst.images / "layers").iterdir())


async def _load(engine: Engine, source: int) -> Image:
    return await finish(engine.load(source))


# -- names and history ------------------------------------------------------------------------------------------
async def test_tag_and_untag(engine: Engine, busybox_image: str) -> None:
    image = await engine.tag(busybox_image, "reg.local:5000/a/b")
    assert image.tags == ("docker.io/library/busybox:test", "reg.local:5000/a/b:latest")
    with pytest.raises(NotFound):
        await engine.tag("nobody", "x")
    with pytest.raises(NotFound, match="not a tag of that image"):
        await engine.untag(image.id, ["reg.local:5000/a/b", "x:1"])
    assert (await engine.image(image.id)).tags == image.tags
    assert await engine.untag(image.id, ["busybox:test"]) == ["docker.io/library/busybox:test"]
    assert await engine.untag("reg.local:5000/a/b") == ["reg.local:5000/a/b:latest"]
    assert (await engine.image(image.id)).tags == ()


async def test_untag_takes_the_name_that_was_given(engine: Engine, busybox_image: str) -> None:
    image = await engine.image(busybox_image)

    async def names() -> list[str]:
        return sorted((await engine.image(image.id)).tags)

    for name in ("team/one:1", "team/two:2", "team/two:3"):
        await engine.tag(image.id, name)
    assert await engine.untag("team/one:1") == ["docker.io/team/one:1"]
    assert await names() == ["docker.io/library/busybox:test", "docker.io/team/two:2", "docker.io/team/two:3"]
    assert await engine.untag(image.short_id) == [
        "docker.io/library/busybox:test",
        "docker.io/team/two:2",
        "docker.io/team/two:3",
    ]
    for name in ("team/one:1", "team/two:2"):
        await engine.tag(image.id, name)
    assert len(await engine.untag("team/one:1", every=True)) == 2
    assert await names() == []


async def test_history(tmp_path: Path) -> None:
    from core.images import history
    from core.images.manifest import read_json

    made = make.image([ONE, THREE])
    document = json.loads(made.blobs[made.config])
    document["history"] = [
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD rootfs", "comment": "first"},
        {"created": "2024-01-02T00:00:00.5Z", "created_by": "ENV A=1", "empty_layer": True},
    ]
    async with open_store(tmp_path) as images:
        image = await finish(images.load(make.layout(tmp_path / "layout", made, "app:1")))
        found = history.entries(image, document, images.layer_sizes(image.id))
        assert [(entry.created_by, entry.size, entry.comment) for entry in found] == [
            ("", 1, ""),  # a layer that the history does not tell of
            ("ENV A=1", 0, ""),
            ("ADD rootfs", 50_000, "first"),
        ]
        assert [entry.image for entry in found] == [image.id, "", ""]
        assert found[1].created == 1704153600.5
        bare = history.entries(image, read_json(images.config_of(image.id)), images.layer_sizes(image.id))
        assert [entry.layer for entry in bare] == list(reversed(image.layers))


# -- by the command ---------------------------------------------------------------------------------------------
async def test_the_commands(wharf: Wharf, tmp_path: Path) -> None:
    rich(tmp_path / "tree")
    cid = await wharf.background("box", script="echo hi >/new; rm /etc/group; sleep 600")
    while "D /etc/group" not in await wharf.ok("diff", "box"):  # the last that it does
        await asyncio.sleep(0.05)
    assert await wharf.ok("diff", "box") == "C /etc\nD /etc/group\nA /new\n"
    options = ("-m", "it is", "-c", 'CMD ["cat", "/new"]', "--pause=false")
    made = (await wharf.ok("commit", *options, "box", "team/new")).strip()
    assert made.startswith("sha256:")
    assert await wharf.ok("run", "--rm", "team/new") == "hi\n"
    assert await wharf.ok("tag", made[7:19], "again:1") == ""
    assert await wharf.ok("image", "inspect", "-f", "{{.RepoTags}} {{.Comment}}", "again:1") == (
        "[again:1 team/new:latest] it is\n"
    )
    shown = (await wharf.ok("history", "again:1")).splitlines()
    assert shown[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert shown[1].startswith(made[7:19])
    assert shown[2].startswith("<missing>")
    assert (await wharf.ok("history", "-q", "--no-trunc", "again:1")).split() == [made, "<missing>"]
    assert await wharf.ok("history", "--human=false", "--format", "{{.Size}}", made) == "3\n" + (
        await wharf.ok("history", "--human=false", "--format", "{{.Size}}", wharf.image)
    )
    await wharf.ok("save", "-o", str(tmp_path / "s.tar"), "again:1", wharf.image)
    assert await wharf.ok("untag", "again:1", "again:1") == "Untagged: again:1\n"
    await wharf.ok("rm", "-f", "box")
    await wharf.ok("rmi", "-f", made)
    again = await wharf("load", given=(tmp_path / "s.tar").read_bytes())
    assert again.out == f"Loaded image: again:1\nLoaded image: {wharf.image}\n"
    assert len(cid) == 64


async def test_streams_of_the_commands(wharf: Wharf) -> None:
    saving_one = await wharf.start("save", "--format", "oci-archive", wharf.image)
    data, _ = await saving_one.communicate()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {"index.json", "oci-layout"} <= set(archive.getnames())
        assert "manifest.json" not in archive.getnames()
    await wharf.ok("create", "--name", "box", wharf.image)
    process = await wharf.start("export", "box")
    rootfs, _ = await process.communicate()
    importing = await wharf.start("import", "-c", 'CMD ["echo", "from it"]', "-", "fs:1", stdin=asyncio.subprocess.PIPE)
    out, err = await importing.communicate(rootfs)
    assert (importing.returncode, err) == (0, b"")
    assert out.startswith(b"sha256:")
    assert await wharf.ok("run", "--rm", "fs:1") == "from it\n"
    refused = await wharf("import", "https://example.org/x.tar")
    assert refused.code == 1
    assert "curl" in refused.err


async def test_a_save_that_is_broken_off_lets_go_of_the_layers(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    """At once, and not when the last who has its error forgets that."""
    layer = make.tar(make.member("much", data=os.urandom(1 << 20) * 100))
    image = await finish(engine.load(make.layout(tmp_path / "layout", make.image([layer]), "much:1")))
    begun = asyncio.Event()
    options = {"form": "oci-archive", "compression": "gzip", "watch": lambda state: begun.set()}
    task = asyncio.create_task(engine.save([image.id], tmp_path / "out", **options))  # type: ignore[arg-type]
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    [folder] = (inst.images / "layers").iterdir()
    open_ = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [name for name in open_ if name.startswith(str(folder))], caught
