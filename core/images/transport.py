"""Requests to one host of a registry: TLS, proxy, redirects, authentication, and what may be tried again.

``Authorization`` and our own certificate go to the registry's own host alone: both are left out where it redirects
elsewhere. aiohttp is imported by this module and those above it only, which the first use of a registry loads: it takes
longer than everything else the engine loads.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from core.errors import Unavailable, WharfError
from core.images import auth, proxies, socks, tls
from core.images.answers import LONGEST_PAUSE, Cut, Subject, refusal
from core.images.endpoints import Endpoint
from core.images.reference import is_local, reaches_us
from core.images.tokens import AGENT, Authenticator, Find

TRIES = 5
_PAUSE = 0.2  # seconds, doubled each time
_REDIRECTS = 5
_CONNECT, _SILENCE = 15.0, 60.0  # seconds
_BUFFER = 1024 * 1024
_WANTS_HTTPS = 400  # Go's servers say so to a client without TLS
_NOT_KNOWN = ("CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_CERTIFICATE_UNKNOWN")
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One request. ``path`` stands behind ``/v2/``, or is a whole URL that the registry has given."""

    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Sequence[tuple[str, str]] = ()
    scopes: tuple[str, ...] = ()
    good: tuple[int, ...] = (200, 206)
    body: Callable[[], Any] | None = None  # makes what aiohttp sends, anew for each try
    name: str = ""  # for errors: what it is about
    missing: str = ""  # for errors: what to say where it is not there
    root: str = ""  # in place of "/v2/" + path: another path of the host, or a URL of the registry's that is well known


