"""Images for tests, made with the standard library alone: tars, layers, OCI layouts, ``docker save`` archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
Layer = bytes  # an uncompressed tar


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member of a tar; ``fields`` are TarInfo's (mode, uid, linkname, pax_headers …)."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1_600_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.SYMTYPE, linkname=target, **fields)


def hardlink(name: str, target: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.LNKTYPE, linkname=target, **fields)


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> Layer:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


@dataclass
class Made:
    """An image: all its blobs by digest, and the digests that name it."""

    blobs: dict[str, bytes]
    manifest: str
    config: str
    layers: list[str]
    diffids: list[str]


def image(
    layers: Sequence[Layer],
    *,
    compress: Callable[[bytes], bytes] = gz,
    suffix: str = "+gzip",
    config: dict[str, Any] | None = None,
    diffids: Sequence[str] | None = None,
    architecture: str = "amd64",
    history: object = None,
) -> Made:
    """An OCI image of these layers; ``diffids`` overrides what the configuration says of them."""
    packed = [compress(layer) for layer in layers]
    ids = list(diffids or [sha(layer) for layer in layers])
    document: dict[str, Any] = {
        "created": "2024-01-02T03:04:05Z",
        "architecture": architecture,
        "os": "linux",
        "config": config or {"Cmd": ["/bin/true"], "Env": ["A=b"], "Labels": {"k": "v"}},
        "rootfs": {"type": "layers", "diff_ids": ids},
    }
    if history is not None:
        document["history"] = history
    config_data = json.dumps(document).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": describe(config_data, f"{OCI}.config.v1+json"),
        "layers": [describe(data, f"{OCI}.layer.v1.tar{suffix}") for data in packed],
    }
    manifest_data = json.dumps(manifest).encode()
    blobs = {sha(data): data for data in (*packed, config_data, manifest_data)}
    return Made(blobs, sha(manifest_data), sha(config_data), [sha(data) for data in packed], ids)


def describe(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha(data), "size": len(data), **more}


def layout(folder: Path, made: Made, name: str = "", **index_entry: Any) -> Path:
    """Write an OCI layout folder."""
    store = folder / "blobs" / "sha256"
    store.mkdir(parents=True, exist_ok=True)
    for digest, data in made.blobs.items():
        (store / digest.removeprefix("sha256:")).write_bytes(data)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = describe(made.blobs[made.manifest], f"{OCI}.manifest.v1+json", **index_entry)
    if name:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return folder


def tar_of(folder: Path, target: Path, mode: str = "w") -> Path:
    """A tar of a folder's content."""
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False)
    return target


def docker_save(target: Path, made: Made, layers: Iterable[Layer], tags: Sequence[str]) -> Path:
    """The layout of ``docker save`` before Docker 25."""
    config = made.blobs[made.config]
    names = []
    with tarfile.open(target, "w") as archive:
        for number, layer in enumerate(layers):
            names.append(f"{number:064x}/layer.tar")
            info, data = member(names[-1], data=layer)
            archive.addfile(info, io.BytesIO(data))
        config_name = made.config.removeprefix("sha256:") + ".json"
        manifest = json.dumps([{"Config": config_name, "RepoTags": list(tags), "Layers": names}]).encode()
        for name, data in ((config_name, config), ("manifest.json", manifest)):
            info, data = member(name, data=data)
            archive.addfile(info, io.BytesIO(data))
    return target
