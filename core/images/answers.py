"""What a registry's refusal means, in the engine's words.

Source: distribution-spec v1.1, "Error Codes"; Docker Hub, "Usage and rate limits" (``ratelimit-limit: 100;w=21600``).
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from core.errors import NotFound, RateLimited, Unauthorized, Unavailable, WharfError
from core.images.reference import HUB
from core.units import human_age

_LONGEST = 64 * 1024  # bytes of an error that are read
_SHOWN = 300  # characters of a stranger's text
LONGEST_PAUSE = 30.0  # seconds that somebody is made to wait without being asked
TRANSIENT = (429, 500, 502, 503, 504)


class Cut(Exception):
    """The connection broke, or the registry is overloaded: worth another try after ``pause`` seconds (0: as usual)."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


@dataclass(frozen=True)
class Subject:
    """What a request is about, for errors: the registry's name, its host, and the name of the thing."""

    domain: str
    host: str
    name: str = ""  # "busybox:1"
    missing: str = ""  # what to say where it is not there
    withheld: str = ""  # the token service that was asked without credentials, as it is elsewhere


def clean(text: str) -> str:
    """A stranger's text on one line, without anything that a terminal would act on."""
    line = " ".join(text.split())
    return "".join(char for char in line if char.isprintable())[:_SHOWN]


async def read_some(response: aiohttp.ClientResponse, most: int) -> bytes:
    """A body to its end, in however many pieces it comes. :raises ValueError: it has more than ``most`` bytes"""
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > most:
            raise ValueError(f"it has more than {most} bytes")
    return bytes(data)


async def _said(response: aiohttp.ClientResponse) -> tuple[str, str]:
    """(code, message) of the first error in a refusal's body; empty where there is none."""
    try:
        document = json.loads(await read_some(response, _LONGEST))
        first = document["errors"][0]
        return clean(str(first.get("code", ""))), clean(str(first.get("message", "")))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, aiohttp.ClientError, TimeoutError):
        return "", ""


async def refusal(response: aiohttp.ClientResponse, subject: Subject) -> WharfError | Cut:
    """The error for an answer that is none of those hoped for."""
    status, reason = response.status, clean(response.reason or "")
    code, message = await _said(response)
    text = message or code
    if status == 429 and (limited := _limited(response.headers, subject, text)):
        return limited
    if status in TRANSIENT:
        return Cut(f"it answers {status} {reason}", retry_after(response.headers))
    if status == 404:
        why = f"{subject.host} says: {text}" if text else f"{subject.host} does not have it"
        return NotFound(subject.missing or f"{subject.name} is not there", why, "Check its name and tag")
    if status in (401, 403):
        return _unauthorized(status, code, text, subject)
    details = f": {text}" if text else ""
    return Unavailable(
        f"the registry {subject.host} refuses a request about {subject.name or subject.domain}",
        f"it answers {status} {reason}{details}",
        "Check that it is a registry, and its log",
    )


def _unauthorized(status: int, code: str, text: str, subject: Subject) -> Unauthorized:
    why = "it is private or does not exist" if status == 401 or code == "DENIED" else "access is denied"
    if status == 401 and not subject.name and not subject.withheld:  # it was asked for nothing but to let us in
        why = "wrong user name or password"
    if text:
        why += f" ({text})"
    fix = f"Log in with `wharf login{'' if subject.domain == HUB else f' {subject.domain}'}`, or check the name"
    if subject.withheld:
        why += f"; it wanted the password at {subject.withheld}, which has not been given it"
        fix = f'If that is right: [registries."{subject.domain}"] realms = ["{subject.withheld}"] in the settings'
    return Unauthorized(f"{subject.host} refuses access to {subject.name or subject.domain}", why, fix)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of ``Retry-After`` (RFC 9110, section 10.2.3: seconds or a date); 0: it does not say."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _number(headers: Mapping[str, str], key: str) -> tuple[int, int]:
    """(count, seconds of the window) of a rate limit header; -1: it does not say."""
    count, _, rest = headers.get(key, "").partition(";")
    window = rest.strip().removeprefix("w=")
    return (int(count) if count.strip().isdigit() else -1), (int(window) if window.isdigit() else 0)


def limits(headers: Mapping[str, str]) -> str:
    """``100 per 6 hours, 3 left`` where the registry counts; empty where it does not."""
    most, window = _number(headers, "ratelimit-limit")
    left, _ = _number(headers, "ratelimit-remaining")
    if most < 0 or left < 0:
        return ""
    return f"{most}{f' per {human_age(window)}' if window else ''}, {left} left"


def running_out(headers: Mapping[str, str]) -> str:
    """:func:`limits`, once a tenth or less is left."""
    most, left = _number(headers, "ratelimit-limit")[0], _number(headers, "ratelimit-remaining")[0]
    return limits(headers) if 0 <= left * 10 <= most else ""


def _limited(headers: Mapping[str, str], subject: Subject, text: str) -> RateLimited | None:
    """None: it is over soon, or may be; wait and try again."""
    pause, said = retry_after(headers), limits(headers)
    if pause <= LONGEST_PAUSE and _number(headers, "ratelimit-remaining")[0] != 0:
        return None
    source = clean(headers.get("docker-ratelimit-source", ""))
    parts = [said, f"counted for {source}" if source else "", text]
    when = f"Try again in {human_age(pause)}" if pause else "Try again later"
    login = f"wharf login{'' if subject.domain == HUB else f' {subject.domain}'}"
    return RateLimited(
        f"the registry {subject.host} limits how much may be pulled",
        "; ".join(part for part in parts if part) or "too many requests",
        f"{when}, log in (`{login}`), or name a mirror in the settings",
    )
