"""A hostile container: what root inside tries against its monitor, the host's files and the kernel.

Every test is an attack that worked on some runtime once; its CVE stands beside it. Hostile *images* are in
``test_attacks_image.py``. The oracle runs after each test (tests/world.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
import sys
from pathlib import Path

import pytest

import core
from core import errors
from core.engine import Engine
from core.model import ContainerSpec, ExecSpec, Mount
from core.store.paths import Instance
from tests import attacks
from tests.engine.test_lifecycle import output, run, sleeper, until

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
NO_CAPABILITIES = "0000000000000000"
DEFAULT_CAPABILITIES = 0xA80425FB


@pytest.fixture(scope="session")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    """``/x/attack`` of ``attack.c``."""
    folder = tmp_path_factory.mktemp("attack")
    attacks.compiled(folder, "attack")
    return Mount("bind", str(folder), "/x", read_only=True)


def fingerprint() -> dict[str, str]:
    """Of what a container would overwrite to get at the host: the interpreter and the engine's own code."""
    files = [Path(sys.executable).resolve(), *sorted(Path(core.__file__).parent.rglob("*.py"))]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


async def execute(engine: Engine, cid: str, *argv: str, **fields: object) -> tuple[int | None, str]:
    """Run a command inside; exit code and all of its output."""
    session = await engine.exec(cid, ExecSpec(argv, **fields))  # type: ignore[arg-type]
    got = b""
    while (chunk := await session.read()) is not None:
        got += chunk[1]
    code = await session.wait()
    await session.close()
    return code, got.decode()


def capabilities(status: str, *names: str) -> dict[str, str]:
    found = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Cap"))
    return {name: found[name] for name in names}


async def test_writing_the_runtime_through_exe(engine: Engine, busybox_image: str) -> None:
    """CVE-2019-5736: /proc/PID/exe of init or of a joining process is the host's interpreter, opened for writing."""
    before = fingerprint()
    script = (
        "echo ready; while :; do for p in /proc/[0-9]*; do "
        "case $(readlink $p/exe) in *busybox*|'') ;; *) ( : >> $p/exe ) 2>/dev/null && echo WROTE $p;; esac; done; done"
    )
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script)))
    await engine.start(box.id)
    for _ in range(10):
        assert (await execute(engine, box.id, "true"))[0] == 0
    assert [line for line in await output(engine, box.id) if "WROTE" in line] == []
    assert fingerprint() == before


@pytest.mark.parametrize("added", [(), ("SYS_PTRACE",)])
async def test_hunting_the_process_that_joins(
    engine: Engine, busybox_image: str, attack: Mount, added: tuple[str, ...]
) -> None:
    """CVE-2016-9962: root inside traces every new process and looks for descriptors of the host in it."""
    box = await engine.create(
        ContainerSpec(busybox_image, command=("/x/attack", "hunt", "4"), mounts=(attack,), cap_add=added)
    )
    await engine.start(box.id)
    waiting = asyncio.create_task(engine.wait(box.id))
    while not waiting.done():
        try:
            await execute(engine, box.id, "true")
        except (errors.WharfError, OSError):
            break  # it has just ended, or it has killed the newcomer: its right
    await waiting
    lines = await output(engine, box.id)
    assert "hunted" in lines
    outside = {line for line in lines if line.startswith("folder ") or "/containers/" in line or "/c/" in line}
    assert outside == set()
    assert [line for line in lines if line.startswith("writable")] == []


async def test_no_descriptor_of_the_host_is_left(engine: Engine, busybox_image: str) -> None:
    """CVE-2024-21626: run and exec get 0, 1 and 2, and nothing else."""
    code, lines = await run(engine, busybox_image, "sh", "-c", "ls /proc/1/fd; true")
    assert (code, lines) == (0, ["0", "1", "2"])
    cid = await sleeper(engine, busybox_image)
    for tty in (False, True):
        # `ls` itself opens the folder that it lists.
        _, text = await execute(engine, cid, "sh", "-c", "ls /proc/$$/fd; true", tty=tty)
        assert text.split() == ["0", "1", "2"]


