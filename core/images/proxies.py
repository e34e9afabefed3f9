"""Proxies as the environment names them: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``, in either case.

Read here and not by aiohttp, whose way of reading them also sends what is in ``~/.netrc``. ``NO_PROXY`` as in Go's
``httpproxy``: ``*``, host names and all below them, addresses, networks, each with an optional port.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from core.errors import InvalidArgument, Unsupported
from core.images.reference import is_loopback

NONE = "none"
_SOCKS = ("socks5", "socks5h")
KINDS = ("http", "https", *_SOCKS)


def find(url: str, own: str = "") -> str | None:
    """The proxy for ``url``; None: directly. This machine is never asked for by way of another.

    :param own: what the settings of the registry say: a proxy, or ``none``
    :raises Unsupported: a kind of proxy that is neither HTTP nor SOCKS 5
    :raises InvalidArgument: one whose host or port is none
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if own:
        return None if own == NONE else _checked(own, host)
    if is_loopback(host):
        return None
    found = _variable("https_proxy" if parts.scheme == "https" else "http_proxy") or _variable("all_proxy")
    if not found or _excluded(host, parts.port or (443 if parts.scheme == "https" else 80)):
        return None
    if "://" not in found:
        found = f"http://{found}"
    kind = found.partition("://")[0].lower()
    if kind not in KINDS:
        raise Unsupported(
            f"proxies of the kind {kind!r} are not supported",
            f"the environment names one for {host}",
            "Name one of the kind http, https or socks5 in HTTPS_PROXY, or exclude the registry by NO_PROXY",
        )
    return _checked(found, host)


def _checked(proxy: str, host: str) -> str:
    try:
        parts = urlsplit(proxy)
        if parts.hostname and parts.port != 0:
            return proxy
    except ValueError:
        pass  # its text may have a part of the password
    raise InvalidArgument(
        f"the proxy for {host} has an address that is none",
        "its host or its port is missing or malformed",
        "Write it like socks5://proxy.lan:1080, special characters of a password as %XX",
    )


def over_http(proxy: str | None) -> str | None:
    """What aiohttp is told; by a SOCKS proxy it goes without knowing."""
    return None if is_socks(proxy) else proxy


def is_socks(proxy: str | None) -> bool:
    return bool(proxy) and urlsplit(proxy).scheme in _SOCKS


def shown(proxy: str) -> str:
    """A proxy without its password."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper()) or ""


def _excluded(host: str, port: int) -> bool:
    for word in _variable("no_proxy").split(","):
        word = word.strip().lower()
        if word == "*":
            return True
        name, colon, number = word.rpartition(":")
        if colon and number.isdigit() and (":" not in name or name.endswith("]")):
            if int(number) != port:
                continue
            word = name
        if word and _matches(host.lower(), word.strip("[]")):
            return True
    return False


def _matches(host: str, word: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        bare = word.removeprefix("*").removeprefix(".")
        return host.endswith(f".{bare}") or (host == bare and not word.startswith((".", "*")))
    try:
        return address in ipaddress.ip_network(word, strict=False)
    except ValueError:
        return False
