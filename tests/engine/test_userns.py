"""User namespaces per container (``--userns auto|remap``): whose ids are whose, on the disk, on the host and inside
(CVE-2021-21284: overlapping ranges); and that they last, whatever is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
import pytest_asyncio

from core import errors
from core.engine import Engine
from core.local import LocalEngine
from core.model import ContainerSpec, DeviceMapping, Healthcheck, Mount
from core.runtime.spaces import USUAL_IDS
from core.store.paths import Instance, find_instance
from tests.engine.test_lifecycle import output, run, sleeper, until
from tests.engine.test_options import host_config, inside, shell
from tests.imagemaker import _layer, busybox, make_archive
from tests.instance import end_instance

pytestmark = pytest.mark.usefixtures("mappable")
PROBE = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(void) {
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    printf("uid %d euid %d\n", getuid(), geteuid());
    while (status && fgets(line, sizeof line, status)) if (!strncmp(line, "CapEff", 6)) fputs(line, stdout);
    return 0;
}
"""
NET_RAW = 1 << 13


def outer_map(pid: int, kind: str = "uid") -> list[tuple[int, ...]]:
    lines = Path(f"/proc/{pid}/{kind}_map").read_text().splitlines()
    return [tuple(int(word) for word in line.split()) for line in lines]


async def span(engine: Engine, cid: str) -> range:
    """The host's ids of a container, as its record has them."""
    first, count = (await engine.container(cid)).ids
    return range(first, first + count)


def disjoint(spans: list[range]) -> bool:
    ordered = sorted(spans, key=lambda one: one.start)
    return all(a.stop <= b.start for a, b in itertools.pairwise(ordered))