@pytest.mark.parametrize("number", [3, 5, 7, 8, 9, 12, 20])
async def test_working_directory_through_a_descriptor(engine: Engine, busybox_image: str, number: int) -> None:
    """CVE-2024-21626: WORKDIR /proc/self/fd/N leads to a folder of the host that the runtime has open."""
    for folder in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/etc", "/proc/self/root", "/proc/1/cwd"):
        box = await engine.create(ContainerSpec(busybox_image, command=("pwd",), working_dir=folder))
        with pytest.raises(errors.StartFailed):
            await engine.start(box.id)
        await engine.remove(box.id)
    cid = await sleeper(engine, busybox_image)
    with pytest.raises(errors.StartFailed):
        await engine.exec(cid, ExecSpec(("pwd",), working_dir=f"/proc/self/fd/{number}"))


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "//proc/../proc/", "/sys", "/dev", "/dev/pts"])
async def test_volume_on_proc(engine: Engine, busybox_image: str, target: str) -> None:
    """CVE-2019-16884, CVE-2019-19921, CVE-2023-27561: a volume in the place that init writes to."""
    with pytest.raises(errors.WharfError, match="cannot mount on"):
        await engine.start(
            (await engine.create(ContainerSpec(busybox_image, mounts=(Mount("volume", "v", target),)))).id
        )


async def test_swapping_a_link_under_a_mount(engine: Engine, busybox_image: str, attack: Mount, tmp_path: Path) -> None:
    """CVE-2021-30465, CVE-2024-45310, CVE-2025-52881: the mount point turns into a link while it is resolved."""
    shared, canary = tmp_path / "shared", tmp_path / "canary"
    (shared / "a").mkdir(parents=True)
    canary.mkdir()
    (shared / "l").symlink_to(canary)
    before = CORE_PATTERN.read_text()
    volume = Mount("bind", str(shared), "/v")
    swapper = await engine.create(
        ContainerSpec(busybox_image, command=("/x/attack", "swap", "/v/a", "/v/l", "1000"), mounts=(attack, volume))
    )
    await engine.start(swapper.id)
    mounts = (volume, Mount("tmpfs", "", "/v/a/made/deep"), Mount("bind", str(attack.source), "/v/a/bound"))
    started = 0
    for _ in range(50):
        box = await engine.create(ContainerSpec(busybox_image, command=("true",), mounts=mounts))
        try:
            await engine.start(box.id)
            await engine.wait(box.id)
            started += 1
        except errors.StartFailed:
            pass  # the link dangled inside the root: refused, and nothing made
        await engine.remove(box.id, force=True)
        assert list(canary.iterdir()) == []
    assert CORE_PATTERN.read_text() == before
    await engine.remove(swapper.id, force=True)


async def test_terminal_is_the_containers_own(engine: Engine, busybox_image: str) -> None:
    """CVE-2025-52565: /dev/console is bound from a terminal, whatever stands at /dev/pts/0."""
    box = await engine.create(
        ContainerSpec(busybox_image, command=("sh", "-c", "stat -c '%F %t' /dev/console; tty=1"), tty=True)
    )
    await engine.start(box.id)
    assert await engine.wait(box.id) == 0
    assert [line.strip() for line in await output(engine, box.id)] == ["character special file 88"]


@pytest.mark.parametrize("user", ["", "app", "1000:1000"])
async def test_inheritable_capabilities_are_empty(engine: Engine, busybox_image: str, user: str) -> None:
    """CVE-2022-29162, CVE-2022-24769: inheritable or ambient ones would pass to every program."""
    _, lines = await run(engine, busybox_image, "cat", "/proc/self/status", user=user)
    cid = await sleeper(engine, busybox_image)
    for text in ("\n".join(lines), (await execute(engine, cid, "cat", "/proc/self/status", user=user))[1]):
        found = capabilities(text, "CapInh", "CapAmb", "CapEff", "CapPrm")
        assert (found["CapInh"], found["CapAmb"]) == (NO_CAPABILITIES, NO_CAPABILITIES)
        assert found["CapEff"] == found["CapPrm"] == (f"{DEFAULT_CAPABILITIES:016x}" if not user else NO_CAPABILITIES)


