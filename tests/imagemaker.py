"""Small OCI archives made by hand, for tests that need an image without a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

APPLETS = (
    "sh cat echo ls true false sleep id hostname mount ps kill touch rm mkdir nc wget httpd seq head tail grep sed awk "
    "env printenv pwd stty test [ date dd df free ip ping nslookup wc sort stat readlink od tr cut mkfifo chmod chown "
    "ln cp mv yes nproc setsid umask uname vi top find xargs tee sync expr basename dirname trap timeout usleep whoami"
).split()


def busybox() -> Path | None:
    """The static busybox of the host (Debian: busybox-static)."""
    found = shutil.which("busybox")
    return Path(found) if found else None


def _layer(program: Path) -> bytes:
    """A root file system of one program, as a plain tar."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, len(data), link, 1_700_000_000
            tar.addfile(info, io.BytesIO(data))

        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("home", 0o755)):
            add(name, tarfile.DIRTYPE, mode)
        add("bin/busybox", tarfile.REGTYPE, 0o755, program.read_bytes())
        for applet in APPLETS:
            add(f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        add("etc/passwd", tarfile.REGTYPE, 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home:/bin/sh\n")
        add("etc/group", tarfile.REGTYPE, 0o644, b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
        add("etc/notexec", tarfile.REGTYPE, 0o644, b"not a program\n")
    return raw.getvalue()


def make_archive(target: Path, reference: str, layers: list[bytes], config: dict[str, object] | None = None) -> Path:
    """Write an OCI archive with gzip layers (image-spec, image-layout.md) named ``reference``."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return f"sha256:{digest}", len(data)

    entries = []
    for layer in layers:
        digest, size = blob(gzip.compress(layer, 1, mtime=0))
        entries.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]},
    }
    digest, size = blob(json.dumps(document).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size},
        "layers": entries,
    }
    digest, size = blob(json.dumps(manifest).encode())
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": manifest["mediaType"],
                "digest": digest,
                "size": size,
                "annotations": {"org.opencontainers.image.ref.name": reference},
            }
        ],
    }
    with tarfile.open(target, "w") as tar:
        files = {f"blobs/sha256/{name}": data for name, data in blobs.items()}
        files |= {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target


def busybox_archive(target: Path, reference: str = "busybox:test") -> Path:
    """An image of the host's static busybox."""
    program = busybox()
    assert program is not None
    return make_archive(target, reference, [_layer(program)])
