"""What is on the disk and for whom, and removing what nobody needs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.engine import Engine
from core.errors import InvalidArgument, NotFound
from core.images.trash import delete_tree
from core.images.usage import allocated
from core.model import ContainerSpec, DiskUsage, Image, ImageFilter, Mount, PruneRule
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_cli import Wharf
from tests.images import directory, hardlink, member
from tests.images_lab import deep_tree, finish, open_store
from tests.liar import liar
from tests.patience import patience

DAY = 86400.0
BASE = make.tar(directory("etc"), member("etc/base", data=os.urandom(300_000)), hardlink("etc/again", "etc/base"))


def own(number: int) -> bytes:
    return make.tar(directory("own"), member("own/f", data=os.urandom(50_000 * (number + 1))))


async def add(engine: Engine, folder: Path, name: str, *layers: bytes, **config: Any) -> Image:
    """Load an image of these layers named ``name`` ("" leaves it without)."""
    made = make.image(layers, config={"Cmd": ["/bin/true"], **config})
    target = folder / f"{made.config[7:20]}.tar"
    make.docker_save(target, made, layers, [name] if name else [])
    return await finish(engine.load(target))


def du(path: Path) -> int:
    out = subprocess.run(["du", "-s", "--block-size=1", path], check=True, capture_output=True, text=True).stdout
    return int(out.split()[0])


async def settled(inst: Instance) -> None:
    """The file system has placed every block."""
    await asyncio.to_thread(os.sync)


async def still(engine: Engine, inst: Instance) -> DiskUsage:
    """The usage of a moment in which nobody wrote: layers are marked durable, and ends recorded, in the background."""
    for _ in range(50):
        await settled(inst)
        before = du(inst.root)
        usage = await engine.disk_usage()
        if before == du(inst.root):
            return usage
    raise AssertionError(f"{inst.root} never comes to rest")


# -- the sum --------------------------------------------------------------------------------------------------------
async def test_the_parts_add_up_to_what_du_says(
    engine: Engine, inst: Instance, busybox_image: str, tmp_path: Path
) -> None:
    one = await add(engine, tmp_path, "team/one", BASE, own(0))
    two = await add(engine, tmp_path, "team/two", BASE, own(1))
    loose = await add(engine, tmp_path, "", own(2))
    script = "head -c 200000 /dev/zero | tr '\\0' x > /big; ln /big /linked; echo hi; head -c 5000 /dev/zero > /data/f"
    box = await engine.create(
        ContainerSpec(image=busybox_image, command=("sh", "-c", script), mounts=(Mount("volume", "kept", "/data"),))
    )
    await engine.start(box.id)
    await engine.wait(box.id)
    (inst.images / "parts" / ("a" * 64)).write_bytes(b"p" * 40_000)
    stray = inst.images / "layers" / "tmp-dead"
    stray.mkdir()
    (stray / "f").write_bytes(b"s" * 9000)
    usage = await still(engine, inst)
    assert usage.total == du(inst.root)
    uses = {use.image.id: use for use in usage.images}
    base = inst.images / "layers" / one.layers[0].removeprefix("sha256:")
    assert uses[one.id].shared == uses[two.id].shared == allocated(base) == du(base)
    assert uses[two.id].unique > uses[one.id].unique > 0
    assert uses[loose.id].shared == 0
    assert sum(use.unique for use in usage.images) + du(base) == usage.images_size
    assert len(uses[one.id].layers) == 2
    busy = next(use for use in usage.images if use.containers)
    assert busy.containers == (box.name,)
    assert usage.images_reclaimable == usage.images_size - busy.size
    [used] = usage.containers
    folder = inst.container_dir(box.id)
    assert (used.size, used.logs) == (du(folder) - du(folder / "log"), du(folder / "log"))
    assert 200_000 < used.size < 400_000, "a file with two names was counted twice"
    [volume] = usage.volumes
    assert (volume.name, volume.size, volume.containers) == ("kept", du(inst.root / "volumes" / "kept"), (box.name,))
    other = dict(usage.other)
    assert other["unfinished downloads"] == 40_960
    assert other["layers without an image"] == du(stray)
    (inst.images / "parts" / ("a" * 64)).unlink()
    await engine.remove(box.id)


async def test_what_a_layer_occupies_is_asked_once(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    image = await add(engine, tmp_path, "one", BASE)
    await until_durable(engine)
    first = (await engine.disk_usage()).images[0].layers
    diff = inst.images / "layers" / image.layers[0].removeprefix("sha256:") / "diff"
    (diff / "etc" / "base").write_bytes(b"")
    assert (await engine.disk_usage()).images[0].layers == first


async def until_durable(engine: Engine) -> None:
    end = time.monotonic() + patience(60)
    db = engine._ctx.store.disk  # type: ignore[attr-defined]
    while db.read("SELECT 1 FROM layer WHERE durable = 0"):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def test_a_tree_deeper_than_a_path_is_counted(tmp_path: Path) -> None:
    with deep_tree(tmp_path / "tree"):
        Path("file").write_bytes(b"x" * 5000)
        os.symlink("/", "out")
    counted, said = allocated(tmp_path / "tree"), du(tmp_path / "tree")
    fd = os.open(tmp_path, os.O_RDONLY)
    delete_tree(fd, "tree")  # pytest could not
    os.close(fd)
    assert counted == said
    assert allocated(tmp_path / "nothing") == 0


# -- filters --------------------------------------------------------------------------------------------------------
def at(engine: Engine, image: Image, **columns: float) -> None:
    """Make an image older than it is."""
    with engine._ctx.store.disk.write() as con:  # type: ignore[attr-defined]
        for column, value in columns.items():
            con.execute(f"UPDATE image SET {column} = ? WHERE id = ?", (value, image.id))


def names(images: Sequence[Image]) -> set[str]:
    return {image.tags[0].rpartition("/")[2] if image.tags else "" for image in images}


async def test_filters_of_docker(engine: Engine, tmp_path: Path) -> None:
    await add(engine, tmp_path, "team/a:1", own(0), Labels={"tier": "web", "x": "1"})
    await add(engine, tmp_path, "team/b:2", own(1), Labels={"tier": "db"})
    loose = await add(engine, tmp_path, "", own(2))
    wanted: list[tuple[dict[str, list[str]], set[str]]] = [
        ({}, {"a:1", "b:2", ""}),
        ({"dangling": ["true"]}, {""}),
        ({"dangling": ["false"]}, {"a:1", "b:2"}),
        ({"label": ["tier"]}, {"a:1", "b:2"}),
        ({"label": ["tier=web", "x=1"]}, {"a:1"}),
        ({"label": ["tier=web", "x=2"]}, set()),
        ({"reference": ["team/a"]}, {"a:1"}),
        ({"reference": ["team/*:2", "nothing"]}, {"b:2"}),
        ({"reference": ["*"]}, set()),  # a star stops at a slash
        ({"reference": ["*/*"]}, {"a:1", "b:2"}),
        ({"until": ["2024-01-01"]}, set()),
        ({"until": ["2024-01-03"]}, {"a:1", "b:2", ""}),
        ({"before": [loose.id]}, set()),
        ({"since": ["team/a:1"]}, set()),
    ]
    for filters, expected in wanted:
        assert names(await engine.images(filters)) == expected, filters
    for filters in ({"colour": ["red"]}, {"dangling": ["perhaps"]}, {"until": ["whenever"]}):
        with pytest.raises(InvalidArgument):
            await engine.images(filters)
    with pytest.raises(NotFound):
        await engine.images({"before": ["nobody"]})


# -- last use -------------------------------------------------------------------------------------------------------
async def test_creating_starting_and_removing_count_as_use(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    async def used() -> float:
        return (await engine.image(busybox_image)).used

    image = await engine.image(busybox_image)
    assert image.used == 0
    before = time.time()
    assert before <= (await add(engine, tmp_path, "team/now", own(0))).added <= time.time()
    steps = []
    for step in ("create", "start", "remove"):
        at(engine, image, used=1.0)
        if step == "create":
            box = await engine.create(ContainerSpec(image=busybox_image, command=("true",)))
        elif step == "start":
            await engine.start(box.id)
            await engine.wait(box.id)
        else:
            await engine.remove(box.id)
        steps.append(abs(await used() - time.time()) < 60)
    assert steps == [True, True, True]


# -- prune ----------------------------------------------------------------------------------------------------------
async def prune(engine: Engine, **rule: Any) -> set[str]:
    """The names of what goes, after a dry run has promised the same."""
    promised = await engine.prune_images(PruneRule(dry_run=True, **rule))
    before = {image.id for image in await engine.images()}
    done = await engine.prune_images(PruneRule(**rule))
    assert {image.id for image in promised.images} == {image.id for image in done.images}
    assert done.reclaimed == promised.reclaimed
    assert bool(done.reclaimed) == bool(done.lines)
    assert before - {image.id for image in await engine.images()} == {image.id for image in done.images}
    return names(done.images)


async def test_prune_takes_what_has_no_tag(engine: Engine, inst: Instance, busybox_image: str, tmp_path: Path) -> None:
    await add(engine, tmp_path, "team/a:1", BASE, own(0))
    await add(engine, tmp_path, "", BASE, own(1))
    await settled(inst)
    before = du(inst.images)
    done = await engine.prune_images(PruneRule())
    await engine._ctx.images.close()  # type: ignore[attr-defined]
    assert len(done.images) == 1
    assert before - du(inst.images) == done.reclaimed
    assert names(await engine.images()) == {"a:1", "busybox:test"}
    assert (await engine.prune_images(PruneRule())).lines == ()


async def test_prune_spares_what_containers_use(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    await add(engine, tmp_path, "team/a:1", BASE)
    box = await engine.create(ContainerSpec(image=busybox_image, command=("true",)))
    assert await prune(engine, all=True) == {"a:1"}
    await engine.remove(box.id)
    assert await prune(engine, all=True) == {"busybox:test"}


async def test_prune_by_age_label_and_last_use(engine: Engine, tmp_path: Path) -> None:
    now = time.time()
    for number, name in enumerate("abcd"):
        await add(engine, tmp_path, f"team/{name}:1", own(number), Labels={"keep": "1"} if name == "d" else {})
    images = {image.tags[0][-3]: image for image in await engine.images()}
    at(engine, images["a"], created=now - 60 * DAY, added=now - 60 * DAY)
    at(engine, images["b"], added=now - 60 * DAY, used=now - 5 * DAY)
    at(engine, images["d"], added=now - 60 * DAY)
    only = await engine.image_filter({"label!": ["keep"]})
    assert only == ImageFilter(without_labels=("keep",))
    assert await prune(engine, all=True, unused_for=30 * DAY, only=only) == {"a:1"}
    assert await prune(engine, all=True, unused_for=2 * DAY, only=only) == {"b:1"}
    only = await engine.image_filter({"until": ["2024-01-01"]})
    assert await prune(engine, all=True, only=only) == set()
    only = await engine.image_filter({"until": ["24h"], "label": ["keep=1"]})
    assert await prune(engine, all=True, only=only) == {"d:1"}
    assert names(await engine.images()) == {"c:1"}
    for wrong in ({"label!": ["x"], "colour": ["red"]}, {"until": ["soon"]}):
        with pytest.raises(InvalidArgument):
            await engine.image_filter(wrong)
    with pytest.raises(InvalidArgument):
        await engine.prune_images(PruneRule(keep=-1))


async def test_prune_keeps_the_newest_of_each_repository(engine: Engine, tmp_path: Path) -> None:
    for number in range(4):
        for name in ("web", "db"):
            image = await add(engine, tmp_path, f"team/{name}:{number}", own(number), Env=[f"N={name}{number}"])
            at(engine, image, created=float(1000 + number))
    for image in await engine.images():
        config = {"created": 1000.0 + int(image.tags[0][-1])}
        at(engine, image, **config)
    assert await prune(engine, all=True, keep=5) == set()
    # All were made in the same second by what their configurations say: the ids decide then.
    gone = await prune(engine, all=True, keep=3)
    assert len(gone) == 2
    assert {name.partition(":")[0] for name in gone} == {"web", "db"}
    assert len(await engine.images()) == 6


async def test_prune_all_takes_what_was_broken_off(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    await add(engine, tmp_path, "team/a:1", BASE)
    with engine._ctx.store.disk.write() as con:  # type: ignore[attr-defined]
        con.execute("DELETE FROM image")
    part = inst.images / "parts" / ("b" * 64)
    part.write_bytes(b"p" * 10_000)
    assert not (await engine.prune_images(PruneRule())).lines
    assert not (await engine.prune_images(PruneRule(all=True, keep=1))).lines
    done = await engine.prune_images(PruneRule(all=True))
    assert len(done.lines) == 2
    assert not part.exists()
    await engine._ctx.images.close()  # type: ignore[attr-defined]
    assert not list((inst.images / "layers").iterdir())


# -- what is in flight ----------------------------------------------------------------------------------------------
@pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")
async def test_a_pull_keeps_the_layers_that_it_counts_on(tmp_path: Path) -> None:
    """One image shares a layer with another that is removed while the first is still being pulled."""
    shared, late = make.tar(member("shared", data=os.urandom(5000))), make.tar(member("late", data=os.urandom(5000)))
    first, second = make.image([shared]), make.image([shared, late])
    gate = asyncio.Event()
    async with liar() as server, open_store(tmp_path) as images, open_store(tmp_path) as others:
        server.put(first, "first")
        server.put(second, "second")
        await finish(images.pull(f"{server.address}/app:first"))

        async def bend(request: Any) -> None:
            if second.layers[1] in request.path:
                await gate.wait()

        server.bend = bend
        phases: list[str] = []

        async def pulled() -> Image:
            async for step in images.pull(f"{server.address}/app:second"):
                phases[:] = [layer.phase for layer in step.layers]
            assert step.image is not None
            return step.image

        pull = asyncio.create_task(pulled())
        while phases[:1] != ["exists"] or not server.count(second.layers[1]):  # each in a task of its own
            await asyncio.sleep(0.01)
        lines = await others.remove(f"{server.address}/app:first", False, lambda _: [])
        assert f"Deleted: {first.config}" in lines
        assert f"Deleted: {first.diffids[0]}" not in lines
        server.seen.clear()
        gate.set()
        image = await pull
        assert server.count(second.layers[0]) == 0, "it was downloaded once more"
        assert (images.layer_dirs(image)[1] / "shared").exists()
        assert f"Deleted: {first.diffids[0]}" in await others.remove(image.id, True, lambda _: [])


async def test_a_failed_commit_leaves_the_layers_where_they_are(engine: Engine, tmp_path: Path) -> None:
    image = await add(engine, tmp_path, "team/a:1", BASE)
    images = engine._ctx.images  # type: ignore[attr-defined]

    def users(_: str) -> list[str]:
        return []

    with images.store.disk.write() as con:
        con.execute("CREATE TABLE guard(image TEXT REFERENCES image(id) DEFERRABLE INITIALLY DEFERRED)")
        con.execute("INSERT INTO guard VALUES (?)", (image.id,))
    with pytest.raises(Exception, match="FOREIGN KEY"):
        await images.remove("team/a:1", False, users)
    assert all(path.is_dir() for path in images.layer_dirs(await engine.image("team/a:1")))
    with images.store.disk.write() as con:
        con.execute("DROP TABLE guard")
    await engine.remove_image("team/a:1")


# -- the command line -----------------------------------------------------------------------------------------------
async def test_command_lines(engine: Engine, instance_env: dict[str, str], busybox_image: str, tmp_path: Path) -> None:
    wharf = Wharf(instance_env, busybox_image)
    await add(engine, tmp_path, "team/a:1", BASE, own(0))
    await add(engine, tmp_path, "team/b:1", BASE, own(1))
    await add(engine, tmp_path, "", own(2))
    box = await engine.create(ContainerSpec(image=busybox_image, command=("true",), name="user"))
    assert (await wharf.ok("images", "-q", "--filter", "dangling=true")).count("\n") == 1
    listed = await wharf.ok("images", "--filter", "reference=team/*", "--format", "{{.Repository}}")
    assert sorted(listed.split()) == ["team/a", "team/b"]
    tree = (await wharf.ok("images", "--tree")).splitlines()
    assert sum("team/" in line for line in tree) == 2
    assert len(tree) == 5
    df = await wharf.ok("system", "df")
    kinds = [line.split("  ")[0] for line in df.splitlines()]
    assert kinds == ["TYPE", "Images", "Containers", "Local Volumes", "Build Cache", "Logs", "Other", "Sum"]
    verbose = await wharf.ok("system", "df", "-v")
    assert "SHARED SIZE" in verbose
    assert "unfinished downloads" in verbose
    done = await wharf("image", "prune")
    assert (done.code, "no terminal" in done.err) == (1, True)
    done = await wharf("rmi", busybox_image)
    assert done.code == 1
    assert "user" in done.err
    promised = await wharf.ok("image", "prune", "-a", "--dry-run")
    assert "untagged: team/a:1" in promised
    assert "busybox" not in promised
    assert "Total reclaimable space: " in promised
    out = await wharf.ok("rmi", "--filter", "reference=*/b")
    assert "Untagged: team/b:1" in out
    out = await wharf.ok("image", "prune", "-af")
    assert "deleted: sha256:" in out
    assert "Total reclaimed space: " in out
    assert names(await engine.images()) == {"busybox:test"}
    assert (await wharf("image", "prune", "-f", "--filter", "colour=red")).code == 1
    assert (await wharf("rmi")).code == 1
    await engine.remove(box.id)
