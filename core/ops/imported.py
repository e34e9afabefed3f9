"""The reading side of :mod:`core.ops.portable`: nothing of an archive is believed before it is checked.

No member is extracted by its name: they are looked up in an index, links are refused, and what is written is written
under names of ours. See the table there for what the members are.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.errors import Corrupt, NotFound, WharfError
from core.images import spool
from core.images.places import DIFF
from core.images.spool import Member
from core.images.unpackers import Unpackers, in_thread
from core.model import ContainerSpec
from core.ops.portable import LOG, MAC, MANIFEST, UPPER, archive_key, seal
from core.store.codec import from_plain
from core.store.paths import Instance
from core.supervise.restoring import IMAGES, META

_IMAGE = re.compile(rf"{IMAGES}/([a-zA-Z0-9][a-zA-Z0-9._-]*)")
_MOST_MANIFEST = 16 << 20  # bytes
_CHUNK = 1 << 20


def broken(why: str) -> Corrupt:
    return Corrupt("that is not an archive of a checkpoint", why, "Make it with `wharf checkpoint create --export`")


class Import:
    """An open archive, its manifest checked.

    :param trust: also one that this engine has not made
    :raises NotFound: no such file
    :raises Corrupt: see :func:`core.ops.restore.restore_from`
    """

    def __init__(self, inst: Instance, path: Path, *, trust: bool) -> None:
        self._inst = inst
        self._fds = [self._opened(path)]
        try:
            plain = spool.plain_file(self._fds[0], inst.trash, lambda taken: None)
            if plain not in self._fds:
                self._fds.append(plain)
            self._fd = plain
            self._members = spool.index(plain)
            self._manifest = self._read_manifest(trust=trust)
            meta = self._json(META)
            self.image = str(meta["image"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.close()
            raise broken(f"its manifest makes no sense: {error!r}") from error
        except BaseException:
            self.close()
            raise

    def _opened(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"no such file: {path}", "there is nothing to restore", "Check the path") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    # -- checked reading
    def _member(self, name: str) -> Member:
        found = self._members.get(name)
        if found is None or found.link:
            raise broken(f"it has no file {name!r}")
        return found

    def _read_manifest(self, *, trust: bool) -> dict[str, Any]:
        content, mac = (self._small(name) for name in (MANIFEST, MAC))
        key = archive_key(self._inst, make=False)
        if not trust and not (key and hmac.compare_digest(seal(key, content), mac)):
            raise Corrupt(
                "the archive was not made by this engine, or was changed since",
                "its seal does not fit; what it holds would run with every right that it claims",
                "If you trust whoever made it as you trust root, restore it with --trust",
            )
        manifest: dict[str, Any] = json.loads(content)
        if manifest["version"] != 1:
            raise broken(f"it is of version {manifest['version']!r}")
        if not isinstance(manifest["spec"], dict):
            raise ValueError("a specification that is none")
        files = manifest["files"]
        strange = [name for name in files if name not in (META, UPPER, LOG) and not _IMAGE.fullmatch(name)]
        if strange or set(self._members) != {*files, MANIFEST, MAC}:
            raise broken(f"its members are not those of its manifest: {(strange or ['?'])[0]!r}")
        if not {META, UPPER, LOG} <= set(files):
            raise broken("something is missing")
        return manifest

    def _small(self, name: str) -> bytes:
        member = self._member(name)
        if member.size > _MOST_MANIFEST:
            raise broken(f"{name!r} has {member.size} bytes")
        return os.pread(self._fd, member.size, member.offset)

    def _json(self, name: str) -> dict[str, Any]:
        content = self._small(name)
        self._check(name, len(content), hashlib.sha256(content).hexdigest())
        found = json.loads(content)
        return dict(found)

    def _check(self, name: str, size: int, digest: str) -> None:
        if [size, digest] != self._manifest["files"][name]:
            raise Corrupt("the archive is damaged", f"{name!r} is not what its manifest says", "Copy it again")

    # -- what it says
    @property
    def image_name(self) -> str:
        return str(self._manifest["spec"].get("image"))

    def spec(self, image: str, name: str) -> ContainerSpec:
        """What to create; whether a container can have that is the affair of ``create``.

        :raises Corrupt: it is no specification
        """
        try:
            spec = from_plain(ContainerSpec, self._manifest["spec"])
            return replace(spec, image=image, name=name or spec.name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise broken(f"its specification makes no sense: {error!r}") from error

    # -- what it holds
    async def unpack(self, cid: str, checkpoint: Path) -> None:
        """Put the files, the log and the checkpoint into the folder of the created container ``cid``.

        :raises Corrupt: what is in it is not what the manifest says, or means harm
        """
        folder = self._inst.container_dir(cid)
        await in_thread(lambda: self._unpack_files(folder, checkpoint))
        await self._unpack_layer(folder)

    def _unpack_files(self, folder: Path, checkpoint: Path) -> None:
        (checkpoint / IMAGES).mkdir(mode=0o700, parents=True)
        self._extract(META, checkpoint / META)
        self._extract(LOG, folder / "log" / "0.log")
        for name in self._manifest["files"]:
            if match := _IMAGE.fullmatch(name):
                self._extract(name, checkpoint / IMAGES / match[1])

    def _extract(self, name: str, target: Path) -> None:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as out:
            self._copy(name, out.write)

    def _copy(self, name: str, write: Callable[[bytes], object]) -> None:
        member = self._member(name)
        digest = hashlib.sha256()
        at, end = member.offset, member.offset + member.size
        while at < end:
            data = os.pread(self._fd, min(_CHUNK, end - at), at)
            if not data:
                raise Corrupt("the archive is damaged", f"it ends within {name!r}", "Copy it again")
            digest.update(data)
            write(data)
            at += len(data)
        self._check(name, member.size, digest.hexdigest())

    async def _unpack_layer(self, folder: Path) -> None:
        """By the worker that unpacks the layers of images, in a root of its own."""
        member = self._member(UPPER)
        await in_thread(lambda: self._copy(UPPER, len))  # its digest first: nothing of it may come before
        unpackers = Unpackers(self._inst)
        staging = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await unpackers.unpack(self._fd, member.offset, member.size, staging, None, lambda done: None)
        except WharfError as error:
            raise broken(f"its files cannot be unpacked: {error}") from error
        finally:
            os.close(staging)
            await unpackers.close(wait=True)

        def swap() -> None:
            shutil.rmtree(folder / "upper")
            (folder / DIFF).rename(folder / "upper")

        await in_thread(swap)
