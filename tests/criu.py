"""Can CRIU work here? Asked by a dump and a restore of one small process, not by versions."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from core.errors import Unsupported
from core.supervise import criu
from tests.patience import patience


@functools.cache
def problem() -> str:
    """Why it cannot; empty where it can."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        program = criu.find()
    except Unsupported as error:
        return error.why
    with tempfile.TemporaryDirectory() as folder:
        null = subprocess.DEVNULL
        sleeper = subprocess.Popen(
            ["sleep", "60"], start_new_session=True, stdin=null, stdout=null, stderr=null, cwd="/"
        )
        try:
            failed = _call(program, "dump", folder, "--tree", str(sleeper.pid))
        finally:
            with suppress(ProcessLookupError):
                sleeper.kill()
            sleeper.wait()  # its number must be free for the restore
        return failed or _back(program, folder)


def _back(program: str, folder: str) -> str:
    pid_file = Path(folder, "pid")
    failed = _call(program, "restore", folder, "--restore-detached", "--pidfile", str(pid_file))
    if not failed:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
    return failed


def _call(program: str, verb: str, folder: str, *more: str) -> str:
    log = Path(folder, f"{verb}.log")
    argv = [program, verb, "--images-dir", folder, "--log-file", log.name, "--network-lock", "skip", *more]
    if criu.parse_version(_version(program)) < (3, 19):
        argv = [word for word in argv if word not in ("--network-lock", "skip")]
    end = time.monotonic() + patience(60)
    done = subprocess.run(argv, capture_output=True, check=False, timeout=end - time.monotonic())
    if not done.returncode:
        return ""
    said = done.stderr + (log.read_bytes() if log.exists() else b"")
    return str(criu.explain(f"criu cannot {verb} a process on this kernel", said))


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout


def needs_criu() -> None:
    """Skip the test where it cannot work, with the reason."""
    if why := problem():
        pytest.skip(why)
