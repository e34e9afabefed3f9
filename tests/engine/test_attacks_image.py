"""A hostile image: what its files and its configuration try while it is loaded, started and looked into.

The oracle runs after each test (tests/world.py). Hostile archives and registries are in test_images_*.py.
"""

from __future__ import annotations

import asyncio
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, ExecSpec, Mount
from tests import imagemaker
from tests.engine.test_attacks import CORE_PATTERN, fingerprint
from tests.engine.test_lifecycle import output, run
from tests.images import directory, member, symlink, tar
from tests.patience import patience

Member = tuple[tarfile.TarInfo, bytes]


def base(*, without: tuple[str, ...] = ()) -> list[Member]:
    """A root file system of the host's static busybox, leaving some names to the caller."""
    program = imagemaker.busybox()
    if program is None:
        pytest.skip("needs busybox-static from Debian")
    members = [directory(name) for name in ("bin", "etc", "root", "tmp")]
    members.append(member("bin/busybox", data=program.read_bytes(), mode=0o755))
    members += [symlink(f"bin/{name}", "busybox") for name in imagemaker.APPLETS]
    members.append(member("etc/passwd", data=b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"))
    return [each for each in members if each[0].name not in without]


async def load(engine: Engine, folder: Path, *members: Member, config: dict[str, Any] | None = None) -> str:
    """An image in the engine's store."""
    path = imagemaker.make_archive(folder / "evil.tar", "evil:1", [tar(*members)], config)
    async for _ in engine.load(path):
        pass
    return "evil:1"


async def test_entrypoint_runs_the_runtime_again(engine: Engine, tmp_path: Path) -> None:
    """CVE-2019-5736: ``#!/proc/self/exe`` has init execute itself, with the container's libraries."""
    before = fingerprint()
    script = member("evil", data=b"#!/proc/self/exe\nprint('the interpreter of the host')\n", mode=0o755)
    ref = await load(engine, tmp_path, *base(), script, config={"Entrypoint": ["/evil"]})
    box = await engine.create(ContainerSpec(ref))
    try:
        await engine.start(box.id)
        await asyncio.wait_for(engine.wait(box.id), patience(20))
    except errors.StartFailed:
        pass
    assert "the interpreter of the host" not in await output(engine, box.id)
    assert fingerprint() == before
    await engine.remove(box.id, force=True)


@pytest.mark.parametrize("place", ["proc", "sys"])
async def test_link_in_the_place_of_proc(engine: Engine, tmp_path: Path, place: str) -> None:
    """CVE-2019-16884, CVE-2023-27561: what init writes to /proc would go where the link leads."""
    ref = await load(engine, tmp_path, *base(), symlink(place, "/tmp/fake"), directory("tmp/fake"))
    box = await engine.create(ContainerSpec(ref, command=("true",)))
    with pytest.raises(errors.StartFailed, match="is not a directory"):
        await engine.start(box.id)


async def test_volume_on_a_link_to_proc(engine: Engine, tmp_path: Path) -> None:
    """CVE-2019-19921: the place is harmless by its name, and the image makes it /proc by a link."""
    ref = await load(engine, tmp_path, *base(), symlink("data", "/proc"))
    box = await engine.create(
        ContainerSpec(ref, command=("cat", "/proc/1/comm"), mounts=(Mount("volume", "v", "/data"),))
    )
    try:
        await engine.start(box.id)
        assert await engine.wait(box.id) == 0
        assert await output(engine, box.id) == ["cat"]
    except errors.StartFailed:
        pass


@pytest.mark.parametrize("link", ["dev", "dev/pts", "dev/shm"])
async def test_link_in_the_place_of_dev(engine: Engine, tmp_path: Path, link: str) -> None:
    """CVE-2026-41579: device nodes would be made in a folder of the host."""
    canary = tmp_path / "canary"
    canary.mkdir()
    places = [] if link == "dev" else [directory("dev")]
    ref = await load(engine, tmp_path, *base(), *places, symlink(link, str(canary)))
    box = await engine.create(ContainerSpec(ref, command=("sh", "-c", "echo x > /dev/null && echo well")))
    try:
        await engine.start(box.id)
        assert await engine.wait(box.id) == 0
        assert await output(engine, box.id) == ["well"]
    except errors.StartFailed:
        pass
    assert list(canary.iterdir()) == []


async def test_null_device_of_the_image(engine: Engine, tmp_path: Path) -> None:
    """CVE-2025-31133: masked paths are covered by /dev/null; a link there would make them a way to its target."""
    before = CORE_PATTERN.read_text()
    places = [directory("dev"), symlink("dev/null", "/proc/sys/kernel/core_pattern")]
    ref = await load(engine, tmp_path, *base(), *places)
    script = "echo '|/evil' > /dev/null; echo '|/evil' > /proc/timer_list; cat /proc/keys /proc/timer_list"
    code, lines = await run(engine, ref, "sh", "-c", f"({script}) 2>/dev/null; stat -c %t:%T /dev/null")
    assert (code, lines) == (0, ["1:3"])
    assert CORE_PATTERN.read_text() == before


@pytest.mark.parametrize("name", ["hosts", "resolv.conf", "hostname"])
async def test_etc_files_are_links(engine: Engine, tmp_path: Path, name: str) -> None:
    """What every container gets below /etc is bound inside the root, wherever the image's link leads."""
    canary = tmp_path / "canary"
    canary.write_text("host\n")
    ref = await load(engine, tmp_path, *base(), symlink(f"etc/{name}", str(canary)))
    box = await engine.create(ContainerSpec(ref, command=("sh", "-c", f"echo evil >> {canary}")))
    try:
        await engine.start(box.id)
        await engine.wait(box.id)
    except errors.StartFailed:
        pass
    assert canary.read_text() == "host\n"


@pytest.mark.parametrize("workdir", ["/proc/self/fd/7", "/proc/self/fd/../../..", "/out", "/loop"])
async def test_working_directory_of_the_image(engine: Engine, tmp_path: Path, workdir: str) -> None:
    """CVE-2024-21626, by the image's own WORKDIR and by links in it."""
    links = [symlink("out", "/proc/self/fd/8"), symlink("loop", "loop")]
    ref = await load(engine, tmp_path, *base(), *links, config={"WorkingDir": workdir})
    box = await engine.create(ContainerSpec(ref, command=("sh", "-c", "pwd; ls /proc/self/cwd/bin | head -1")))
    try:
        await engine.start(box.id)
        await engine.wait(box.id)
        assert (await output(engine, box.id))[0] == "/"
    except errors.StartFailed:
        pass


HUGE = b"app:x:0:0::/:/bin/sh\n" * 600_000  # 12 MB
FIFO = tarfile.FIFOTYPE
PASSWD = {
    "link to the host": symlink("etc/passwd", "/etc/passwd"),
    "magic link": symlink("etc/passwd", "/proc/self/fd/0"),
    "device": member("etc/passwd", tarfile.CHRTYPE, devmajor=1, devminor=5),
    "fifo": member("etc/passwd", FIFO),
    "huge": member("etc/passwd", data=HUGE),
    "overflow": member("etc/passwd", data=b"app:x:4294967296:4294967296::/:/bin/sh\n"),
    "garbage": member("etc/passwd", data=b"app:x:::\n\0\xff:::::::\napp\n:::\n"),
}


@pytest.mark.parametrize("kind", PASSWD)
async def test_user_files_that_are_traps(engine: Engine, tmp_path: Path, kind: str) -> None:
    """CVE-2024-9676, CVE-2026-47262: a name is looked up in a regular file of sane size, or it is unknown."""
    ref = await load(engine, tmp_path, *base(without=("etc/passwd",)), PASSWD[kind])
    box = await engine.create(ContainerSpec(ref, command=("id", "-u"), user="app"))
    with pytest.raises(errors.WharfError, match="unknown user"):
        await asyncio.wait_for(engine.start(box.id), patience(20))
    # Numbers and root need no file.
    own = ("grep", "Uid", "/proc/self/status")  # not `id`, which would read that file itself
    assert (await asyncio.wait_for(run(engine, ref, *own, user="5"), patience(20)))[1] == ["Uid:\t5\t5\t5\t5"]
    assert (await asyncio.wait_for(run(engine, ref, *own), patience(20)))[1] == ["Uid:\t0\t0\t0\t0"]


async def test_user_of_the_image_that_is_none(engine: Engine, tmp_path: Path) -> None:
    """CVE-2024-40635: ``USER`` of an image, too large for an id or half a number, must never become root."""
    for user in ("4294967296", "4294967295", "2147483648", "-1", "1000:4294967296"):
        ref = await load(engine, tmp_path, *base(), config={"User": user})
        with pytest.raises(errors.WharfError):
            await engine.start((await engine.create(ContainerSpec(ref, command=("id",)))).id)


async def test_image_reads_the_engines_environment(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Env: ["NAME"]`` in an image must not fetch NAME from whoever runs it; only the user's own ``-e NAME`` may."""
    monkeypatch.setenv("WHARF_TEST_SECRET", "secret")
    ref = await load(engine, tmp_path, *base(), config={"Env": ["PATH=/bin", "WHARF_TEST_SECRET"]})
    _, lines = await run(engine, ref, "env")
    assert [line for line in lines if "secret" in line] == []


BROKEN = {
    "cmd is a number": {"Cmd": 7},
    "cmd of numbers": {"Cmd": [1, 2]},
    "entrypoint is an object": {"Entrypoint": {"a": "b"}},
    "env is an object": {"Env": {"A": "b"}},
    "env with a zero byte": {"Env": ["A=\0"]},
    "ports are a list": {"ExposedPorts": ["80/tcp"]},
    "labels of lists": {"Labels": {"a": [1]}},
    "user is a number": {"User": 1000},
    "volumes are a text": {"Volumes": "/x"},
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_wrong_types_are_refused_at_load(engine: Engine, tmp_path: Path, kind: str) -> None:
    with pytest.raises(errors.Corrupt):
        await load(engine, tmp_path, *base(), config={"Cmd": ["true"], **BROKEN[kind]})
    assert await engine.images() == []


ODD = {
    "port that is a word": {"ExposedPorts": {"abc/tcp": {}}},
    "port out of range": {"ExposedPorts": {"99999/tcp": {}}},
    "port range": {"ExposedPorts": {"8000-8010/tcp": {}}},
    "port protocol": {"ExposedPorts": {"80/sctp": {}}},
    "stop signal": {"StopSignal": "SIGNOPE"},
    "relative folder": {"WorkingDir": "a/b"},
    "user": {"User": "0x0"},
    "lone surrogate": {"Env": ["A=\ud800"]},
    "empty command": {"Cmd": [""]},
    "health without a line": {"Healthcheck": {"Test": ["CMD-SHELL"]}},
    "health without a command": {"Healthcheck": {"Test": ["CMD"]}},
    "health of numbers": {"Healthcheck": {"Test": ["CMD", 1], "Retries": "many"}},
    "health all the time": {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1, "Timeout": -1, "Retries": -5}},
    "health that is endless": {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1e300}},
}


@pytest.mark.parametrize("kind", ODD)
async def test_odd_configurations_do_no_harm(engine: Engine, tmp_path: Path, kind: str) -> None:
    """Either it works, or one clear error says what is wrong; never another exception, never a hang."""
    complaint: errors.WharfError | None = None
    try:
        ref = await load(engine, tmp_path, *base(), config={"Cmd": ["sleep", "60"], **ODD[kind]})
        box = await engine.create(ContainerSpec(ref, publish_all=True))
        await asyncio.wait_for(engine.start(box.id), patience(20))
        session = await engine.exec(box.id, ExecSpec(("true",)))
        code = await session.wait()
        await session.close()
        assert code == 0
        assert (await engine.stop(box.id, timeout=0.1)).exit_code is not None
    except errors.WharfError as error:
        complaint = error
    if complaint is not None:
        assert complaint.what
        assert complaint.why
        assert "monitor was killed" not in str(complaint)


async def test_health_checks_of_an_image_leave_the_host_some_time(engine: Engine, tmp_path: Path) -> None:
    """Docker takes nothing below a millisecond; a nanosecond would have the monitor fork without a pause."""
    health = {"Test": ["CMD-SHELL", "echo x >> /count"], "Interval": 1}
    ref = await load(engine, tmp_path, *base(), config={"Cmd": ["sleep", "60"], "Healthcheck": health})
    try:
        box = await engine.create(ContainerSpec(ref))
        await engine.start(box.id)
    except errors.InvalidArgument:
        return  # refused: as good
    begun = time.monotonic()
    await asyncio.sleep(2)
    session = await engine.exec(box.id, ExecSpec(("sh", "-c", "(wc -l </count) 2>/dev/null || echo 0")))
    chunk = await session.read()
    await session.close()
    assert chunk is not None
    assert int(chunk[1].split()[0]) <= 10 * (time.monotonic() - begun)


async def test_labels_of_ours_are_dropped(engine: Engine, tmp_path: Path) -> None:
    """CVE-2026-53488: an image's label must not be taken for the engine's own note."""
    labels = {"io.wharfinger.init": "true", "io.wharfinger.user": "0", "other": "kept"}
    ref = await load(engine, tmp_path, *base(), config={"Cmd": ["true"], "Labels": labels})
    assert (await engine.image(ref)).config.labels == {"other": "kept"}