WRITES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/ksm/run",
    "/sys/fs/cgroup/x",
)


async def test_writes_to_the_kernel(engine: Engine, busybox_image: str) -> None:
    """The classic ways out by a writable /proc or /sys (CVE-2022-0492's release_agent among them)."""
    before = CORE_PATTERN.read_text()
    script = "; ".join(f"(echo x > {path}) 2>/dev/null && echo {path}" for path in WRITES)
    script += "; for f in $(find /sys/fs/cgroup -type f) /sys/fs/cgroup/*/new"
    script += "; do (echo 0 > $f) 2>/dev/null && echo $f; done"
    for privileges in ((), ("SYS_RAWIO", "DAC_READ_SEARCH")):
        _, lines = await run(engine, busybox_image, "sh", "-c", script, cap_add=privileges)
        assert lines == []
    assert CORE_PATTERN.read_text() == before


async def test_cgroup_mount_is_refused(engine: Engine, busybox_image: str) -> None:
    """CVE-2022-0492: a cgroup hierarchy mounted in a new user namespace."""
    script = (
        "mkdir /tmp/c; busybox mount -t cgroup -o rdma x /tmp/c && echo mounted; "
        "busybox unshare -r -m true && echo new; busybox unshare -C true && echo cgroup; "
        "busybox mount -o remount,rw /sys/fs/cgroup && echo remounted; "
        "busybox umount /proc/kcore && echo unmasked; true"
    )
    assert (await run(engine, busybox_image, "sh", "-c", f"({script}) 2>/dev/null"))[1] == []


async def test_system_calls_that_lead_out(engine: Engine, busybox_image: str, attack: Mount) -> None:
    """CVE-2026-31431 (AF_ALG), key rings, BPF, mounts, user namespaces, the 32-bit way round argument filters."""
    code, lines = await run(engine, busybox_image, "/x/attack", "calls", mounts=(attack,))
    assert code == 0
    found = dict(line.split(" ", 1) for line in lines)
    assert found.pop("clone3") == "Function not implemented"  # so that the C library falls back to clone
    assert len(found) >= 11
    assert {name: words for name, words in found.items() if words not in ("Operation not permitted", "refused")} == {}


async def test_devices_beyond_the_allowed(engine: Engine, busybox_image: str) -> None:
    """mknod is allowed, as with Docker; opening what it makes is not, unless the device is a harmless one."""
    disk = os.stat("/").st_dev
    nodes = {"disk": f"b {os.major(disk)} {os.minor(disk)}", "mem": "c 1 1", "fuse": "c 10 229", "null": "c 1 3"}
    script = "; ".join(
        f"busybox mknod /tmp/{name} {what} && (: < /tmp/{name}) 2>/dev/null && echo {name}"
        for name, what in nodes.items()
    )
    _, lines = await run(engine, busybox_image, "sh", "-c", script)
    assert lines == ["null"]


BAD_USERS = ("4294967296", "4294967295", "2147483648", "-1", "0x0", "1000:", ":0", "a:b:c", "0:4294967296", "+0", "1 0")


@pytest.mark.parametrize("user", BAD_USERS)
async def test_users_that_are_none(engine: Engine, busybox_image: str, user: str) -> None:
    """CVE-2024-40635, CVE-2026-30892: an id that overflows, or a text half understood, must never become root."""
    with pytest.raises(errors.WharfError):
        await engine.start((await engine.create(ContainerSpec(busybox_image, command=("id",), user=user))).id)
    cid = await sleeper(engine, busybox_image)
    with pytest.raises(errors.WharfError):
        await engine.exec(cid, ExecSpec(("id",), user=user))


async def test_supplementary_groups(engine: Engine, busybox_image: str) -> None:
    """CVE-2022-36109: those of /etc/group, or none; never the engine's own."""
    cid = await sleeper(engine, busybox_image)
    expected = {"app": {"1000", "2000"}, "1000": {"1000", "2000"}, "1000:1000": {"1000"}, "7:8": {"8"}}
    for user, groups in expected.items():
        _, lines = await run(engine, busybox_image, "id", "-G", user=user)
        assert set(lines[0].split()) == groups
        assert set((await execute(engine, cid, "id", "-G", user=user))[1].split()) == groups


