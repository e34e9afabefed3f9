"""A checkpoint as one file: processes, the container's files, its log, and what it was created with.

===================  ============================================================================================
member               content
===================  ============================================================================================
``checkpoint.json``  as beside every checkpoint (:class:`core.supervise.restoring.Saved`)
``criu/NAME``        CRIU's images
``upper.tar``        the writable layer (:mod:`core.images.tarwrite`)
``log``              what it wrote, in the log's own format
``manifest.json``    the specification that ``create`` was given, size and SHA-256 of all of the above
``manifest.mac``     HMAC-SHA256 of the manifest, by a key that only this data root has
===================  ============================================================================================

Whoever can write CRIU's images can become root where they are restored: they say which rights the processes have and
what is mounted. The MAC tells whether this engine has made the archive, down to the last byte. No configuration of a
runtime is in it: that is made anew from the specification, checked like any other (CVE-2026-53492, CVE-2026-50195,
CVE-2026-53489).
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

from backports import zstd

from core.errors import InvalidArgument
from core.images import tarwrite
from core.logs.files import close_chain, open_chain
from core.ops.records import Record
from core.store.codec import to_plain
from core.store.paths import Instance
from core.supervise.restoring import IMAGES, META

MANIFEST, MAC = "manifest.json", "manifest.mac"
UPPER, LOG = "upper.tar", "log"
_CHUNK = 1 << 20
_OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".tar": lambda file: file,
    ".gz": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0)),
    ".zst": lambda file: cast("IO[bytes]", zstd.ZstdFile(file, "wb")),
}
_OPENERS[".tgz"] = _OPENERS[".gz"]
_OPENERS[".zstd"] = _OPENERS[".zst"]


def check_target(path: Path) -> None:
    """Before anything is stopped: can an archive be written there?

    :raises InvalidArgument:
    """
    what = f"cannot export to {path}"
    if path.suffix not in _OPENERS:
        raise InvalidArgument(what, "its suffix names no format", f"Use one of {', '.join(_OPENERS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InvalidArgument(what, "it is a folder, or in one that does not exist", "Name a file in a folder")


def archive_key(inst: Instance, *, make: bool) -> bytes:
    """The data root's key for archives; empty where there is none yet and none is to be made."""
    path = inst.root / "archive.key"
    if make and not path.exists():
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with suppress(FileExistsError):
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(os.urandom(32))
                file.flush()
                os.fsync(fd)
            os.link(aside, path)  # never over one that another process has just made
        aside.unlink(missing_ok=True)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def seal(key: bytes, manifest: bytes) -> bytes:
    return hmac.digest(key, manifest, "sha256").hex().encode()


class Pack:
    """An archive in the making.

    :param aside: the folder of the checkpoint, with CRIU's images; what is taken is kept there meanwhile
    :param target: where the archive comes; it has the name only once it is whole
    """

    def __init__(self, inst: Instance, record: Record, aside: Path, target: Path) -> None:
        self._inst = inst
        self._record = record
        self._aside = aside
        self._target = target.absolute()

    def take(self) -> None:
        """While the container stands still: a copy of its files and its log.

        :raises WharfError: :raises OSError:
        """
        with open(self._aside / UPPER, "xb") as out:
            for piece in tarwrite.layer(self._inst.container_dir(self._record.id) / "upper"):
                out.write(piece)
        parts = open_chain(self._inst.log_path(self._record.id))
        try:
            with open(self._aside / LOG, "xb") as out:
                for part in parts:
                    with open(part.fd, "rb", closefd=False) as file:
                        file.seek(0)
                        while data := file.read(_CHUNK):
                            out.write(data)
        finally:
            close_chain(parts)

    def write(self) -> int:
        """Make the archive, synced, and delete what was taken for it. Returns its size in bytes. :raises OSError:"""
        part = self._target.with_name(f".{self._target.name}.{os.getpid()}.part")
        try:
            with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                self._fill(file)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            os.rename(part, self._target)
        finally:
            part.unlink(missing_ok=True)
        for name in (UPPER, LOG):
            (self._aside / name).unlink()
        return size

    def _fill(self, file: IO[bytes]) -> None:
        with ExitStack() as stack:
            out = _OPENERS[self._target.suffix](file)
            if out is not file:
                stack.callback(out.close)
            archive = stack.enter_context(tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT))
            found: dict[str, list[object]] = {}
            for name, path in self._members():
                found[name] = _add(archive, name, path)
            manifest = json.dumps({"version": 1, "spec": to_plain(self._spec()), "files": found}, indent=1).encode()
            for name, content in ((MANIFEST, manifest), (MAC, seal(archive_key(self._inst, make=True), manifest))):
                archive.addfile(_info(name, len(content)), io.BytesIO(content))

    def _members(self) -> Iterator[tuple[str, Path]]:
        yield META, self._aside / META
        for path in sorted((self._aside / IMAGES).iterdir()):
            yield f"{IMAGES}/{path.name}", path
        yield UPPER, self._aside / UPPER
        yield LOG, self._aside / LOG

    def _spec(self) -> object:
        # What the processes know as their host's name comes back with them: the files about names must agree.
        return replace(self._record.spec, hostname=self._record.config.hostname)


class _Counted:
    """What is read from ``file``, hashed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _add(archive: tarfile.TarFile, name: str, path: Path) -> list[object]:
    """Returns size and SHA-256."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        counted = _Counted(file)
        archive.addfile(_info(name, size), cast("IO[bytes]", counted))
    return [size, counted.digest.hexdigest()]


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A folder's descriptor."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