def owners(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """Of every file below: uid, gid, mode and time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, status.st_ctime_ns)
    return found


@pytest_asyncio.fixture
async def ids_image(engine: Engine, tmp_path: Path) -> str:
    """Busybox with files of several owners, a set-user-ID program and one with a file capability."""
    program = busybox()
    if program is None or shutil.which("gcc") is None:
        pytest.skip("needs busybox-static, gcc and libc6-dev")
    (tmp_path / "probe.c").write_text(PROBE)
    argv = ["gcc", "-O1", "-static", "-o", str(tmp_path / "probe"), str(tmp_path / "probe.c")]
    if (done := subprocess.run(argv, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"cannot compile: {done.stderr.splitlines()[:1]}")
    probe = (tmp_path / "probe").read_bytes()
    # struct vfs_cap_data, version 2 with the effective bit (capabilities(7))
    capability = struct.pack("<IIIII", 0x02000001, NET_RAW, 0, 0, 0)
    raw = BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, uid, mode, data, xattr in (
            ("ids/app", 1000, 0o600, b"app's\n", b""),
            ("ids/last", 65535, 0o600, b"last's\n", b""),
            ("ids/beyond", 70000, 0o644, b"nobody's\n", b""),
            ("bin/setuid", 0, 0o4755, probe, b""),
            ("bin/capable", 0, 0o755, probe, capability),
        ):
            info = tarfile.TarInfo(name)
            info.uid = info.gid = uid
            info.mode, info.size = mode, len(data)
            if xattr:
                info.pax_headers = {"SCHILY.xattr.security.capability": xattr.decode("utf-8", "surrogateescape")}
            tar.addfile(info, BytesIO(data))
    path = make_archive(tmp_path / "ids.tar", "ids:test", [_layer(program), raw.getvalue()])
    async for _ in engine.load(path):
        pass
    return "ids:test"


# -- whose ids are whose
async def test_root_inside_is_nobody_outside(engine: Engine, busybox_image: str) -> None:
    cid = await sleeper(engine, busybox_image, userns="auto")
    first, count = (await engine.container(cid)).ids
    assert count == USUAL_IDS
    code, text = await inside(engine, cid, "cat", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups")
    assert code == 0
    assert text.split() == ["0", str(first), str(count), "0", str(first), str(count), "allow"]
    pid = (await engine.container(cid)).pid
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(first)}
    assert first > 0
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    view = await host_config(engine, cid)
    assert view["UsernsMode"] == "auto"
    assert view["IDMappings"] == {"UidMap": [f"0:{first}:{count}"], "GidMap": [f"0:{first}:{count}"]}
    await engine.kill(cid)


@pytest.mark.parametrize("userns", ["auto", "remap"])
async def test_a_host_folder_that_is_made_is_its_roots(
    engine: Engine, busybox_image: str, tmp_path: Path, userns: str
) -> None:
    """As docker makes it; what is there already keeps its owner."""
    there, folder = tmp_path / "there", tmp_path / "there" / "not" / "yet"
    there.mkdir()
    mount = Mount("bind", str(folder), "/x", make=True)
    box = await engine.create(
        ContainerSpec(busybox_image, command=("touch", "/x/file"), mounts=(mount,), userns=userns)
    )
    await engine.start(box.id)
    assert await engine.wait(box.id) == 0, await output(engine, box.id)
    first, _ = (await engine.container(box.id)).ids
    for path, owner in ((there, 0), (folder.parent, first), (folder, first), (folder / "file", first)):
        assert (path.stat().st_uid, path.stat().st_gid) == (owner, owner), path


async def test_nothing_is_copied_and_the_disk_is_roots(engine: Engine, ids_image: str, inst: Instance) -> None:
    layers = owners(inst.images)
    script = (
        "stat -c '%u %g %n' / /bin /bin/busybox /ids/app /ids/last /ids/beyond; "
        "cd /etc; stat -c '%u %g /etc/%n' hosts resolv.conf hostname; "
        "touch /new; echo more >> /ids/app; cat /ids/beyond; chown 1000:1000 /tmp; mkdir /home/sub; rm /ids/last"
    )
    box = await engine.create(ContainerSpec(ids_image, command=("sh", "-c", script), userns="auto"))
    await engine.start(box.id)
    assert await engine.wait(box.id) == 0, await output(engine, box.id)
    assert await output(engine, box.id) == [
        *(f"0 0 {path}" for path in ("/", "/bin", "/bin/busybox")),
        "1000 1000 /ids/app",
        "65535 65535 /ids/last",
        "65534 65534 /ids/beyond",  # an id that the range has not: nobody's
        *(f"0 0 /etc/{name}" for name in ("hosts", "resolv.conf", "hostname")),
        "nobody's",
    ]
    assert owners(inst.images) == layers
    assert {path.stat().st_mode & 0o777 for path in (inst.root, inst.run, inst.images)} == {0o700}
    upper = inst.container_dir(box.id) / "upper"
    found = {name[len(str(upper)) :]: entry[:2] for name, entry in owners(upper).items()}
    assert found["/new"] == found["/home/sub"] == (0, 0)
    assert found["/ids/app"] == found["/tmp"] == (1000, 1000)
    assert (upper / "ids/app").read_text() == "app's\nmore\n"


async def test_owners_up_to_the_last_id(engine: Engine, busybox_image: str) -> None:
    script = (
        "touch /a /b; chown 1000:1000 /a; chown 65535:65535 /b; stat -c '%u %g' /a /b; "
        "for id in 65536 4000000; do chown $id /a 2>/dev/null && echo CHOWNED; done; stat -c %u /a"
    )
    assert await shell(engine, busybox_image, script, userns="auto") == ["1000 1000", "65535 65535", "1000"]


async def test_size_of_the_range(engine: Engine, busybox_image: str) -> None:
    script = "cat /proc/self/uid_map; touch /a; chown 1999 /a && echo yes; chown 2000 /a 2>/dev/null || echo no"
    lines = await shell(engine, busybox_image, script, userns="auto:size=2000")
    assert lines[0].split()[2] == "2000"
    assert lines[1:] == ["yes", "no"]


async def test_users_of_the_image(engine: Engine, ids_image: str) -> None:
    script = "id -u; cat /ids/app; cat /proc/self/uid_map | grep -c .; echo err > /dev/stderr; echo out > /dev/stdout"
    lines = await shell(engine, ids_image, script, userns="auto", user="app")
    lines.remove("err")  # another stream: it may come at any place
    assert lines == ["1000", "app's", "1", "out"]
    box = await engine.create(ContainerSpec(ids_image, command=("true",), userns="auto", user="70000"))
    with pytest.raises(errors.StartFailed, match="70000"):
        await engine.start(box.id)
    assert await shell(engine, ids_image, "id -u", userns="auto:size=80000", user="70000") == ["70000"]


async def test_programs_that_raise_rights_do_so_inside_only(engine: Engine, ids_image: str) -> None:
    lines = await shell(engine, ids_image, "setuid; capable", userns="auto", user="app")
    assert lines[0] == "uid 1000 euid 0"
    assert lines[2] == "uid 1000 euid 1000"
    raised, file_capability = (int(line.split()[1], 16) for line in (lines[1], lines[3]))
    assert raised & NET_RAW
    assert file_capability == NET_RAW


# -- ranges
async def test_ranges_are_disjoint_kept_and_freed(engine: Engine, busybox_image: str) -> None:
    boxes = [await sleeper(engine, busybox_image, userns="auto") for _ in range(2)]
    spans = [await span(engine, cid) for cid in boxes]
    assert disjoint(spans)
    pids = [(await engine.container(cid)).pid for cid in boxes]
    assert [outer_map(pid) for pid in pids] == [[(0, one.start, len(one))] for one in spans]
    await engine.restart(boxes[0], timeout=1)
    assert outer_map((await engine.container(boxes[0])).pid) == [(0, spans[0].start, len(spans[0]))]
    await engine.kill(boxes[0])
    await engine.remove(boxes[0], force=True)
    again = await engine.create(ContainerSpec(busybox_image, command=("true",), userns="auto"))
    assert await span(engine, again.id) == spans[0]
    await engine.kill(boxes[1])


async def test_one_range_for_all_with_remap(engine: Engine, busybox_image: str) -> None:
    one, two, own = [await sleeper(engine, busybox_image, userns=word) for word in ("remap", "remap", "auto")]
    shared = await span(engine, one)
    assert shared == await span(engine, two)
    assert disjoint([shared, await span(engine, own)])
    await engine.remove(one, force=True)
    three = await engine.create(ContainerSpec(busybox_image, command=("true",), userns="remap"))
    assert await span(engine, three.id) == shared
    for cid in (two, own):
        await engine.kill(cid)


CREATE = """
import asyncio, sys
from pathlib import Path
from core.local import LocalEngine
from core.model import ContainerSpec
async def main(root, run, image):
    engine = await LocalEngine.open(Path(root), Path(run))
    specs = [ContainerSpec(image, command=("true",), userns=word) for word in ("auto", "auto:size=100") * 5]
    for box in await asyncio.gather(*(engine.create(spec) for spec in specs)):
        print(*box.ids)
    await engine.close()
asyncio.run(main(*sys.argv[1:]))
"""


async def test_forty_from_four_engines_at_once(engine: Engine, busybox_image: str, inst: Instance) -> None:
    argv = [sys.executable, "-c", CREATE, str(inst.root), str(inst.run), busybox_image]
    workers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    lines = [line for worker in workers for line in (await asyncio.to_thread(worker.communicate))[0].splitlines()]
    assert [worker.returncode for worker in workers] == [0] * 4
    spans = [range(int(a), int(a) + int(b)) for a, b in (line.split() for line in lines)]
    assert len(spans) == 40
    assert disjoint(spans)
    assert sorted(box.ids for box in await engine.containers()) == sorted((one.start, len(one)) for one in spans)


async def test_another_data_root_has_other_ids(
    engine: Engine, busybox_image: str, archive: Path, tmp_path: Path
) -> None:
    """Two tenants that know nothing of each other; what runs is seen, what does not begins elsewhere."""
    mine = await sleeper(engine, busybox_image, userns="auto")
    theirs = find_instance(tmp_path / "other", tmp_path / "other-run")
    other = await LocalEngine.open(theirs.root, theirs.run)
    try:
        async for _ in other.load(archive):
            pass
        boxes = [await other.create(ContainerSpec(busybox_image, command=("true",), userns="auto")) for _ in range(3)]
        assert disjoint([await span(engine, mine), *[await span(other, box.id) for box in boxes]])
    finally:
        await other.close()
        await asyncio.to_thread(asyncio.run, end_instance(theirs))
    await engine.kill(mine)


# -- commands, streams, files
async def test_exec_and_health(engine: Engine, busybox_image: str) -> None:
    check = Healthcheck(("CMD-SHELL", "test $(id -u) = 0 && echo fine > /dev/stdout"), interval=0.1)
    cid = await sleeper(engine, busybox_image, userns="auto", healthcheck=check)
    assert await inside(engine, cid, "sh", "-c", "id -u; echo out > /dev/stdout; cat /proc/self/uid_map | wc -l") == (
        0,
        "0\nout\n1",
    )
    assert await inside(engine, cid, "sh", "-c", "id -u; echo out > /dev/stdout", user="app") == (0, "1000\nout")
    assert (await inside(engine, cid, "sh", "-c", "tty; ls -ln $(tty)", tty=True))[1].split()[-1] == "/dev/pts/0"

    async def healthy() -> bool:
        return (await engine.container(cid)).health == "healthy"

    await until(healthy)
    await engine.kill(cid)


async def test_a_terminal(engine: Engine, busybox_image: str) -> None:
    code, lines = await run(
        engine, busybox_image, "sh", "-c", "tty; stat -c %u $(tty) /dev/console; echo x > /dev/console",
        userns="auto", tty=True, user="app",
    )  # fmt: skip
    assert (code, [line.strip() for line in lines]) == (0, ["/dev/pts/0", "1000", "1000", "x"])


async def test_volume_of_two_tenants(engine: Engine, busybox_image: str, inst: Instance) -> None:
    volume = Mount("volume", "shared", "/v")
    for word in ("auto", "auto", "host"):
        script = f"touch /v/{word}$$ && chown 1000:1000 /v/{word}$$; mkdir -p /v/d; stat -c '%u %g' /v /v/*"
        lines = await shell(engine, busybox_image, script, userns=word, mounts=(volume,))
        assert set(lines) == {"0 0", "1000 1000"}
    data = inst.root / "volumes" / "shared" / "_data"
    assert {entry[:2] for entry in owners(data).values()} == {(0, 0), (1000, 1000)}


async def test_host_folders_are_as_they_are(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    """The container's root is not the host's: it cannot read what only that may; unless it is told so (``idmap``)."""
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("of the host's root\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "open").write_text("for all\n")
    # One pipe: how two of them are woven into each other is nobody's promise.
    script = "exec 2>&1; stat -c %u /h/secret; cat /h/open; cat /h/secret; touch /h/new; rm /h/open; chown 0 /h/secret"
    box = await engine.create(
        ContainerSpec(
            busybox_image, command=("sh", "-c", script), userns="auto", mounts=(Mount("bind", str(tmp_path), "/h"),)
        )
    )
    await engine.start(box.id)
    assert await engine.wait(box.id) != 0
    lines = await output(engine, box.id)
    assert lines[:2] == ["65534", "for all"]
    assert len(lines) == 6
    assert all("denied" in line or "not permitted" in line for line in lines[2:])
    mapped = Mount("bind", str(tmp_path), "/h", options=("idmap",))
    lines = await shell(
        engine, busybox_image, "stat -c %u /h/secret; cat /h/secret; touch /h/new", userns="auto", mounts=(mapped,)
    )
    assert lines == ["0", "of the host's root"]
    assert (tmp_path / "new").stat().st_uid == 0
    with pytest.raises(errors.InvalidArgument, match="--userns"):
        await engine.create(ContainerSpec(busybox_image, command=("true",), mounts=(mapped,)))


async def test_tmpfs_and_devices_are_its_own(engine: Engine, busybox_image: str) -> None:
    script = (
        "stat -c '%u %n' /t /dev/shm /dev/null /dev/pts /dev/full2; echo x > /dev/null; head -c 4 /dev/zero | wc -c; "
        "touch /t/a /dev/shm/b; cat /dev/full2 | head -c 3 | wc -c; echo x 2>/dev/null > /dev/full2 || echo full; "
        "mknod /tmp/m c 1 3 2>/dev/null || echo none; ls -l /dev/full2"
    )
    lines = await shell(
        engine, busybox_image, script, userns="auto", mounts=(Mount("tmpfs", "", "/t"),),
        devices=(DeviceMapping("/dev/full", "/dev/full2", "rw"),),
    )  # fmt: skip
    assert lines[:5] == [f"0 {path}" for path in ("/t", "/dev/shm", "/dev/null", "/dev/pts", "/dev/full2")]
    assert lines[5:9] == ["4", "3", "full", "none"]
    assert lines[9].startswith("crw-rw-rw-")