async def test_output_of_other_users(engine: Engine, busybox_image: str) -> None:
    """Pipes belong to the command's user: /dev/stdout can be opened, in exec as in run."""
    for user in ("", "app"):
        code, lines = await run(engine, busybox_image, "sh", "-c", "echo hi > /dev/stdout", user=user)
        assert (code, lines) == (0, ["hi"])
        cid = await sleeper(engine, busybox_image)
        assert await execute(engine, cid, "sh", "-c", "echo hi > /dev/stdout", user=user) == (0, "hi\n")


async def test_everything_is_closed_to_other_users(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """CVE-2021-41091, CVE-2020-15257: folders 0700, sockets 0600, and none in the abstract name space."""
    before = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line}
    await sleeper(engine, busybox_image)
    for base in (inst.root, inst.run):
        assert stat.S_IMODE(base.stat().st_mode) == 0o700
        folders = {path.name: oct(path.stat().st_mode) for path in base.iterdir() if path.is_dir()}
        assert {name: mode for name, mode in folders.items() if not mode.endswith("700")} == {}
    for path in inst.run.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # it was there for a moment only
            mode, parent = path.lstat().st_mode, path.parent.stat().st_mode
            if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                closed = stat.S_IMODE(mode) & 0o077 == 0 or stat.S_ISFIFO(mode)
                assert (closed, stat.S_IMODE(parent)) == (True, 0o700), path
    after = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line}
    assert {name for name in after - before if "wharf" in name or str(inst.run) in name} == set()


async def test_a_hundred_kilobytes_of_words(engine: Engine, busybox_image: str) -> None:
    """CVE-2021-43784: lengths that overflow a message to the process that sets the container up."""
    env = tuple(f"V{number}={'x' * 1000}" for number in range(100))
    labels = {f"l{number}": "y" * 1000 for number in range(100)}
    code, lines = await run(engine, busybox_image, "sh", "-c", "env | grep -c ^V", env=env, labels=labels)
    assert (code, lines) == (0, ["100"])
    # One word longer than the kernel takes (execve(2), 128 KiB): the message must name that, not the file's mode.
    box = await engine.create(ContainerSpec(busybox_image, command=("true",), env=("A=" + "x" * 200_000,)))
    with pytest.raises(errors.StartFailed, match=r"too (long|large|big)") as caught:
        await engine.start(box.id)
    assert "chmod" not in str(caught.value)


async def test_lines_that_look_like_the_log(engine: Engine, busybox_image: str) -> None:
    """A container cannot forge a line's time or stream, nor a line of another's, nor an event."""
    forged = "2001-01-01T00:00:00.000000000Z stderr F forged"
    script = f"echo '{forged}'; printf 'a\\rb\\033[2Jc\\n'; printf 'x%.0s' $(seq 40000); echo; printf 'no end'"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script)))
    await engine.start(box.id)
    await engine.wait(box.id)
    await until(lambda: _has_last(engine, box.id))
    lines = [line async for line in engine.logs(box.id)]
    assert {line.stream for line in lines} == {"stdout"}
    assert all(line.time > "2020" for line in lines)
    joined = "\n".join(line.text for line in lines)
    assert lines[0].text == forged
    assert lines[1].text == "a\rb\x1b[2Jc"
    assert joined.replace("\n", "").count("x") == 40000
    with pytest.raises(errors.InvalidArgument):
        await engine.create(ContainerSpec(busybox_image, name='x"}\n{"k":"container"'))


async def _has_last(engine: Engine, cid: str) -> bool:
    return (await output(engine, cid))[-1:] == ["no end"]


async def test_environment_of_the_engine_stays_outside(
    engine: Engine, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container gets what it was given, not the environment of whoever started it."""
    monkeypatch.setenv("WHARF_TEST_SECRET", "secret")
    _, lines = await run(engine, busybox_image, "cat", "/proc/self/environ")
    assert "WHARF_TEST_SECRET" not in lines[0]
    assert {entry.partition("=")[0] for entry in lines[0].split("\0") if entry} == {"PATH", "HOSTNAME", "HOME"}
