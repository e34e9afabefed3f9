"""Answering a registry's challenge: Basic (RFC 7617), or a token of its token service for certain scopes.

Sources: distribution, "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from core.errors import Unauthorized, Unavailable
from core.images import auth
from core.images.answers import TRANSIENT, Cut, Subject, read_some, refusal
from core.images.auth import Challenge, Credentials
from core.images.endpoints import Endpoint

AGENT = "wharfinger"
_LONGEST = 1024 * 1024  # bytes of a token
Find = Callable[[], Awaitable[Credentials | None]]
Send = Callable[..., Awaitable[aiohttp.ClientResponse]]


class Authenticator:
    """Knows what to send to one endpoint. Several requests that are refused at once make one token.

    :param find: the user's credentials for the endpoint, looked for when it first asks
    :param send: (method, url, \\*\\*fields of aiohttp) → answer, by the TLS and proxy rules for that URL
    :param offline: ask for an identity token, to be kept in place of the password
    """

    def __init__(self, endpoint: Endpoint, find: Find, send: Send, *, offline: bool = False) -> None:
        self._endpoint = endpoint
        self._find = find
        self._send = send
        self._offline = offline
        self._lock = asyncio.Lock()
        self._basic = ""
        self._tokens: dict[tuple[str, ...], str] = {}
        self._credentials: Credentials | None = None
        self._looked = False
        self.withheld = ""  # the token service that the credentials were kept from
        self.identity_token = ""  # what the token service gave, with ``offline``

    def header(self, scopes: tuple[str, ...]) -> str:
        """``Authorization`` for a request that needs ``scopes``; empty: none is known to be needed."""
        return self._tokens.get(scopes, "") or self._basic

    async def answer(self, challenges: Sequence[Challenge], scopes: tuple[str, ...], sent: str, *, plain: bool) -> None:
        """Have :meth:`header` give something better than ``sent``, which was refused, where there is something.

        :param plain: the registry was asked without TLS
        :raises Unauthorized: the token service refuses us, or is not one that a registry may send us to
        :raises Unavailable: it does not work
        :raises Cut: worth another try
        """
        async with self._lock:
            if self.header(scopes) != sent:
                return  # another request has just done it
            if not self._looked:
                self._credentials, self._looked = await self._find(), True
            credentials = self._credentials
            bearer = next((one for one in challenges if one.scheme == "bearer"), None)
            if bearer:
                self._tokens[scopes] = await self._token(bearer, scopes, credentials, plain)
            elif credentials and credentials.password and any(one.scheme == "basic" for one in challenges):
                self._basic = credentials.header

    async def _token(
        self, challenge: Challenge, scopes: tuple[str, ...], credentials: Credentials | None, plain: bool
    ) -> str:
        endpoint, realm = self._endpoint, challenge.realm
        own = auth.check_realm(realm, endpoint.host, plain=plain, allowed=endpoint.settings.realms)
        place = urlsplit(realm).netloc.rpartition("@")[2]
        self.withheld = "" if own or credentials is None else place
        if not own:
            credentials = None
        fields = [("service", challenge.service)] if challenge.service else []
        fields += [("scope", scope) for scope in dict.fromkeys(_scopes(scopes, challenge.scope))]
        try:
            response = await self._ask(realm, fields, credentials)
            async with response:
                if response.status in TRANSIENT:
                    raise await refusal(response, Subject(endpoint.name, place))
                if response.status != 200:
                    raise self._refused(place, f"{response.status} {response.reason}", credentials)
                document = json.loads(await read_some(response, _LONGEST))
            token = document.get("token") or document["access_token"]
            if not isinstance(token, str):
                raise TypeError("its token is no text")
            self.identity_token = str(document.get("refresh_token") or "") if own and self._offline else ""
            return f"Bearer {token}"
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Cut(f"its token service {place} does not answer: {str(error) or type(error).__name__}") from error
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise Unavailable(
                f"the token service {place} of {endpoint.host} does not work", str(error), "Try again later"
            ) from error

    async def _ask(
        self, realm: str, fields: list[tuple[str, str]], credentials: Credentials | None
    ) -> aiohttp.ClientResponse:
        sent: dict[str, Any] = {"params": fields}
        method, headers = "GET", {}
        if credentials and credentials.identity_token:
            method = "POST"
            scope = " ".join(value for key, value in fields if key == "scope")
            service = next((value for key, value in fields if key == "service"), "")
            form = {"grant_type": "refresh_token", "client_id": AGENT, "refresh_token": credentials.identity_token}
            sent = {"data": form | {"service": service, "scope": scope}}
        elif credentials:
            headers["Authorization"] = credentials.header
            fields.append(("account", credentials.user))
        if self._offline:
            fields += [("offline_token", "true"), ("client_id", AGENT)]
        return await self._send(method, realm, headers=headers, **sent)

    def _refused(self, place: str, answer: str, credentials: Credentials | None) -> Unauthorized:
        name = self._endpoint.name
        if credentials:
            return Unauthorized(
                f"the token service {place} refuses the credentials for {name}",
                f"wrong user name or password (it answers {answer})",
                f"Log in again with `wharf login {name}`",
            )
        fix = f"Log in with `wharf login {name}`, or check the name"
        if self.withheld:
            fix = f'If it may have the password: [registries."{name}"] realms = ["{place}"] in the settings'
        return Unauthorized(f"the token service {place} of {name} refuses us", f"it answers {answer}", fix)


def _scopes(own: Iterable[str], named: str) -> Iterable[str]:
    """What we need, and what the registry says that it needs."""
    yield from own
    yield from (scope for scope in named.split(" ") if scope)
