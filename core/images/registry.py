"""A client of the OCI distribution API (distribution-spec v1.1; Docker Registry HTTP API V2), for reading.

Anonymous, token and basic authentication; retries with backoff; blobs resume by ``Range``. ``Authorization`` is dropped
when a redirect leads to another host. aiohttp is imported here and nowhere else, as this module is only imported by the
first pull: it takes longer than everything else the engine loads.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urljoin, urlsplit

import aiohttp

from core.errors import Corrupt, NotFound, Unauthorized, Unavailable, WharfError
from core.images import auth
from core.images.manifest import ACCEPT, LONGEST
from core.images.reference import Reference, is_digest

_TRIES = 5
_PAUSE = 0.2  # seconds, doubled each time
_LONGEST_PAUSE = 30.0
_REDIRECTS = 5
_CONNECT, _SILENCE = 15.0, 60.0  # seconds
_AGENT = "wharfinger"
_BUFFER = 1024 * 1024
_TRANSIENT = (429, 500, 502, 503, 504)


class Cut(Exception):
    """The connection broke, or the registry is overloaded: worth another try after ``pause`` seconds (0: as usual)."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


class Registry:
    """One repository of one registry. Use as ``async with``."""

    def __init__(self, reference: Reference, *, insecure: bool = False) -> None:
        self.reference = reference
        self._host = reference.host
        self._unsafe = insecure or reference.local
        self._scheme = "http" if reference.local else "https"
        self._settled = not self._unsafe
        self._authorization = ""
        self._token_lock = asyncio.Lock()

    async def __aenter__(self) -> Registry:
        check: bool | ssl.SSLContext = not self._unsafe
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit_per_host=8, ssl=check),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE),
            headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
            auto_decompress=False,  # a digest is of the bytes as they are stored
            trust_env=not self.reference.local,
            read_bufsize=_BUFFER,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    # -- what there is to read ----------------------------------------------------------------------------------
    async def manifest(self, version: str) -> tuple[bytes, str, str]:
        """(document, media type, digest) of a tag or digest.

        :raises NotFound: no such image or tag
        :raises Corrupt: it is too long, or does not match the digest
        """
        path = f"manifests/{version}"
        data, headers = await self._small(path, ACCEPT)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        stated = headers.get("Docker-Content-Digest", "")
        expected = version if is_digest(version) else stated
        if expected and is_digest(expected) and expected != digest:
            raise self._wrong("the manifest", expected, digest)
        return data, headers.get("Content-Type", ""), digest

    async def small_blob(self, digest: str, size: int) -> bytes:
        """A configuration.

        :raises Corrupt: it does not match its digest or size
        """
        if size > LONGEST:
            raise Corrupt("the image's configuration is too long", f"it has {size} bytes", "Use another image")
        data, _ = await self._small(f"blobs/{digest}", "*/*")
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest or len(data) != size:
            raise self._wrong("the configuration", f"{digest} ({size} bytes)", f"{found} ({len(data)} bytes)")
        return data

    def _wrong(self, what: str, expected: str, found: str) -> Corrupt:
        return Corrupt(
            f"{what} of {self.reference.familiar} has the wrong digest",
            f"{self._host} should have sent {expected} and sent {found}",
            "Try again; if it stays, the registry is damaged",
        )

    async def _small(self, path: str, accept: str) -> tuple[bytes, dict[str, str]]:
        async def attempt() -> tuple[bytes, dict[str, str]]:
            async with self._get(path, {"Accept": accept}) as response:
                data = bytearray()
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > LONGEST:
                        raise Corrupt("the registry's answer is too long", f"over {LONGEST} bytes", "Use another image")
                return bytes(data), dict(response.headers)

        for number in range(_TRIES):
            try:
                return await attempt()
            except Cut as error:
                await self.pause(number, error)
        raise AssertionError

    async def pause(self, number: int, error: Cut) -> None:
        """Wait before try ``number`` + 2.

        :raises Unavailable: that was the last one
        """
        if number + 1 >= _TRIES:
            raise self._down(str(error)) from error
        pause = error.pause or _PAUSE * 2**number * random.uniform(0.8, 1.2)
        await asyncio.sleep(min(pause, _LONGEST_PAUSE))

    async def blob(self, digest: str, offset: int, size: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from ``offset`` to ``size``, in one try.

        :raises Cut: the connection broke: call again from where it ended
        :raises Corrupt: the registry has another size for it
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._get(f"blobs/{digest}", headers) as response:
            # Some ignore Range and send all: skip what we have.
            skip = offset if response.status == 200 else 0
            left = size - offset
            stated = response.content_length
            if stated is not None and stated != left + skip:
                raise self._wrong(f"blob {digest}", f"{left + skip} bytes", f"{stated} bytes")
            async for piece in response.content.iter_any():
                if skip:
                    piece, skip = piece[skip:], max(0, skip - len(piece))
                if len(piece) > left:
                    raise self._wrong(f"blob {digest}", f"{size} bytes", "more")
                left -= len(piece)
                if piece:
                    yield piece
            if left:
                raise Cut("the connection ended early")

    # -- one request --------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def _get(self, path: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer (200, 206), authenticated and redirected as needed."""
        response = await self._ask(path, headers)
        try:
            if response.status == 401:
                challenge = auth.parse_challenge(response.headers.get("WWW-Authenticate", ""))
                response.release()
                await self._authenticate(challenge, self._authorization)
                response = await self._ask(path, headers)
            self._judge(response, path)
            yield response
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, TimeoutError) as error:
            raise Cut(str(error) or type(error).__name__) from error
        finally:
            response.close()

    async def _ask(self, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        try:
            return await self._follow(path, headers)
        except WharfError:
            if self._settled:
                raise
        # A registry that need not be safe may speak either: try the other one, once, before anything else is known.
        self._settled = True
        self._scheme = "https" if self._scheme == "http" else "http"
        try:
            return await self._follow(path, headers)
        except WharfError:
            self._scheme = "https" if self._scheme == "http" else "http"
            return await self._follow(path, headers)

    async def _follow(self, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        url = f"{self._scheme}://{self._host}/v2/{self.reference.path}/{path}"
        authorization = self._authorization
        for _ in range(_REDIRECTS + 1):
            sent = headers | ({"Authorization": authorization} if authorization else {})
            response = await self._send(url, sent)
            location = response.headers.get("Location", "")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            response.release()
            following = urljoin(url, location)
            old, new = urlsplit(url), urlsplit(following)
            if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
                raise self._down(f"it redirects to {following[:200]!r}, which is not safe")
            if (old.scheme, old.netloc) != (new.scheme, new.netloc):
                authorization = ""  # the storage behind a registry has its own signature in the URL
            url = following
        raise self._down("it redirects in circles")

    async def _send(self, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        where = urlsplit(url).netloc
        try:
            response = await self._session.get(url, headers=headers, allow_redirects=False)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unavailable(
                f"the certificate of {where} is not trusted",
                str(error.certificate_error),
                "Install the registry's CA certificate, or pull with --insecure",
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise self._down(str(getattr(error, "strerror", "") or error), where) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            if not self._settled:
                raise self._down(str(error) or type(error).__name__, where) from error
            raise Cut(str(error) or type(error).__name__) from error
        if not self._settled and response.status == 400 and self._scheme == "http":
            response.close()
            raise self._down("it does not speak plain HTTP", where)  # Go's servers say so to a client without TLS
        self._settled = True
        return response

    def _down(self, why: str, where: str = "") -> Unavailable:
        return Unavailable(
            f"the registry {where or self._host} cannot be reached",
            why,
            "Check that it runs, its name and port, and the network",
        )

    def _judge(self, response: aiohttp.ClientResponse, path: str) -> None:
        status = response.status
        if status in (200, 206):
            return
        name = self.reference.familiar
        if status == 404:
            raise NotFound(f"no such image: {name}", f"{self._host} does not have {path}", "Check its name and tag")
        if status in (401, 403):
            raise Unauthorized(
                f"{self._host} refuses access to {name}",
                "the image is private or does not exist" if status == 401 else "access is denied",
                f"Log in with `docker login {self.reference.domain}`, or check the name",
            )
        if status in _TRANSIENT:
            wait = response.headers.get("Retry-After", "")
            raise Cut(f"it answers {status} {response.reason}", float(wait) if wait.isdigit() else 0.0)
        raise self._down(f"it answers {status} {response.reason} for {path}")

    # -- who we are ---------------------------------------------------------------------------------------------
    async def _authenticate(self, challenge: auth.Challenge, before: str) -> None:
        """Answer a challenge; several requests that are refused at once make one token."""
        async with self._token_lock:
            if self._authorization != before:
                return  # another request has just done it
            credentials = auth.find_credentials(self.reference.domain)
            if challenge.scheme == "basic" and credentials and credentials.user:
                self._authorization = credentials.header
            elif challenge.scheme == "bearer":
                self._authorization = await self._token(challenge, credentials)

    async def _token(self, challenge: auth.Challenge, credentials: auth.Credentials | None) -> str:
        own = auth.check_realm(challenge.realm, self._host, plain=self._scheme == "http")
        scope = challenge.scope or f"repository:{self.reference.path}:pull"
        fields = {"service": challenge.service, "scope": scope}
        headers = {}
        method = "GET"
        if own and credentials and credentials.identity_token:
            method = "POST"  # distribution, "OAuth2 token authentication"
            fields |= {"grant_type": "refresh_token", "client_id": _AGENT, "refresh_token": credentials.identity_token}
        elif own and credentials:
            headers["Authorization"] = credentials.header
        sent = {"data": fields} if method == "POST" else {"params": fields}
        host = urlsplit(challenge.realm).netloc
        try:
            async with self._session.request(
                method,
                challenge.realm,
                headers=headers,
                allow_redirects=False,
                **sent,  # type: ignore[arg-type]
            ) as response:
                if response.status != 200:
                    raise Unauthorized(
                        f"the token service {host} refuses us",
                        f"it answers {response.status} {response.reason}",
                        f"Log in with `docker login {self.reference.domain}`, or check the name",
                    )
                document = json.loads(await response.content.read(LONGEST))
                return f"Bearer {document.get('token') or document['access_token']}"
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, AttributeError) as error:
            raise Unavailable(
                f"the token service {host} of {self._host} does not work", str(error), "Try again later"
            ) from error
