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
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import patience
from tests.ports import free_port

PROGRAM = "docker-registry"


@dataclass(frozen=True)
class Certificates:
    """Files of a small authority: its certificate, a server's for 127.0.0.1, a client's."""

    ca: Path
    server: tuple[Path, Path]  # certificate, key
    client: tuple[Path, Path]


def certificates(folder: Path) -> Certificates:
    """Make them with openssl."""
    need("openssl")
    folder.mkdir(parents=True, exist_ok=True)

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test authority")
    for name, more in (
        ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        (folder / f"{name}.ext").write_text(more)
        run("req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        sign = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *sign)
    return Certificates(
        folder / "ca.crt",
        (folder / "server.crt", folder / "server.key"),
        (folder / "client.crt", folder / "client.key"),
    )


def htpasswd(file: Path, user: str, password: str) -> Path:
    """A file with one user, as the registry reads it (bcrypt)."""
    need("perl")
    words = ["perl", "-e", f"print crypt('{password}', '$2y$05$abcdefghijklmnopqrstuu')"]
    file.write_bytes(f"{user}:".encode() + subprocess.run(words, check=True, capture_output=True).stdout + b"\n")
    return file


def _config(folder: Path, port: int, htpasswd: Path | None, tls: Certificates | None, clients: bool, more: str) -> str:
    text = (
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {folder / 'data'}}}\n  delete: {{enabled: true}}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n  secret: test\n"
    )
    if htpasswd:
        text += f"auth:\n  htpasswd: {{realm: test, path: {htpasswd}}}\n"
    if tls:
        wanted = f", clientcas: [{tls.ca}]" if clients else ""
        line = f"  tls: {{certificate: {tls.server[0]}, key: {tls.server[1]}{wanted}}}\n"
        text = text.replace("  secret: test\n", f"  secret: test\n{line}")
    return text + more


def _wait(port: int, process: subprocess.Popen[bytes], *, tls: bool) -> None:
    end = time.monotonic() + patience(20)
    while time.monotonic() < end:
        try:
            if tls:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
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
def registry(
    folder: Path,
    *,
    htpasswd: Path | None = None,
    port: int = 0,
    tls: Certificates | None = None,
    clients: bool = False,
    more: str = "",
) -> Iterator[str]:
    """Run a registry with its storage in ``folder``; gives ``127.0.0.1:PORT``. Skips where it is not installed.

    :param clients: it wants a client's certificate of that authority
    :param more: further YAML of its configuration
    """
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"{PROGRAM} is not installed (apt-get install {PROGRAM})")
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(_config(folder, port, htpasswd, tls, clients, more))
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait(port, process, tls=tls is not None)
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