class Transport:
    """Use as ``async with``."""

    def __init__(self, endpoint: Endpoint, find: Find, *, offline: bool = False) -> None:
        self.endpoint = endpoint
        self._scheme = endpoint.scheme
        self._settled = endpoint.fixed
        self._auth = Authenticator(endpoint, find, self._elsewhere, offline=offline)
        self._contexts: dict[tuple[bool, bool], ssl.SSLContext | bool] = {}

    async def __aenter__(self) -> Transport:
        self._session = aiohttp.ClientSession(
            connector=socks.Connector(self.endpoint.settings.proxy, limit_per_host=8),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE),
            headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
            auto_decompress=False,  # a digest is of the bytes as they are stored
            trust_env=False,  # it would send what is in ~/.netrc, too; proxies are found by us
            read_bufsize=_BUFFER,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    @property
    def identity_token(self) -> str:
        """What the token service has given to be kept in place of the password."""
        return self._auth.identity_token

    # -- requests -----------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def ask(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer, authenticated and redirected as needed; one try.

        :raises Cut: worth another
        :raises WharfError: what it has refused, and why
        """
        sent = self._auth.header(request.scopes)
        response = await self._ask(request)
        try:
            if response.status == 401:
                challenges = auth.parse_challenges(response.headers.getall("WWW-Authenticate", []))
                response.close()
                await self._auth.answer(challenges, request.scopes, sent, plain=self._scheme == "http")
                response = await self._ask(request)
            if response.status not in request.good:
                raise await refusal(response, self._subject(request))
            yield response
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, TimeoutError) as error:
            raise Cut(str(error) or type(error).__name__) from error
        finally:
            response.close()

    def _subject(self, request: Request) -> Subject:
        return Subject(self.endpoint.name, self.endpoint.host, request.name, request.missing, self._auth.withheld)

    async def again(self, attempt: Callable[[], Awaitable[T]], *, tries: int = TRIES) -> T:
        """What ``attempt`` returns, tried up to ``tries`` times with growing pauses.

        :raises Unavailable: that was the last one
        """
        for number in range(tries):
            try:
                return await attempt()
            except Cut as error:
                await self.pause(number, error, tries=tries)
        raise AssertionError

    async def pause(self, number: int, error: Cut, *, tries: int = TRIES) -> None:
        """Wait before try ``number`` + 2.

        :raises Unavailable: that was the last one
        """
        if number + 1 >= tries:
            raise self.down(str(error)) from error
        pause = error.pause or _PAUSE * 2**number * random.uniform(0.8, 1.2)
        await asyncio.sleep(min(pause, LONGEST_PAUSE))

    async def _ask(self, request: Request) -> aiohttp.ClientResponse:
        try:
            return await self._follow(request)
        except ValueError as error:  # of urlsplit and yarl
            raise self.down(f"it sends us to an address that is none: {error}") from error
        except WharfError as error:
            if self._settled:
                raise
            first = error
        # A registry that need not be safe may speak either: try the other one, once, before anything else is known.
        self._scheme = "https" if self._scheme == "http" else "http"
        try:
            return await self._follow(request)
        except WharfError:
            if self._settled:  # it has answered
                raise
            self._scheme = "https" if self._scheme == "http" else "http"
            raise first from None

    async def _follow(self, request: Request) -> aiohttp.ClientResponse:
        url = request.root or request.path
        own, first = True, "://" not in url or bool(request.root)
        if "://" in url:
            own = self._own(url)
        else:
            url = f"{self._scheme}://{self.endpoint.host}{request.root or f'/v2/{request.path}'}"
        for _ in range(_REDIRECTS + 1):
            headers = dict(request.headers)
            if own and (authorization := self._auth.header(request.scopes)):
                headers["Authorization"] = authorization
            fields: dict[str, Any] = {"headers": headers}
            if request.params and first:
                fields["params"] = list(request.params)
            if request.body:
                fields["data"] = request.body()
            response = await self._send(request.method, url, own, verbatim=not first, **fields)
            location = response.headers.get("Location", "")
            if response.status not in (301, 302, 303, 307, 308) or response.status in request.good or not location:
                return response
            response.close()
            following = urljoin(url, location)
            self._check_redirect(url, following, request.method)
            # The storage behind a registry has its own signature in the URL.
            own = own and self._own(following)
            url, first = following, False
        raise self.down("it redirects in circles")

    def _own(self, url: str) -> bool:
        """True where ``url`` is the registry itself, spoken to as it should be."""
        parts = urlsplit(url)
        return (parts.scheme, parts.netloc) == (self._scheme, self.endpoint.host)

    def _check_redirect(self, old: str, new: str, method: str) -> None:
        """:raises Unavailable: not where, or not how, anybody may send us"""
        before, after = urlsplit(old), urlsplit(new)
        unsafe = after.scheme not in ("http", "https") or (before.scheme == "https" and after.scheme == "http")
        # Nor has a registry out there any business with what listens on this machine alone.
        if unsafe or (reaches_us(after.hostname or "") and not reaches_us(before.hostname or "")):
            raise self.down(f"it redirects to {new[:200]!r}, which is not safe")
        if method not in ("GET", "HEAD") and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            raise self.down(f"it wants the image sent to {after.netloc!r}, which is elsewhere")

    def location(self, response: aiohttp.ClientResponse) -> str:
        """The URL in an answer's ``Location``, for the next request.

        :raises Unavailable: there is none, or none that is safe
        """
        given = response.headers.get("Location", "")
        if not given:
            raise self.down("it does not say where to go on")
        url = urljoin(str(response.url), given)
        parts = urlsplit(url)
        if parts.netloc == self.endpoint.host:
            # Behind a proxy it may think that it is spoken to in plain HTTP.
            return parts._replace(scheme=self._scheme).geturl()
        self._check_redirect(str(response.url), url, "GET")
        return url

    # -- the wire -----------------------------------------------------------------------------------------------
    async def _elsewhere(self, method: str, url: str, **fields: Any) -> aiohttp.ClientResponse:
        """A request to the token service; never redirected."""
        host = urlsplit(url).hostname == urlsplit(f"//{self.endpoint.host}").hostname
        return await self._session.request(
            method,
            url,
            allow_redirects=False,
            ssl=await self._context(host, url),
            proxy=proxies.over_http(proxies.find(url, self.endpoint.settings.proxy)),
            **fields,
        )

    async def _context(self, own: bool, url: str) -> ssl.SSLContext | bool:
        point = self.endpoint
        # A registry on this machine need not have a certificate; whom it names out there must have a good one, unless
        # somebody has said so of the registry.
        outside = is_local(point.host) and not reaches_us(urlsplit(url).hostname or "")
        verify = point.verify or (outside and not point.settings.insecure)
        if (own, verify) not in self._contexts:
            self._contexts[own, verify] = await asyncio.to_thread(
                tls.context, point.name, point.settings, verify=verify, client=own
            )
        return self._contexts[own, verify]

    async def _send(self, method: str, url: str, own: bool, *, verbatim: bool, **fields: Any) -> aiohttp.ClientResponse:
        where = urlsplit(url).netloc
        # What a server has given may be signed: yarl must not put it into a form that it likes better.
        target = URL(url.replace(" ", "%20"), encoded=True) if verbatim else URL(url)
        proxy = proxies.find(url, self.endpoint.settings.proxy)
        context = await self._context(own, url) if url.startswith("https:") else True
        try:
            response = await self._session.request(
                method, target, allow_redirects=False, ssl=context, proxy=proxies.over_http(proxy), **fields
            )
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unavailable(
                f"the certificate of {where} is not trusted",
                str(error.certificate_error),
                f"Put its CA into /etc/wharf/certs.d/{self.endpoint.name}/ca.crt, or use --insecure",
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.ClientHttpProxyError) as error:
            why = _reason(error)
            raise self.down(f"{why} (by the proxy {proxies.shown(proxy)})" if proxy else why, where) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            if told := _certificate_wanted(error):
                raise self.down(told, where) from error
            if not self._settled:
                raise self.down(str(error) or type(error).__name__, where) from error
            raise Cut(str(error) or type(error).__name__) from error
        if not self._settled and response.status == _WANTS_HTTPS and self._scheme == "http":
            response.close()
            raise self.down("it does not speak plain HTTP", where)
        self._settled = True
        return response

    def down(self, why: str, where: str = "") -> Unavailable:
        return Unavailable(
            f"the registry {where or self.endpoint.host} cannot be reached",
            why,
            "Check that it runs, its name and port, and the network",
        )


def _reason(error: BaseException) -> str:
    """Why there is no connection, in the system's words rather than asyncio's ("Connect call failed ('::1', 1)")."""
    text = str(getattr(error, "strerror", "") or error)
    if "Connect call failed" not in text:
        return text
    known = getattr(error, "errno", None)
    numbers = [known] if known else [int(number) for number in re.findall(r"\[Errno (\d+)\]", text)]
    return ", ".join(dict.fromkeys(os.strerror(number).lower() for number in numbers)) or text


def _certificate_wanted(error: BaseException) -> str:
    """A registry that wants to know us ends the connection after the handshake (TLS 1.3)."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and any(word in (cause.reason or str(cause)) for word in _NOT_KNOWN):
            return "it asks for a client certificate, or does not take ours (certs.d/HOST/client.cert and client.key)"
        cause = cause.__cause__ or cause.__context__
    return ""
