"""The layer browser's data over a real engine: what it says of an image is what a container of it sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.engine import Engine
from core.errors import InvalidArgument, NotFound
from core.model import ContainerSpec
from tests.engine.test_cli import Wharf, wharf
from tests.imagemaker import _layer, busybox, make_archive
from tests.images import directory, hardlink, member, symlink, tar

__all__ = ["wharf"]
pytestmark = pytest.mark.real


def layered(folder: Path, name: str = "lab:1") -> Path:
    """An archive of four layers over busybox that change, remove, cover, and replace kinds."""
    program = busybox()
    assert program is not None
    second = tar(
        directory("srv"),
        member("srv/kept", data=b"k" * 10),
        member("srv/changed", data=b"c" * 100),
        member("srv/removed", data=b"r" * 1000),
        directory("srv/sub"),
        member("srv/sub/deep", data=b"d" * 10_000),
        directory("opt"),
        member("opt/old", data=b"o" * 100_000),
        member("var/log/implied", data=b"i"),
        member("swap", data=b"file"),
        member(b"srv/not\xfftext".decode("utf-8", "surrogateescape"), data=b"?"),
    )
    third = tar(
        directory("srv"),
        member("srv/changed", data=b"C" * 101),
        member("srv/.wh.removed"),
        directory("opt"),
        member("opt/.wh..wh..opq"),
        member("opt/new", data=b"n"),
        member(".wh.swap"),
    )
    fourth = tar(
        member("srv/sub", data=b"no folder any more"),
        directory("swap"),
        symlink("swap/link", "/srv/kept"),
        hardlink("swap/hard", "srv/sub"),
    )
    return make_archive(folder / "lab.tar", name, [_layer(program), second, third, fourth])


async def load(engine: Engine, archive: Path) -> None:
    async for _ in engine.load(archive):
        pass


async def test_the_tree_is_what_a_container_sees(engine: Engine, tmp_path: Path) -> None:
    await load(engine, layered(tmp_path))
    found = await engine.image_layers("lab:1")
    assert [layer.position for layer in found.layers] == [1, 2, 3, 4]
    spec = ContainerSpec(image="lab:1", name="see", command=("find", "/", "-xdev"), network="none")
    made = await engine.create(spec)
    await engine.start(made.id)
    assert await engine.wait(made.id) == 0
    seen = {line.text.strip("/") async for line in engine.logs(made.id)}
    own = ("proc", "sys", "dev", "etc/host", "etc/resolv.conf", "etc/mtab", "run")  # a container's, not its image's
    told = {entry.path for entry in found.walk(4) if entry.change != "removed"}
    assert {path for path in seen if path and not path.startswith(own)} == told


async def test_what_each_layer_does(engine: Engine, tmp_path: Path) -> None:
    await load(engine, layered(tmp_path))
    found = await engine.image_layers("lab:1")
    facts = [(each.added, each.changed, each.removed, each.wasted) for each in found.layers[1:]]
    assert facts == [(8, 0, 0, 111_104), (1, 1, 3, 0), (2, 1, 1, 0)]
    removed = {entry.path for entry in found.walk(3) if entry.change == "removed"}
    assert removed == {"srv/removed", "opt/old", "swap"}
    assert found.entry("srv", 3).inside == "~-"  # type: ignore[union-attr]
    assert sum(each.size for each in found.layers) == (await engine.image("lab:1")).size
    hits = await engine.search_layers("/srv/changed")
    assert [(hit.position, hit.fate, hit.ended) for hit in hits] == [(2, "replaced", 3), (3, "kept", 0)]


async def test_search_goes_over_all_images_or_the_named(engine: Engine, tmp_path: Path, busybox_image: str) -> None:
    await load(engine, layered(tmp_path))
    everywhere = await engine.search_layers("busybox")
    assert {hit.name for hit in everywhere} == {"docker.io/library/busybox:test", "docker.io/library/lab:1"}
    named = await engine.search_layers("busybox", [busybox_image])
    assert {hit.name for hit in named} == {"docker.io/library/busybox:test"}
    assert await engine.search_layers("nowhere") == []
    with pytest.raises(NotFound):
        await engine.search_layers("x", ["missing"])
    with pytest.raises(InvalidArgument):
        await engine.search_layers("")
    with pytest.raises(NotFound):
        await engine.image_layers("missing")


async def test_image_without_layers(engine: Engine, tmp_path: Path) -> None:
    await load(engine, make_archive(tmp_path / "empty.tar", "empty:1", []))
    found = await engine.image_layers("empty:1")
    assert (found.layers, found.wasted, found.children("", 0), list(found.walk(0))) == ((), 0, [], [])


async def test_command_line(wharf: Wharf, tmp_path: Path) -> None:
    await wharf.ok("load", "-q", "-i", str(layered(tmp_path)))
    shown = await wharf.ok("image", "layers", "lab:1")
    assert shown.split()[:3] == ["LAYER", "SIZE", "FILES"]
    assert "wasted: 5 files that later layers replace or remove" in shown
    figures = await wharf.ok("image", "layers", "--format", "{{.Layer}} {{.Wasted}}", "lab:1")
    assert figures.splitlines()[1] == "2 111.1kB"
    changes = await wharf.ok("image", "files", "--changes", "--layer", "3", "lab:1", "/srv")
    assert changes.splitlines() == ["C /srv/changed", "D /srv/removed"]
    assert (await wharf.ok("image", "files", "lab:1", "/opt")).split() == ["/opt/new"]
    long = await wharf.ok("image", "files", "-l", "lab:1", "swap/link")
    assert long.startswith("lrwxrwxrwx")
    assert long.endswith("4 /swap/link -> /srv/kept\n")
    assert "replaced by 3" in await wharf.ok("image", "find", "/srv/changed")
    for words, code, why in (
        (("image", "find", "nothing-like-it"), 1, "no layer has"),
        (("image", "find", ""), 1, "nothing to look for"),
        (("image", "files", "--layer", "9", "lab:1"), 1, "has no layer 9"),
        (("image", "files", "lab:1", "/nowhere"), 1, "/nowhere: the image does not have it"),
        (("image", "files", "--layer", "1", "lab:1", "/nowhere"), 1, "layer 1 does not have it"),
    ):
        done = await wharf(*words)
        assert done.code == code, done
        assert why in done.err
