"""Images there and back with Debian's dockerd, podman, skopeo and umoci: what they save and push is ours to run, what
we save and commit is theirs, file by file with owners, times and attributes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.engine import Engine
from core.model import ContainerSpec, Image
from core.store.paths import Instance
from tests.dockerd import dockerd
from tests.engine.test_cli import Wharf
from tests.images_lab import Node, finish, snapshot
from tests.patience import patience
from tests.registry import need, registry
from tests.trees import rich

pytestmark = pytest.mark.real


@dataclass
class Other:
    """Another engine, by its command line."""

    name: str
    program: list[str]
    env: dict[str, str]
    push_options: tuple[str, ...] = ()

    def __call__(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            [*self.program, *words], env=self.env, capture_output=True, text=True, timeout=patience(120), check=False
        )
        assert not check or done.returncode == 0, f"{self.name} {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def top_layer(self, image: str) -> Path:
        """The folder with the files of an image's last layer."""
        data = json.loads(self("image", "inspect", "-f", "{{json .GraphDriver.Data}}", image))
        return Path(data["UpperDir"])


@pytest.fixture(scope="module")
def docker() -> Iterator[Other]:
    need("dockerd", "docker", "containerd", "runc")
    options = ("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
    with dockerd(*options, "--storage-driver", "overlay2") as client:
        yield Other("docker", client, dict(os.environ))


@pytest.fixture(scope="module")
def podman() -> Iterator[Other]:
    need("podman", "conmon", "runc")
    folder = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))  # podman wants its run root short
    # podman asks for more open files than a host without CAP_SYS_RESOURCE can give.
    # Its locks are in shared memory that all of a host's have, and the first call of one with folders of its own, which
    # takes that for a reboot, frees them all: also those of another test process.
    (folder / "conf").write_text(
        '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=4096:4096"]\n[engine]\nlock_type="file"\n'
    )
    options = ["--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"]
    options += ["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime", shutil.which("runc") or ""]
    env = {**os.environ, "CONTAINERS_CONF": f"{folder}/conf"}
    call = Other("podman", ["podman", *options], env, ("--tls-verify=false",))
    yield call
    call("rm", "--all", "--force", "--time", "0")
    with contextlib.suppress(OSError):
        subprocess.run(["umount", "-l", f"{folder}/root/overlay"], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["docker", "podman"])
def other(request: pytest.FixtureRequest) -> Other:
    found: Other = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def wharf(instance_env: dict[str, str], busybox_image: str) -> Wharf:
    return Wharf(instance_env, busybox_image)


def layer(inst: Instance, image: Image) -> Path:
    return inst.images / "layers" / image.layers[-1].removeprefix("sha256:") / "diff"


