"""Exported checkpoints: what comes back, and what is refused (CVE-2026-53492, CVE-2026-50195, CVE-2026-53489)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.local import LocalEngine
from core.model import Mount, Resources, State
from core.store.paths import Instance, find_instance
from tests.criu import needs_criu
from tests.engine.test_checkpoint import goes_on, inside, numbers, start
from tests.instance import end_instance

Members = dict[str, bytes]


@pytest.fixture(autouse=True)
def works() -> None:
    needs_criu()


FILES = "mkdir -p /d/e; echo f >/d/f; ln /d/f /d/g; ln -s f /d/l; chown 5:6 /d/e; chmod 1750 /d/e; rm /bin/wget"
COUNT = f"{FILES}; rm -r /root; mkdir /root; echo s >/dev/shm/s; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"


async def exported(engine: Engine, image: str, path: Path, **fields: object) -> str:
    cid = await start(engine, image, COUNT, network="none", **fields)
    await engine.checkpoint(cid, export=path)
    return cid


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst"])
async def test_export_remove_and_restore(engine: Engine, busybox_image: str, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"box{suffix}"
    cid = await exported(
        engine,
        busybox_image,
        path,
        name="box",
        env=("A=b",),
        resources=Resources(memory=64 << 20),
        mounts=(Mount("volume", "data", "/vol"),),
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    box = await engine.container(cid)
    assert box.state is State.EXITED
    assert await engine.checkpoints(cid) == []
    said = await numbers(engine, cid)
    await engine.remove(cid)
    again = await engine.restore_from(path)
    assert (again.name, again.id != cid, again.state) == ("box", True, State.RUNNING)
    assert (again.spec.env, again.spec.resources.memory) == (("A=b",), 64 << 20)
    assert (await numbers(engine, again.id))[: len(said)] == said, "the log came along"
    await goes_on(engine, again.id)
    line = "cat /dev/shm/s /d/g; stat -c '%h' /d/f; readlink /d/l; stat -c '%u %g %a' /d/e"
    line += "; ls /bin/wget 2>&1; ls -A /root"
    lines = (await inside(engine, again.id, line)).splitlines()
    assert lines[:5] == ["s", "f", "2", "f", "5 6 1750"]
    assert "No such file" in lines[5]
    assert lines[6:] == []
    assert await inside(engine, again.id, "hostname; cat /etc/hostname") == f"{cid[:12]}\n" * 2
    assert "/vol" in await inside(engine, again.id, "cat /proc/mounts")
    assert await engine.checkpoints(again.id) == [], "it was only on its way"
    with pytest.raises(errors.NameTaken):
        await engine.restore_from(path)
    await engine.remove(again.id, force=True)
    other = await engine.restore_from(path, name="other")
    await goes_on(engine, other.id)


async def test_leave_running_takes_files_and_memory_of_one_moment(
    engine: Engine, busybox_image: str, tmp_path: Path
) -> None:
    count = "i=0; while :; do i=$((i+1)); echo $i >/n; echo $i >/dev/shm/n; echo $i; done"
    cid = await start(engine, busybox_image, count, network="none")
    made = await engine.checkpoint(cid, "kept", leave_running=True, export=tmp_path / "a.tar.zst")
    assert made.name == "kept"
    assert (await engine.container(cid)).state is State.RUNNING
    await engine.remove(cid, force=True)
    again = await engine.restore_from(tmp_path / "a.tar.zst")
    await engine.pause(again.id)
    found = await numbers(engine, again.id)
    assert found == list(range(1, len(found) + 1))
    await engine.unpause(again.id)


def unpacked(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]


def packed(path: Path, members: Members, more: Callable[[tarfile.TarFile], object] = lambda archive: None) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        more(archive)
    return path


def changed(members: Members, change: Callable[[dict[str, object]], object]) -> Members:
    """With another specification; everything but the seal fits."""
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def refit(members: Members) -> Members:
    """The manifest's sizes and digests are made to fit."""
    manifest = json.loads(members["manifest.json"])
    manifest["files"] = {
        name: [len(content), hashlib.sha256(content).hexdigest()]
        for name, content in members.items()
        if not name.startswith("manifest.")
    }
    return {**members, "manifest.json": json.dumps(manifest).encode()}


async def refused(engine: Engine, path: Path, words: str | None = None, *, trust: bool = False) -> None:
    before = [box.id for box in await engine.containers()]
    with pytest.raises(errors.Corrupt, match=words):
        await engine.restore_from(path, name="bad", trust=trust)
    assert [box.id for box in await engine.containers()] == before


async def test_what_was_changed_is_refused(engine: Engine, busybox_image: str, tmp_path: Path, inst: Instance) -> None:
    await exported(engine, busybox_image, tmp_path / "good.tar", name="box")
    good = unpacked(tmp_path / "good.tar")
    bad = tmp_path / "bad.tar"
    privileged = changed(good, lambda manifest: manifest["spec"].update(privileged=True))  # type: ignore[attr-defined]
    await refused(engine, packed(bad, privileged), "not made by this engine, or was changed")
    await refused(engine, packed(bad, {**good, "manifest.mac": b"0" * 64}), "not made by this engine")
    await refused(engine, packed(bad, {**good, "manifest.mac": b""}), "not made by this engine")
    image = next(name for name in good if name.startswith("criu/core-"))
    await refused(engine, packed(bad, {**good, image: good[image][:-1] + b"\0"}), "not what its manifest says")
    await refused(engine, packed(bad, {**good, "log": b"x"}), "not what its manifest says")
    await refused(engine, packed(bad, {**good, "upper.tar": good["upper.tar"] + bytes(512)}), "not what its manifest")
    await refused(engine, packed(bad, {**good, "checkpoint.json": b"{}"}), "not what its manifest says")
    await refused(engine, packed(bad, {**good, "criu/more.img": b""}), "members")
    await refused(engine, packed(bad, {name: good[name] for name in good if name != "log"}), "members|no file")
    bad.write_bytes(b"no tar at all" * 100)
    await refused(engine, bad)
    with pytest.raises(errors.NotFound, match="no such file"):
        await engine.restore_from(tmp_path / "nowhere.tar")
    assert not list(inst.trash.iterdir())


