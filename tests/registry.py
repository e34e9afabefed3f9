"""Debian's ``docker-registry`` on a loopback port, for tests: real, with its own temporary storage."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = "docker-registry"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _config(folder: Path, port: int, htpasswd: Path | None) -> str:
    text = (
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {folder / 'data'}}}\n  delete: {{enabled: true}}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n  secret: test\n"
    )
    if htpasswd:
        text += f"auth:\n  htpasswd: {{realm: test, path: {htpasswd}}}\n"
    return text


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1).close()
            return
        except urllib.error.HTTPError:
            return  # 401: it is up and wants a password
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.02)
    raise RuntimeError(f"{PROGRAM} did not start on port {port}")


@contextlib.contextmanager
def registry(folder: Path, *, htpasswd: Path | None = None, port: int = 0) -> Iterator[str]:
    """Run a registry with its storage in ``folder``; gives ``127.0.0.1:PORT``. Skips where it is not installed."""
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"{PROGRAM} is not installed (apt-get install {PROGRAM})")
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(_config(folder, port, htpasswd))
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def need(*programs: str) -> None:
    """Skip the test, with the reason, where a program is missing."""
    for name in programs:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (apt-get install {name})")


def push(source: str, target: str) -> None:
    """``skopeo copy`` from e.g. ``oci:/path:tag`` to ``127.0.0.1:PORT/name:tag``."""
    need("skopeo")
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", source, f"docker://{target}"],
        check=True,
        capture_output=True,
    )
