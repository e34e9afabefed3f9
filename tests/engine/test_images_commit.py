"""Images of what containers have become: files to the last attribute, configuration as Docker makes it, no trace of
what was broken off."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from core.engine import Engine
from core.errors import Conflict, InvalidArgument, NotFound
from core.local import LocalEngine
from core.model import Container, ContainerSpec, FileChange, Healthcheck, Image, PortMapping, State
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_images_tarwrite import few_descriptors
from tests.images_lab import describe, finish, snapshot
from tests.patience import patience
from tests.trees import rich

pytestmark = pytest.mark.real
HOUSE = Path(__file__).resolve().parents[2]


async def made(engine: Engine, image: str, *command: str, **more: Any) -> Container:
    return await engine.create(ContainerSpec(image, command=command or ("sleep", "600"), **more))


def upper(inst: Instance, box: Container) -> Path:
    return inst.container_dir(box.id) / "upper"


async def config(engine: Engine, image: Image) -> dict[str, Any]:
    view = await engine.inspect(image.id)
    found = view["Config"]
    assert isinstance(found, dict)
    return found


async def exported(engine: Engine, box: Container) -> bytes:
    with tempfile.TemporaryFile() as file:
        await engine.export(box.id, file.fileno())
        file.seek(0)
        return file.read()


def layer(inst: Instance, image: Image) -> Path:
    return inst.images / "layers" / image.layers[-1].removeprefix("sha256:") / "diff"


def changed(inst: Instance, box: Container) -> None:
    """A tree of everything in the writable layer, with marks of overlayfs."""
    top = upper(inst, box)
    rich(top)
    (top / "etc").mkdir()
    os.mknod(top / "etc/notexec", stat.S_IFCHR, 0)
    (top / "home").mkdir(mode=0o700)
    os.setxattr(top / "home", "trusted.overlay.opaque", b"y")
    (top / "home/mine").write_bytes(b"x")
    os.chown(top / "home/mine", 1000, 2000)


async def test_files_are_the_same_to_the_last_attribute(engine: Engine, busybox_image: str, inst: Instance) -> None:
    box = await made(engine, busybox_image)
    changed(inst, box)
    image = await engine.commit(box.id, "team/new:1")
    assert image.tags == ("docker.io/team/new:1",)
    assert snapshot(layer(inst, image)) == snapshot(upper(inst, box))
    assert describe(layer(inst, image))[:5] == describe(upper(inst, box))[:5]
    # What a container of it shows is what the old one shows, byte by byte.
    again = await made(engine, image.id)
    assert await exported(engine, again) == await exported(engine, box)
    assert (await engine.commit(again.id)).layers == image.layers  # nothing has changed: no layer


async def test_a_running_container(engine: Engine, busybox_image: str, inst: Instance) -> None:
    script = "rm -r /home; mkdir /home; echo new >/home/file; echo more >>/etc/passwd; rm /etc/group; sleep 600"
    box = await made(engine, busybox_image, "sh", "-c", script)
    await engine.start(box.id)
    while not (upper(inst, box) / "etc/group").is_char_device():
        await asyncio.sleep(0.02)
    assert await engine.changes(box.id) == [
        FileChange("C", "/etc"),
        FileChange("D", "/etc/group"),
        FileChange("C", "/etc/passwd"),
        FileChange("C", "/home"),
        FileChange("A", "/home/file"),
    ]
    image = await engine.commit(box.id, "new")
    assert (await engine.container(box.id)).state is State.RUNNING
    names = set(snapshot(layer(inst, image)))
    # Where every container has something mounted is not in it.
    assert names == {b"etc", b"etc/group", b"etc/passwd", b"home", b"home/file"}
    look = "cat /home/file; ls /home; tail -n 1 /etc/passwd; test -e /etc/group || echo gone"
    other = await made(engine, "new", "sh", "-c", look)
    session = await engine.start_attached(other.id)
    text = b""
    while chunk := await session.read():
        text += chunk[1]
    assert text == b"new\nfile\nmore\ngone\n"
    await session.close()


async def test_it_stands_still_meanwhile(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """Two files that always say the same, written one after the other."""
    script = "i=0; while :; do i=$((i+1)); echo $i >/a; echo $i >/b; done"
    box = await made(engine, busybox_image, "sh", "-c", script)
    await engine.start(box.id)
    while not (upper(inst, box) / "b").exists():
        await asyncio.sleep(0.02)
    for _ in range(5):
        image = await engine.commit(box.id)
        first, second = ((layer(inst, image) / name).read_text() for name in "ab")
        assert not second or int(first or second) - int(second) in (0, 1)
    await engine.commit(box.id, pause=False)
    assert (await engine.container(box.id)).state is State.RUNNING


async def test_a_paused_one_stays_paused(engine: Engine, busybox_image: str) -> None:
    box = await made(engine, busybox_image)
    await engine.start(box.id)
    await engine.pause(box.id)
    await engine.commit(box.id)
    assert (await engine.container(box.id)).state is State.PAUSED
    await engine.unpause(box.id)


async def test_owners_of_a_user_namespace(engine: Engine, busybox_image: str, inst: Instance, mappable: None) -> None:
    script = "echo x >/mine; chown 1000:2000 /mine; echo r >/roots; sleep 600"
    box = await made(engine, busybox_image, "sh", "-c", script, userns="auto")
    await engine.start(box.id)
    while not (upper(inst, box) / "roots").exists():
        await asyncio.sleep(0.02)
    image = await engine.commit(box.id)
    owners = {name: (layer(inst, image) / name).stat() for name in ("mine", "roots")}
    assert {name: (one.st_uid, one.st_gid) for name, one in owners.items()} == {"mine": (1000, 2000), "roots": (0, 0)}


async def test_the_configuration(engine: Engine, busybox_image: str) -> None:
    check = Healthcheck(("CMD", "true"), interval=5.0)
    box = await made(
        engine,
        busybox_image,
        "httpd",
        "-f",
        env=("A=1",),
        user="app",
        working_dir="/tmp",
        labels={"k": "v"},
        ports=(PortMapping(80, 0),),
        stop_signal="SIGINT",
        healthcheck=check,
    )
    image = await engine.commit(box.id, "x", author="Jane <j@x.org>", message="why", changes=["ENV B=$A", "LABEL l=m"])
    found = await config(engine, image)
    wanted = {
        "Env": ["PATH=/bin", "A=1", "B=1"],
        "Cmd": ["httpd", "-f"],
        "User": "app",
        "WorkingDir": "/tmp",
        "Labels": {"k": "v", "l": "m"},
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT",
        "Entrypoint": None,
        "OnBuild": None,
    }
    assert {key: found[key] for key in wanted} == wanted
    assert found["Healthcheck"]["Test"] == ["CMD", "true"]
    view = await engine.inspect(image.id)
    assert (view["Author"], view["Comment"], view["RepoTags"]) == ("Jane <j@x.org>", "why", ["x:latest"])
    last, *_ = await engine.history(image.id)
    assert (last.comment, last.author, last.created_by, last.size) == ("why", "Jane <j@x.org>", "httpd -f", 0)


@pytest.mark.parametrize("history", [["x", 3], {"x": 1}, "x", [{"created": 5, "created_by": ["a"]}]])
async def test_a_history_that_is_none(engine: Engine, tmp_path: Path, history: Any) -> None:
    """The image is taken as it comes; what is made of it has a history with a step for each layer."""
    found = make.image([make.tar(make.member("x"))], history=history)
    async for _ in engine.load(make.layout(tmp_path / "layout", found, "odd:1")):
        pass
    image = await engine.commit((await made(engine, "odd:1")).id, changes=["ENV A=1"])
    steps = await engine.history(image.id)
    assert [bool(step.layer) for step in steps] == [False, True]


async def test_an_entrypoint_drops_the_command(engine: Engine, busybox_image: str) -> None:
    box = await made(engine, busybox_image, "old")
    found = await config(engine, await engine.commit(box.id, changes=['ENTRYPOINT ["echo"]']))
    assert (found["Entrypoint"], found["Cmd"]) == (["echo"], None)


async def test_refusals_leave_nothing(engine: Engine, busybox_image: str, inst: Instance) -> None:
    box = await made(engine, busybox_image)
    (upper(inst, box) / ".wh.trick").touch()
    before = sorted(path.name for path in (inst.images / "layers").iterdir())
    for arguments, error in (
        ({"ref": "nobody"}, NotFound),
        ({"ref": box.id, "name": "Bad Name"}, InvalidArgument),
        ({"ref": box.id, "name": f"x@sha256:{'0' * 64}"}, InvalidArgument),
        ({"ref": box.id, "changes": ["RUN x"]}, InvalidArgument),
        ({"ref": box.id}, Conflict),
    ):
        with pytest.raises(error):
            await engine.commit(**arguments)  # type: ignore[arg-type]
    assert sorted(path.name for path in (inst.images / "layers").iterdir()) == before
    assert len(await engine.images()) == 1
    assert not list(inst.trash.iterdir())


async def test_a_tag_moves(engine: Engine, busybox_image: str, inst: Instance) -> None:
    box = await made(engine, busybox_image)
    (upper(inst, box) / "one").touch()
    first = await engine.commit(box.id, "app")
    (upper(inst, box) / "two").touch()
    second = await engine.commit(box.id, "app")
    assert (await engine.image("app")).id == second.id
    assert (await engine.image(first.id)).tags == ()
    for image in (first, second):
        await engine.remove_image(image.id, force=True)


async def test_killed_at_any_moment(
    engine: Engine, busybox_image: str, inst: Instance, instance_env: dict[str, str]
) -> None:
    box = await made(engine, busybox_image, "sh", "-c", "while :; do echo x; sleep 0.05; done")
    for number in range(300):
        (upper(inst, box) / f"f{number}").write_bytes(os.urandom(40_000))
    await engine.start(box.id)
    known = {image.id for image in await engine.images()}
    for delay in (0.15, 0.25, 0.3, 0.35, 0.4, 0.5):
        command = [sys.executable, "-m", "tui", "commit", box.id, "killed:1"]
        process = subprocess.Popen(command, cwd=HOUSE, env=instance_env, stdout=subprocess.DEVNULL)
        await asyncio.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        again = await LocalEngine.open(inst.root, inst.run)
        try:
            assert await again.recover() == []
            # It runs on: what had frozen it was undone.
            log = inst.log_path(box.id)
            size, end = log.stat().st_size, time.monotonic() + patience(20)
            while log.stat().st_size == size:
                assert time.monotonic() < end, "it is frozen"
                await asyncio.sleep(0.05)
        finally:
            await again.close()
        for image in await engine.images():
            if image.id not in known:  # it was faster: then it is whole
                assert image.tags == ("docker.io/library/killed:1",)
                await engine.remove_image(image.id)
    await settled(inst)
    assert not list((inst.run / "journal").iterdir())


async def settled(inst: Instance) -> None:
    """The worker of a dead engine holds its folder until the kernel has ended it too; deletion goes on behind us."""
    end = time.monotonic() + patience(20)
    while list((inst.images / "layers").glob("tmp-*")) or list(inst.trash.iterdir()):
        assert time.monotonic() < end, "something is left of a layer, or in the trash"
        await asyncio.sleep(0.05)
        again = await LocalEngine.open(inst.root, inst.run)
        await again.recover()
        await again.close()


async def test_a_lost_power_takes_only_whole_layers(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """A new layer is marked durable once it has been synced, by a process that nobody waits for."""
    box = await made(engine, busybox_image)
    (upper(inst, box) / "x").touch()
    image = await engine.commit(box.id)
    assert isinstance(engine, LocalEngine)
    read = engine._ctx.store.disk.read
    end = time.monotonic() + patience(60)  # the whole disk is synced, whatever else is on its way to it
    while not read("SELECT durable FROM layer WHERE id = ?", (image.layers[-1],))[0]["durable"]:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def test_export_has_no_mounts_and_all_else(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/secret").touch()
    box = await made(engine, busybox_image, "sh", "-c", "echo new >/new; sleep 600")
    await engine.start(box.id)
    while not (upper(inst, box) / "new").exists():
        await asyncio.sleep(0.02)
    (tmp_path / "out.tar").write_bytes(await exported(engine, box))
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = set(archive.getnames())
        passwd = archive.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read().startswith(b"root:")
    assert {"bin/busybox", "bin/sh", "new", "proc"} <= names
    assert not any(name.startswith(("proc/", "sys/", "dev/")) for name in names)


async def test_diff_of_nothing_and_of_everything(engine: Engine, busybox_image: str, inst: Instance) -> None:
    box = await made(engine, busybox_image)
    assert await engine.changes(box.id) == []
    top = upper(inst, box)
    shutil.rmtree(top)
    top.mkdir()
    os.mknod(top / "bin", stat.S_IFCHR, 0)
    os.mknod(top / "never-was", stat.S_IFCHR, 0)
    (top / "etc").write_text("a file where a folder was")
    (top / "tmp").mkdir()
    os.setxattr(top / "tmp", "trusted.overlay.opaque", b"y")
    (top / "root").mkdir(mode=0o755)
    (top / "odd\udcff\n").touch()
    found = await engine.changes(box.id)
    assert json.loads(json.dumps([(one.kind, one.path) for one in found])) == [
        ["D", "/bin"],
        ["C", "/etc"],
        ["A", "/odd\udcff\n"],
        ["C", "/root"],
        ["C", "/tmp"],
    ]


async def test_many_deep_layers_with_few_descriptors(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    """Nine layers, 150 folders deep each: more folders at a time than a process may have open."""
    layers = []
    for number in range(9):
        folders = [make.directory("/".join("d" * depth)) for depth in range(1, 151)]
        layers.append(make.tar(*folders, make.member("/".join("d" * 150) + f"/f{number}", data=b"x")))
    image = await finish(engine.load(make.layout(tmp_path / "layout", make.image(layers), "deep:1")))
    box = await made(engine, image.id, "true")
    own = upper(inst, box).joinpath(*"d" * 150)
    own.mkdir(parents=True)
    (own / "f0").write_bytes(b"y")
    (own / "new").touch()
    with few_descriptors(400):
        changes = await engine.changes(box.id)
        committed = await engine.commit(box.id, "deeper:1")
        await engine.export(box.id, tmp_path / "files")
    assert {(change.kind, change.path) for change in changes[-2:]} == {
        ("C", "/" + "/".join("d" * 150) + "/f0"),
        ("A", "/" + "/".join("d" * 150) + "/new"),
    }
    assert len(committed.layers) == 10
    with tarfile.open(tmp_path / "files") as archive:
        assert sum(member.isreg() for member in archive) >= 10
