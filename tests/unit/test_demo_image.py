"""The demo's image: libraries found as the dynamic loader finds them, the same bytes each time, a world that runs."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from core.demo import elf, image
from core.errors import Unsupported
from tests.patience import patience


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layout")
    image.write_layout(image.collect(), folder)
    return folder


def blob(layout: Path, descriptor: dict[str, str]) -> Path:
    return layout / "blobs" / descriptor["digest"].replace(":", "/")


def manifest(layout: Path) -> dict[str, list[dict[str, str]]]:
    index = json.loads((layout / "index.json").read_text())
    read: dict[str, list[dict[str, str]]] = json.loads(blob(layout, index["manifests"][0]).read_text())
    return read


@pytest.mark.parametrize("program", ["sh", "ls", "bash", "tar", "grep"])
def test_libraries_are_those_of_ldd(program: str) -> None:
    path = shutil.which(program, path="/usr/bin:/bin")
    if path is None or shutil.which("ldd") is None:
        pytest.skip("needs the program and ldd")
    found, loaders = elf.libraries([Path(path)])
    told = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    theirs = {name: Path(where).resolve() for name, where in re.findall(r"(\S+) => (/\S+)", told)}
    # ldd leaves the loader itself out, which libc needs by its name.
    ours = {name: where.resolve() for name, where in found.items() if not name.startswith("ld-")}
    assert ours == theirs
    assert all(loader in told for loader in loaders)


def test_the_interpreters_own_library_is_found_by_its_runpath() -> None:
    found, _ = elf.libraries([Path(sys.executable).resolve()])
    assert any(name.startswith("libc.") for name in found)


def test_a_script_is_not_an_elf_file(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n" + "#" * 100)
    assert elf.read_elf(script) is None


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    data = bytearray(Path(shutil.which("ls") or "/bin/ls").read_bytes())
    at = data.index(b"libc.so.6\0")
    data[at : at + 4] = b"libX"
    broken = tmp_path / "broken"
    broken.write_bytes(data)
    with pytest.raises(Unsupported, match=r"libX\.so\.6"):
        elf.libraries([broken])


def test_same_sources_same_bytes(layout: Path, tmp_path: Path) -> None:
    image.write_layout(image.collect(), tmp_path)
    assert (tmp_path / "index.json").read_bytes() == (layout / "index.json").read_bytes()
    assert manifest(tmp_path) == manifest(layout)


def test_the_key_changes_with_a_source(tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_text("one")
    recipe = image.Recipe({"usr/bin/program": source})
    before = recipe.key
    assert recipe.key == before
    os.utime(source, ns=(0, 0))
    assert recipe.key != before


def test_the_layer_is_owned_by_root_and_sorted(layout: Path) -> None:
    with tarfile.open(blob(layout, manifest(layout)["layers"][0])) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert {(member.uid, member.gid) for member in members} == {(0, 0)}
    assert {"usr/bin/sh", "usr/bin/python3", "demo/web.py", "bin", "etc/passwd"} <= set(names)
    assert not any(member.mode & 0o6000 for member in members), "setuid programs have no place in it"


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
def test_skopeo_reads_the_layout(layout: Path) -> None:
    told = subprocess.run(
        ["skopeo", "inspect", "--config", f"oci:{layout}"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert image.KEY_LABEL in json.loads(told.stdout)["config"]["Labels"]


@pytest.fixture(scope="module")
def world(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root: chroot")
    folder = tmp_path_factory.mktemp("world")
    with tarfile.open(blob(layout, manifest(layout)["layers"][0])) as tar:
        tar.extractall(folder)
    os.mknod(folder / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    return folder


def inside(world: Path, *argv: str, shows: str = "") -> str:
    """Run in the unpacked layer for two seconds, and on until it has shown what it should; what it wrote."""
    command = ["chroot", str(world), "/usr/bin/env", "-i", "PATH=/usr/bin:/bin", *argv]
    begun, end, said = time.monotonic(), time.monotonic() + patience(30), b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while time.monotonic() < begun + 2 or (not re.search(shows, said.decode()) and time.monotonic() < end):
            if select.select([process.stdout], [], [], 0.1)[0]:
                if not (piece := os.read(process.stdout.fileno(), 65536)):
                    break
                said += piece
        else:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    assert code in (0, -signal.SIGKILL), said
    assert b"Traceback" not in said
    return said.decode()


@pytest.mark.parametrize(
    ("script", "shows"),
    [
        ("plain.sh", r"batch 1: copied \d+ records"),
        ("ansi.sh", r"\x1b\[36m"),
        ("levels.sh", r"INFO|DEBUG"),
        ("health.sh", "ready to serve"),
        ("flaky.sh", "job 1 of 20"),
        ("structured.py", r'^\{"ts": '),
        ("cpu.py", r"wanting +\d+% of a CPU"),
        ("memory.py", r"limit \d+ MiB"),
    ],
)
def test_scripts_run_in_the_image(world: Path, script: str, shows: str) -> None:
    runner = ("python3", "-I", "-S") if script.endswith(".py") else ("sh",)
    assert re.search(shows, inside(world, *runner, f"/demo/{script}", shows=shows))


@pytest.mark.parametrize("program", ["bash", "ls", "sed", "grep", "id"])
def test_programs_find_their_libraries(world: Path, program: str) -> None:
    if not (world / "usr/bin" / program).exists():
        pytest.skip("not on this host")
    assert inside(world, program, "--version")
