"""Attack programs in C, compiled where they are used: static, because test images have no C library."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).with_name("engine")
STATIC = ("-static",)
#: For a program that takes the place of the dynamic loader: the kernel puts it anywhere, and nobody relocates it.
LOADER = ("-nostdlib", "-ffreestanding", "-static-pie", "-fPIE", "-fno-stack-protector", "-fno-builtin")


def compiled(folder: Path, name: str, flags: tuple[str, ...] = STATIC) -> Path:
    """The program of ``tests/engine/NAME.c``; the test is skipped where there is no compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc and libc6-dev")
    argv = ["gcc", "-O1", "-Wall", *flags, "-o", str(folder / name), str(PLACE / f"{name}.c")]
    if (done := subprocess.run(argv, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"cannot compile: {done.stderr.splitlines()[:1]}")
    return folder / name


def loader_of_python() -> str:
    """Where our interpreter has its dynamic loader: what an image puts there is run when the interpreter is."""
    found = re.search(rb"/lib[\w/.-]*/ld-[\w.-]+\0", Path(sys.executable).resolve().read_bytes()[:65536])
    if found is None:
        pytest.skip("this Python has no dynamic loader")
    return found[0][:-1].decode()
