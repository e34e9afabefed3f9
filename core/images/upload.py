"""Sending blobs and manifests to a registry (distribution-spec v1.1, "Pushing blobs", "Pushing Manifests").

A blob goes in pieces: where the connection breaks, the registry is asked how far it came, and the rest follows. A piece
is large, as each costs a round trip, and becomes smaller where somebody on the way refuses it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode

import aiohttp

from core.errors import Corrupt, NotFound, Unauthorized, Unavailable, WharfError
from core.images.answers import Cut
from core.images.reference import is_digest
from core.images.registry import Registry
from core.images.transport import TRIES

_PIECE = 64 * 1024 * 1024  # bytes of one request
_LEAST_PIECE = 1024 * 1024
_READ = 256 * 1024
_TOO_LARGE = 413
_BLOB = {"Content-Type": "application/octet-stream"}
_GOODBYE = 2.0  # seconds for giving back what was begun
Report = Callable[[int], None]


class Uploader:
    """Sends to one repository; ``registry`` was opened for pushing."""

    def __init__(self, registry: Registry, piece: int = _PIECE) -> None:
        self._registry = registry
        self._place = registry.own
        self._piece = piece

    async def exists(self, digest: str) -> bool:
        """Whether the repository has that blob."""
        request = self._registry.request(self._place, f"blobs/{digest}", method="HEAD", good=(200,))

        async def attempt() -> bool:
            async with self._place.ask(request):
                return True

        try:
            return await self._place.again(attempt)
        except NotFound:
            return False

    async def mount(self, digest: str, source: str) -> tuple[bool, str]:
        """Have the blob taken over from another repository of the registry.

        :returns: (done, the URL of the upload that the registry has begun where it cannot)
        """
        request = self._registry.request(
            self._place,
            "blobs/uploads/",
            method="POST",
            headers={"Content-Length": "0"},
            params=(("mount", digest), ("from", source)),
            good=(201, 202),
            more_scopes=(f"repository:{source}:pull",),
        )

        async def attempt() -> tuple[bool, str]:
            async with self._place.ask(request) as response:
                return response.status == 201, "" if response.status == 201 else self._place.location(response)

        try:
            return await self._place.again(attempt)
        except (NotFound, Unauthorized):
            return False, ""  # nor may everybody see what is there

    async def upload(self, path: Path, digest: str, size: int, report: Report, location: str = "") -> None:
        """Send a blob of ``size`` bytes.

        :param location: of an upload that was begun
        :raises Corrupt: the registry got something else than was sent
        :raises Unavailable: it cannot be done
        """
        for last in (False, True):
            try:
                await self._upload(path, digest, size, report, location)
                return
            except _Lost:
                # What it had of an upload that broke off was bad or is gone: once more, from the start.
                location = ""
                if last:
                    raise Corrupt(
                        "the registry does not take a layer",
                        f"{self._place.endpoint.host} does not find {digest} in what it got",
                        "Try again; if it stays, look at the registry's log",
                    ) from None

    async def _upload(self, path: Path, digest: str, size: int, report: Report, location: str) -> None:
        location = location or await self._begin()
        offset = failures = 0
        done = False
        try:
            while offset < size:
                try:
                    location, offset = await self._send(location, path, offset, size, report)
                    failures = 0
                except Cut as error:
                    await self._place.pause(failures, error)
                    failures += 1
                    location, offset = await self._where(location)
                report(offset)
            await self._finish(location, digest)
            done = True
        finally:
            if not done:
                await self.give_back(location)

    async def _begin(self) -> str:
        request = self._registry.request(
            self._place, "blobs/uploads/", method="POST", headers={"Content-Length": "0"}, good=(202,)
        )

        async def attempt() -> str:
            async with self._place.ask(request) as response:
                return self._place.location(response)

        return await self._place.again(attempt)

    async def _send(self, location: str, path: Path, offset: int, size: int, report: Report) -> tuple[str, int]:
        """One piece; returns where, and from which byte on, to go on."""
        count = min(self._piece, size - offset)
        headers = _BLOB | {"Content-Length": str(count)}
        if count < size:
            headers["Content-Range"] = f"{offset}-{offset + count - 1}"
        request = self._registry.request(
            self._place,
            location,
            method="PATCH",
            headers=headers,
            good=(202, 201, 204, _TOO_LARGE, 416),
            body=lambda: _read(path, offset, count, report),
        )
        async with self._place.ask(request) as response:
            if response.status == _TOO_LARGE:
                if count <= _LEAST_PIECE:
                    raise Unavailable(
                        f"{self._place.endpoint.host} takes no layers of this size",
                        f"a piece of {count} bytes was too large for it (413)",
                        "Allow larger requests in the proxy before it",
                    )
                self._piece = min(self._piece, max(_LEAST_PIECE, count // 4))
                return await self._where(location)
            if response.status == 416:
                raise Cut("the registry does not take what follows the part that it says it has")
            came = _came(response, offset + count)
            if came <= offset:
                raise Cut("the registry has kept nothing of what was sent")
            return self._place.location(response), came

    async def _where(self, location: str) -> tuple[str, int]:
        """How far the registry has come. :raises _Lost: it knows nothing of it"""
        request = self._registry.request(self._place, location, good=(204, 200))

        async def attempt() -> tuple[str, int]:
            async with self._place.ask(request) as response:
                given = self._place.location(response) if response.headers.get("Location") else location
                return given, _came(response, 0)

        try:
            return await self._place.again(attempt)
        except NotFound:
            raise _Lost from None

    async def _finish(self, location: str, digest: str) -> None:
        url = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': digest})}"
        request = self._registry.request(
            self._place, url, method="PUT", headers=_BLOB | {"Content-Length": "0"}, good=(201, 204, 400)
        )
        for number in range(TRIES):
            try:
                async with self._place.ask(request) as response:
                    if response.status == 400:
                        raise _Lost
                    return
            except NotFound:
                # The answer to an earlier try may have been lost.
                if number and await self.exists(digest):
                    return
                raise _Lost from None
            except Cut as error:
                await self._place.pause(number, error)
                if await self.exists(digest):
                    return

    async def give_back(self, location: str) -> None:
        """Let the registry forget what was begun; it does so by itself after some days."""
        request = self._registry.request(self._place, location, method="DELETE", good=(204, 202, 200, 404, 405))
        try:
            async with asyncio.timeout(_GOODBYE), self._place.ask(request):
                pass
        except (WharfError, Cut, TimeoutError):
            pass

    async def manifest(self, data: bytes, kind: str, version: str, digest: str) -> None:
        """Put a manifest under a tag.

        :raises Unavailable: the registry refuses it
        :raises Corrupt: it says that it got something else
        """
        request = self._registry.request(
            self._place,
            f"manifests/{version}",
            method="PUT",
            headers={"Content-Type": kind},
            good=(201, 200, 202),
            body=lambda: data,
        )

        async def attempt() -> str:
            async with self._place.ask(request) as response:
                return response.headers.get("Docker-Content-Digest", "")

        said = await self._place.again(attempt)
        if is_digest(said) and said != digest:
            raise Corrupt(
                "the registry got another manifest than was sent",
                f"{self._place.endpoint.host} has {said} in place of {digest}",
                "Try again; if it stays, somebody on the way changes what is sent",
            )


class _Lost(Exception):
    """The upload is of no use: the registry has thrown it away, or its bytes are not the blob's."""


def _came(response: aiohttp.ClientResponse, usual: int) -> int:
    """The first byte that is missing, by ``Range: 0-99`` (the last one that came); ``usual`` where it does not say."""
    last = response.headers.get("Range", "").rpartition("-")[2]
    if not last.isdigit():
        return usual
    # Nothing at all is written "0-0", as one byte is; then that byte comes again, and the digest tells.
    return int(last) + 1 if int(last) or usual == 1 else 0


async def _read(path: Path, offset: int, count: int, report: Report) -> AsyncIterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = offset + count
        while offset < end:
            data = await asyncio.to_thread(os.pread, fd, min(_READ, end - offset), offset)
            if not data:
                raise OSError(f"{path} has become shorter")
            yield data
            offset += len(data)
            report(offset)
    finally:
        os.close(fd)
