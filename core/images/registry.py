"""A client of the OCI distribution API (distribution-spec v1.1; Docker Registry HTTP API V2) for one repository.

What is read may come from mirrors: each is asked in turn, the registry itself last, and whatever comes is checked
against its digest. Blobs resume by ``Range``, at whichever place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TypeVar

from core.errors import Corrupt, NotFound, RateLimited, Unauthorized, Unavailable, WharfError
from core.images.answers import Cut, running_out
from core.images.auth import Credentials
from core.images.endpoints import Endpoint, endpoints
from core.images.keyring import Keyring
from core.images.manifest import ACCEPT, LONGEST
from core.images.reference import Reference, is_digest
from core.images.tokens import Find
from core.images.transport import TRIES, Request, Transport
from core.store.config import Settings

__all__ = ["Cut", "Registry"]
_MIRROR_TRIES = 2
_PASSED_BY = (Corrupt, NotFound, RateLimited, Unauthorized, Unavailable)  # what another place may do better
Params = tuple[tuple[str, str], ...]
T = TypeVar("T")


def _ignore(_: str) -> None:
    """Nobody wants to know."""


class Registry:
    """One repository of one registry. Use as ``async with``.

    :param actions: ``pull`` or ``pull,push``; what is pushed goes to the registry itself, never to a mirror
    :param notice: is told what a user may want to know, in words
    """

    def __init__(
        self,
        reference: Reference,
        keyring: Keyring,
        settings: Settings,
        *,
        insecure: bool = False,
        actions: str = "pull",
        notice: Callable[[str], None] = _ignore,
    ) -> None:
        self.reference = reference
        self._notice = notice
        self._actions = actions
        self._stack = contextlib.AsyncExitStack()
        places = endpoints(reference.domain, settings.registries, insecure=insecure)
        if actions != "pull":
            places = places[-1:]
        self._places = [Transport(point, finder(keyring, point, settings)) for point in places]
        self._failed: dict[Transport, int] = {}  # tries in vain

    async def __aenter__(self) -> Registry:
        for place in self._places:
            await self._stack.enter_async_context(place)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def own(self) -> Transport:
        """The registry itself."""
        return self._places[-1]

    @property
    def host(self) -> str:
        """host[:port] that is asked now."""
        return self._alive()[0].endpoint.host

    # -- what there is to read ----------------------------------------------------------------------------------
    async def manifest(self, version: str) -> tuple[bytes, str, str]:
        """(document, media type, digest) of a tag or digest.

        :raises NotFound: no such image or tag
        :raises Corrupt: it is too long, or does not match the digest
        """

        async def one(place: Transport) -> tuple[bytes, str, str]:
            data, headers = await self._small(place, f"manifests/{version}", ACCEPT)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            expected = version if is_digest(version) else headers.get("Docker-Content-Digest", "")
            if expected and is_digest(expected) and expected != digest:
                raise self._wrong(place, "the manifest", expected, digest)
            if low := running_out(headers):
                self._notice(f"{place.endpoint.host} limits pulls: {low}")
            return data, headers.get("Content-Type", ""), digest

        return await self._first(one)

    async def head(self, version: str) -> tuple[str, str]:
        """(digest, media type) of a tag, without its manifest (and, at Docker Hub, without being counted).

        :raises NotFound: no such image or tag
        :raises Unavailable: nobody says
        """

        async def one(place: Transport) -> tuple[str, str]:
            request = self.request(
                place, f"manifests/{version}", method="HEAD", headers={"Accept": ACCEPT}, good=(200,)
            )

            async def attempt() -> tuple[str, str]:
                async with place.ask(request) as response:
                    digest = response.headers.get("Docker-Content-Digest", "")
                    return (digest if is_digest(digest) else ""), response.headers.get("Content-Type", "")

            return await place.again(attempt, tries=self._tries(place))

        return await self._first(one)

    async def small_blob(self, digest: str, size: int) -> bytes:
        """A configuration.

        :raises Corrupt: it does not match its digest or size
        """
        if size > LONGEST:
            raise Corrupt("the image's configuration is too long", f"it has {size} bytes", "Use another image")

        async def one(place: Transport) -> bytes:
            data, _ = await self._small(place, f"blobs/{digest}", "*/*")
            found = f"sha256:{hashlib.sha256(data).hexdigest()}"
            if found != digest or len(data) != size:
                raise self._wrong(
                    place, "the configuration", f"{digest} ({size} bytes)", f"{found} ({len(data)} bytes)"
                )
            return data

        return await self._first(one)

    async def document(self, path: str, accept: str, *, params: Params = ()) -> tuple[bytes, Mapping[str, str]]:
        """Some other document of the repository and its headers, from the registry itself. :raises NotFound:"""
        return await self._small(self.own, path, accept, params=params)

    def request(
        self,
        place: Transport,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        params: Params = (),
        good: tuple[int, ...] = (200, 206),
        more_scopes: tuple[str, ...] = (),
        body: Callable[[], object] | None = None,
    ) -> Request:
        """A request about this repository at ``place``; ``path`` may be a URL that it has given."""
        point = place.endpoint
        repository = point.repository(self.reference.path)
        namespace: Params = (("ns", point.mirror_of),) if point.mirror_of else ()
        return Request(
            path if "://" in path else f"{repository}/{path}",
            method,
            headers or {},
            namespace + params,
            (f"repository:{repository}:{self._actions}", *more_scopes),
            good,
            body,
            self.reference.familiar,
            f"no such image: {self.reference.familiar}",
        )

    async def _small(
        self, place: Transport, path: str, accept: str, *, params: Params = ()
    ) -> tuple[bytes, Mapping[str, str]]:
        request = self.request(place, path, headers={"Accept": accept}, params=params)

        async def attempt() -> tuple[bytes, Mapping[str, str]]:
            async with place.ask(request) as response:
                data = bytearray()
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > LONGEST:
                        raise Corrupt("the registry's answer is too long", f"over {LONGEST} bytes", "Use another image")
                return bytes(data), response.headers

        return await place.again(attempt, tries=self._tries(place))

    def _wrong(self, place: Transport, what: str, expected: str, found: str) -> Corrupt:
        return Corrupt(
            f"{what} of {self.reference.familiar} has the wrong digest",
            f"{place.endpoint.host} should have sent {expected} and sent {found}",
            "Try again; if it stays, the registry is damaged",
        )

    # -- layers -------------------------------------------------------------------------------------------------
    async def blob(self, digest: str, offset: int, size: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from ``offset`` to ``size``, in one try.

        :raises Cut: the connection broke, or a mirror failed: call again from where it ended
        :raises Corrupt: the registry has another size for it
        """
        place = self._alive()[0]
        try:
            async for piece in self._pieces(place, digest, offset, size):
                yield piece
        except Cut:
            if place is not self.own:
                self._failed[place] = self._failed.get(place, 0) + 1
            raise
        except _PASSED_BY as error:
            if place is self.own:
                raise
            self._give_up(place, error)
            raise Cut(str(error), pause=0.001) from error

    async def _pieces(self, place: Transport, digest: str, offset: int, size: int) -> AsyncGenerator[bytes, None]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with place.ask(self.request(place, f"blobs/{digest}", headers=headers)) as response:
            # Some ignore Range and send all: skip what we have.
            skip = offset if response.status == 200 else 0
            left = size - offset
            stated = response.content_length
            if stated is not None and stated != left + skip:
                raise self._wrong(place, f"blob {digest}", f"{left + skip} bytes", f"{stated} bytes")
            span = response.headers.get("Content-Range", "")
            if response.status == 206 and span and not span.startswith(f"bytes {offset}-"):
                raise self._wrong(place, f"blob {digest}", f"bytes from {offset} on", span[:100])
            # As they were received: whatever has gathered would be joined to one long piece by iter_any().
            async for piece, _ in response.content.iter_chunks():
                if skip:
                    piece, skip = piece[skip:], max(0, skip - len(piece))
                if len(piece) > left:
                    raise self._wrong(place, f"blob {digest}", f"{size} bytes", "more")
                left -= len(piece)
                if piece:
                    yield piece
            if left:
                raise Cut("the connection ended early")

    async def pause(self, number: int, error: Cut) -> None:
        """Wait before try ``number`` + 2 of a blob. :raises Unavailable: that was the last one"""
        if error.pause >= 1:
            self._notice(f"{self.host} wants us to wait: going on in {error.pause:.0f} s")
        await self._alive()[0].pause(number, error)

    def distrust(self) -> bool:
        """A blob was not what it should be. True where it may have come from a mirror: ask somebody else now."""
        place = self._alive()[0]
        if place is self.own:
            return False
        self._give_up(place, Corrupt("it sent a wrong layer"))
        return True

    # -- several places -----------------------------------------------------------------------------------------
    def _tries(self, place: Transport) -> int:
        return TRIES if place is self.own else _MIRROR_TRIES

    def _alive(self) -> list[Transport]:
        return [place for place in self._places if place is self.own or self._failed.get(place, 0) < _MIRROR_TRIES]

    def _give_up(self, place: Transport, error: WharfError) -> None:
        known = place not in self._alive()
        self._failed[place] = _MIRROR_TRIES
        # That it lacks an image is a mirror's ordinary life.
        if not known and not isinstance(error, NotFound):
            self._notice(f"the mirror {place.endpoint.host} is left out: {error.what}")

    async def _first(self, ask: Callable[[Transport], Awaitable[T]]) -> T:
        """What the first place that can answer says."""
        for place in self._alive():
            try:
                return await ask(place)
            except _PASSED_BY as error:
                if place is self.own:
                    raise
                self._give_up(place, error)
        raise AssertionError


def finder(keyring: Keyring, point: Endpoint, settings: Settings) -> Find:
    """How the credentials of an endpoint are found: its own ones, a mirror never has those of what it mirrors."""

    async def find() -> Credentials | None:
        return await keyring.find(point.name, settings.credentials)

    return find


def read_object(data: bytes) -> dict[str, object]:
    """A JSON object of a registry. :raises Corrupt: it is none"""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Corrupt(
            "the registry's answer is not understood", "it is not a JSON object", "Check that it is a registry"
        )
    return document