async def test_trust_believes_no_more_than_it_must(
    engine: Engine, busybox_image: str, tmp_path: Path, inst: Instance
) -> None:
    """Whoever gives --trust takes the processes; paths, types, links and digests are checked all the same."""
    await exported(engine, busybox_image, tmp_path / "good.tar", name="box")
    good = unpacked(tmp_path / "good.tar")
    bad, evil = tmp_path / "bad.tar", tmp_path / "evil"
    for name in ("criu/../../evil", "/evil", "../evil", "criu/.hidden", "criu/a/b"):
        moved = refit({**good, name: b"evil"})
        await refused(engine, packed(bad, moved))
        await refused(engine, packed(bad, moved), trust=True)

    def link(kind: bytes, name: str) -> Callable[[tarfile.TarFile], None]:
        def add(archive: tarfile.TarFile) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)

        return add

    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        for name in ("log", "criu/pages-1.img", "criu/new.img"):
            await refused(engine, packed(bad, good, link(kind, name)), trust=True)
    for spec in ({"mounts": 3}, [], "x", None, {"command": [["a"]]}, {"env": [5]}, {"resources": {"memory": "much"}}):
        strange = changed(good, lambda manifest, spec=spec: manifest.update(spec=spec))  # type: ignore[misc]
        with pytest.raises(errors.WharfError):
            await engine.restore_from(packed(bad, strange), trust=True)
    mounts = [{"kind": "bind", "source": "/", "target": "/proc"}]
    deep = changed(good, lambda manifest: manifest["spec"].update(mounts=mounts))  # type: ignore[attr-defined]
    with pytest.raises(errors.InvalidArgument, match="/proc"):
        await engine.restore_from(packed(bad, deep), trust=True)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        info = tarfile.TarInfo("../../../../evil")
        archive.addfile(info)
    await refused(engine, packed(bad, refit({**good, "upper.tar": layer.getvalue()})), "leads upwards", trust=True)
    meta = json.loads(good["checkpoint.json"])
    meta["mounts"] = [["/x", "/etc/hosts", "../../../../evil"]]
    strange = refit({**good, "checkpoint.json": json.dumps(meta).encode()})
    with pytest.raises(errors.StartFailed, match="its source is not there"):
        await engine.restore_from(packed(bad, strange), name="bad", trust=True)
    assert not evil.exists()
    assert [box.name for box in await engine.containers()] == ["box"]
    assert len(list((inst.root / "containers").iterdir())) == 1
    again = await engine.restore_from(packed(bad, good), name="again", trust=True)
    await goes_on(engine, again.id)


async def test_another_engine_takes_it_with_trust_and_the_same_image(
    engine: Engine, busybox_image: str, tmp_path: Path, archive: Path
) -> None:
    cid = await exported(engine, busybox_image, tmp_path / "a.tar.zst", name="box")
    assert (await engine.container(cid)).state is State.EXITED
    away = find_instance(tmp_path / "away", tmp_path / "away-run")
    away.prepare()
    other = await LocalEngine.open(away.root, away.run)
    try:
        with pytest.raises(errors.Corrupt, match="--trust"):
            await other.restore_from(tmp_path / "a.tar.zst")
        with pytest.raises(errors.NotFound, match=r"image is not in the store.*busybox:test"):
            await other.restore_from(tmp_path / "a.tar.zst", trust=True)
        async for _ in other.load(archive):
            pass
        box = await other.restore_from(tmp_path / "a.tar.zst", trust=True)
        await goes_on(other, box.id)
        assert os.path.exists(away.container_dir(box.id) / "upper/d/f")
    finally:
        await other.close()
        await end_instance(away)


async def test_the_name_of_the_image_is_not_believed(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    """The id decides; a name that points to another image by now is not used."""
    path = tmp_path / "a.tar"
    await exported(engine, busybox_image, path, name="box")
    members = changed(unpacked(path), lambda manifest: manifest["spec"].update(image="nosuch:tag"))  # type: ignore[attr-defined]
    box = await engine.restore_from(packed(tmp_path / "b.tar", members), name="other", trust=True)
    assert box.spec.image == (await engine.image(busybox_image)).id
    await goes_on(engine, box.id)
    assert "nosuch" not in str([image.tags for image in await engine.images()])


async def test_a_file_that_would_be_a_mark_ends_nothing(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    cid = await start(engine, busybox_image, f"touch /.wh.x; {COUNT}", network="none")
    with pytest.raises(errors.Conflict, match="taken for a mark"):
        await engine.checkpoint(cid, export=tmp_path / "a.tar")
    await goes_on(engine, cid)
    assert list(tmp_path.glob("*.tar*")) == []
    assert not list(tmp_path.glob(".*.part"))
