"""Races: somebody swaps folders for links, as fast as the kernel does it, in what containers share, while they start.

The swapping is done on the host, where it is fastest; a second container with the same volume does no other thing. The
oracle is a folder outside, the canary, where nothing may ever appear, and the kernel's settings.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.kernel import mount, process, resolve
from core.runtime import copyup, devices
from tests import attacks
from tests.conftest import needs_root
from tests.engine.test_attacks import CORE_PATTERN
from tests.engine.test_oci_config import mounting
from tests.imagemaker import busybox
from tests.oci import Runtime, save
from tests.patience import patience

pytestmark = [needs_root, pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian")]
SECONDS, ENOUGH = 1.5, 100


@pytest.fixture(scope="session")
def swapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attacks.compiled(tmp_path_factory.mktemp("swapper"), "attack")


@contextlib.contextmanager
def swapping(swapper: Path, *pairs: tuple[Path, Path]) -> Iterator[None]:
    """Each pair of names is exchanged without a pause."""
    running = [subprocess.Popen([swapper, "swap", *pair, "1000"], stdout=subprocess.DEVNULL) for pair in pairs]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "secret").write_text("host\n")
    pattern = CORE_PATTERN.read_text()
    yield folder
    assert [path.name for path in folder.rglob("*")] == ["secret"]
    assert (folder / "secret").read_text() == "host\n"
    assert CORE_PATTERN.read_text() == pattern


def in_a_child(work: Callable[[], str]) -> str:
    """Run ``work`` in a mount namespace of its own; what it returns."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            process.unshare(process.CLONE_NEWNS)
            mount.set_root_propagation(mount.MS_PRIVATE)
            os.write(write, work().encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


# -- what every start is made of, thousands of times
def place_folder(root: int) -> None:
    fd = resolve.make_dirs(root, "/v/a/made/deep")
    made = mount.filesystem("tmpfs", [("nr_inodes", "4")])
    try:
        mount.attach(made, fd)
        mount.umount(f"/proc/self/fd/{fd}")
    finally:
        os.close(made)
        os.close(fd)


def place_file(root: int) -> None:
    os.close(resolve.make_file(root, "/v/a/sub/file"))


def place_device(root: int) -> None:
    devices.add(root, "/v/a/dev/null", {"path": "/v/a/dev/null", "type": "c", "major": 1, "minor": 3}, None)


def copy_folder(root: int) -> None:
    source = resolve.open_in_root(root, "/v/a", os.O_RDONLY | os.O_DIRECTORY)
    made = mount.filesystem("tmpfs", [("size", "64k")])
    target = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=made)
    try:
        copyup.copy_tree(source, target)
        if "secret" in os.listdir(target):
            raise AssertionError("it has left the root")
    finally:
        for fd in (source, made, target):
            os.close(fd)


@pytest.mark.parametrize("work", [place_folder, place_file, place_device, copy_folder])
def test_thousands_of_rounds(tmp_path: Path, canary: Path, swapper: Path, work: Callable[[int], None]) -> None:
    """CVE-2021-30465 (mounts), CVE-2024-45310 (empty files and folders), CVE-2026-41579 (devices)."""
    shared = tmp_path / "root/v"
    (shared / "a").mkdir(parents=True)
    (shared / "l").symlink_to(canary)
    (shared / "d").mkdir()
    (shared / "m").symlink_to("../../../../../../canary")

    def rounds() -> str:
        root = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
        well = failed = 0
        begun = time.monotonic()
        # Longer where others have the processors: until both have been met often.
        while (passed := time.monotonic() - begun) < SECONDS or (min(well, failed) <= ENOUGH and passed < patience(30)):
            try:
                work(root)
                well += 1
            except OSError:  # a link that dangles inside the root: refused
                failed += 1
        return f"{well} {failed}"

    with swapping(swapper, (shared / "a", shared / "l"), (shared / "d", shared / "m")):
        said = in_a_child(rounds)
    well, failed = (int(word) for word in said.split())
    assert well > ENOUGH, said
    assert failed > ENOUGH, said  # the link was met, too


# -- whole containers
def shape(pid: int) -> list[tuple[str, str, bool]]:
    """The mounts of a process, whatever their names are by now: what of which file system, and is it read-only?"""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields, (kind, *_) = line.split(" - ")[0].split(), line.split(" - ")[1].split()
        found.append((fields[3], kind, "ro" in fields[5].split(",")))
    return sorted(found)


def test_starts_while_the_image_is_swapped(runtime: Runtime, canary: Path, swapper: Path) -> None:
    """CVE-2019-16884, CVE-2025-31133, CVE-2025-52881: /proc, /dev and a volume's place become links and folders again
    under starts that write settings and masks. Whatever comes up has all of them in force, and nothing is elsewhere."""
    folder, config = runtime.bundle("box", "true")
    rootfs = folder / "rootfs"
    for name in ("proc", "dev", "data"):
        (rootfs / f"{name}.link").symlink_to(canary)
    config["linux"]["sysctl"] = {"kernel.shm_rmid_forced": "1"}
    mounting("/data/made/deep", "tmpfs", "tmpfs")(config)
    mounting("/data/file", "bind", "/etc/hostname", "bind")(config)
    config["root"]["readonly"] = False
    save(folder, config)
    expected: list[tuple[str, str, bool]] = []
    for pairs in ((), ("proc",), ("dev",), ("data",), ("proc", "dev", "data")):
        with swapping(swapper, *((rootfs / name, rootfs / f"{name}.link") for name in pairs)):
            for _ in range(3 if pairs else 1):
                done = runtime.call("create", "--bundle", folder, "box", stdout=subprocess.DEVNULL)
                if done.returncode == 0:
                    found = shape(runtime.state("box")["pid"])
                    expected = expected or found
                    assert found == expected
                runtime.good("delete", "--force", "box")
    assert ("/sys", "proc", True) in expected
    assert ("/null", "tmpfs", False) in expected  # a mask


def test_joins_while_the_folder_is_swapped(runtime: Runtime, canary: Path, swapper: Path) -> None:
    """CVE-2024-21626, by a race: the working directory, and the file that says who the user is."""
    folder, config = runtime.bundle("box", "sleep", "100")
    rootfs = folder / "rootfs"
    (rootfs / "data/a").mkdir()
    (rootfs / "data/l").symlink_to("/proc/self/fd/7")
    (rootfs / "data/m").symlink_to(canary)
    (rootfs / "data/b").mkdir()
    save(folder, config)
    runtime.good("run", "--detach", "--bundle", folder, "box", stdout=subprocess.DEVNULL)
    pairs = ((rootfs / "data/a", rootfs / "data/l"), (rootfs / "data/b", rootfs / "data/m"))
    with swapping(swapper, *pairs):
        for number in range(10):
            place = "/data/a" if number % 2 else "/data/b"
            done = runtime.call("exec", "--cwd", place, "box", "sh", "-c", "pwd; ls")
            assert done.returncode == 1 or done.stdout.split()[0].startswith("/data/"), done.stdout
            assert "secret" not in done.stdout