def compared(folder: Path) -> dict[bytes, Node]:
    """:func:`snapshot` without what other engines cannot keep: fractions of a second and times before 1970, and
    overlayfs' own notes."""
    found = {}
    for path, (kind, mode, uid, gid, when, content, xattrs, *links) in snapshot(folder).items():
        assert isinstance(when, int)
        assert isinstance(xattrs, dict)
        kept = {key: value for key, value in xattrs.items() if not key.startswith("trusted.overlay.")}
        opaque = xattrs.get("trusted.overlay.opaque", b"")
        found[path] = (kind, mode, uid, gid, max(when // 10**9, 0), content, kept, opaque, *links)
    return found


async def committed(engine: Engine, inst: Instance, base: str) -> Image:
    """An image with everything in its last layer, made by ``commit``."""
    box = await engine.create(ContainerSpec(base, command=("cat", "/d/plain")))
    top = inst.container_dir(box.id) / "upper"
    rich(top)
    (top / "etc").mkdir()
    os.mknod(top / "etc/notexec", stat.S_IFCHR, 0)
    (top / "home").mkdir()
    os.setxattr(top / "home", "trusted.overlay.opaque", b"y")
    (top / "home/mine").write_bytes(b"x")
    return await engine.commit(box.id, "team/rich:1", changes=["ENV MADE=here", "LABEL a=b"])


async def run(engine: Engine, image: str, *command: str) -> str:
    box = await engine.create(ContainerSpec(image, command=command or None, network="none"))
    session = await engine.start_attached(box.id)
    text = b""
    while chunk := await session.read():
        text += chunk[1]
    assert await session.wait() == 0
    await session.close()
    return text.decode()


async def test_they_load_and_run_what_we_committed(
    engine: Engine, inst: Instance, busybox_image: str, other: Other, tmp_path: Path
) -> None:
    image = await committed(engine, inst, busybox_image)
    await engine.save(["team/rich:1"], tmp_path / "saved")
    await asyncio.to_thread(other, "load", "--input", str(tmp_path / "saved"))
    assert other("image", "inspect", "-f", "{{.Id}}", "team/rich:1").removeprefix("sha256:") == image.id[7:]
    assert other("run", "--rm", "--network", "none", "team/rich:1") == "plain" * 1000
    look = "echo $MADE; ls /home; test -e /etc/notexec || echo gone"
    assert other("run", "--rm", "--network", "none", "team/rich:1", "sh", "-c", look) == "here\nmine\ngone"
    theirs, ours = compared(other.top_layer("team/rich:1")), compared(layer(inst, image))
    differing = {path for path in theirs.keys() | ours.keys() if theirs.get(path) != ours.get(path)}
    assert differing == set()


async def test_we_load_and_run_what_they_committed(
    engine: Engine, inst: Instance, busybox_image: str, other: Other, tmp_path: Path
) -> None:
    await committed(engine, inst, busybox_image)
    await engine.save(["team/rich:1"], tmp_path / "saved")
    await asyncio.to_thread(other, "load", "--input", str(tmp_path / "saved"))
    script = (
        "rm -r /d/deep; rm /etc/group; mkdir /made; echo new >/made/file; chown 1000:2000 /made/file; "
        "chmod 4755 /made/file; touch -d @1000000000 /made/file; rm -r /home; mkdir /home; echo y >/home/other"
    )
    other("rm", "-f", "box", check=False)
    other("run", "--name", "box", "--network", "none", "team/rich:1", "sh", "-c", script)
    options = ["--format", "docker"] if other.name == "podman" else []
    change = ["--change", 'CMD ["sh", "-c", "cat /made/file"]']
    await asyncio.to_thread(other, "commit", *options, *change, "box", "team/theirs:1")
    await asyncio.to_thread(other, "save", "--output", str(tmp_path / "theirs"), "team/theirs:1")
    for name in await engine.images():
        if "team" in str(name.tags):
            await engine.remove_image(name.id, force=True)
    image = await finish(engine.load(tmp_path / "theirs"))
    assert image.id[7:] == other("image", "inspect", "-f", "{{.Id}}", "team/theirs:1").removeprefix("sha256:")
    assert await run(engine, image.id) == "new\n"
    assert await run(engine, image.id, "sh", "-c", "ls /home; ls /d; stat -c %u:%g:%a:%Y /made/file") == (
        "other\ncapable-too\nplain\n1000:2000:4755:1000000000\n"
    )
    assert compared(layer(inst, image)) == compared(other.top_layer("team/theirs:1"))
    # And back again, to the byte: the ids of all layers are what they were.
    await engine.save([image.id], tmp_path / "again")
    names = subprocess.run(["tar", "-tf", tmp_path / "again"], capture_output=True, text=True, check=True).stdout
    assert all(f"blobs/sha256/{diffid[7:]}" in names for diffid in image.layers)


async def test_we_pull_and_run_what_they_pushed(
    engine: Engine, inst: Instance, busybox_image: str, other: Other, tmp_path: Path
) -> None:
    image = await committed(engine, inst, busybox_image)
    await engine.save(["team/rich:1"], tmp_path / "saved")
    await asyncio.to_thread(other, "load", "--input", str(tmp_path / "saved"))
    ours = snapshot(layer(inst, image))
    for found in await engine.images():
        await engine.remove_image(found.id, force=True)
    with registry(tmp_path / "registry") as host:
        name = f"{host}/team/rich:1"
        other("tag", "team/rich:1", name)
        await asyncio.to_thread(other, "push", *other.push_options, name)
        pulled = await finish(engine.pull(name))
    assert pulled.layers == image.layers
    assert snapshot(layer(inst, pulled)) == ours
    assert await run(engine, name) == "plain" * 1000


@pytest.mark.parametrize("compression", ["", "zstd"])
async def test_they_pull_and_run_what_we_pushed(
    engine: Engine, inst: Instance, busybox_image: str, other: Other, tmp_path: Path, compression: str
) -> None:
    if compression and other.name == "docker":
        pytest.skip("Debian's dockerd does not know zstd")
    image = await committed(engine, inst, busybox_image)
    with registry(tmp_path / "registry") as host:
        name = f"{host}/team/rich:1"
        await engine.tag("team/rich:1", name)
        pushed = [step async for step in engine.push(name, compression=compression)][-1]
        for old in ("team/rich:1", name):
            other("rmi", "-f", old, check=False)
        await asyncio.to_thread(other, "pull", *other.push_options, name)
        assert other("image", "inspect", "-f", "{{json .RepoDigests}}", name).count(pushed.digest) == 1
    assert other("run", "--rm", "--network", "none", name) == "plain" * 1000
    theirs, ours = compared(other.top_layer(name)), compared(layer(inst, image))
    assert {path for path in theirs.keys() | ours.keys() if theirs.get(path) != ours.get(path)} == set()


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci"])
async def test_skopeo_reads_what_we_saved(
    engine: Engine, inst: Instance, busybox_image: str, tmp_path: Path, kind: str
) -> None:
    need("skopeo")
    image = await committed(engine, inst, busybox_image)
    form = "oci-dir" if kind == "oci" else kind
    await engine.save(["team/rich:1"], tmp_path / "saved", form=form, compression="gzip" if kind == "oci" else "none")
    source = f"{kind}:{tmp_path / 'saved'}:{'team/rich:1' if kind == 'docker-archive' else '1'}"
    target = f"docker-archive:{tmp_path / 'copy'}:copied:1"
    command = ["skopeo", "--insecure-policy", "copy", "-q", source, target]
    await asyncio.to_thread(subprocess.run, command, check=True)
    copied = await finish(engine.load(tmp_path / "copy"))
    assert copied.layers == image.layers
    assert copied.config == image.config


async def test_umoci_unpacks_what_we_saved(engine: Engine, inst: Instance, busybox_image: str, tmp_path: Path) -> None:
    need("umoci")
    image = await committed(engine, inst, busybox_image)
    await engine.save([image.id], tmp_path / "by-id", form="oci-dir", compression="gzip")
    await engine.save(["team/rich:1"], tmp_path / "saved", form="oci-dir", compression="gzip")
    command = ["umoci", "raw", "unpack", "--image", f"{tmp_path / 'saved'}:1", str(tmp_path / "out")]
    await asyncio.to_thread(subprocess.run, command, check=True)
    box = await engine.create(ContainerSpec(image.id))
    (tmp_path / "shown").mkdir()
    read, write = os.pipe()
    unpack = ["tar", "--xattrs", "--xattrs-include=*", "-xp", "-C", str(tmp_path / "shown")]
    with subprocess.Popen(unpack, stdin=read) as process:
        os.close(read)
        await engine.export(box.id, write)
        os.close(write)
        assert await asyncio.to_thread(process.wait) == 0
    theirs, shown = snapshot(tmp_path / "out"), snapshot(tmp_path / "shown")
    extra = {b"dev", b"proc", b"sys", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"}
    assert {path for path in shown if path not in theirs} == extra
    assert {path for path in theirs if shown.get(path) != theirs[path]} == set()
