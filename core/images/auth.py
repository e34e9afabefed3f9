"""What registries ask for, and to whom credentials may go.

They are sent to the registry's own host, or to the token service (realm) that it names if that one is plausibly the
registry's own, or was named in the settings: a registry must not be able to have our password sent elsewhere.
:mod:`core.images.keyring` has where they come from.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.errors import Unauthorized
from core.images.reference import reaches_us

# Token services on other hosts than their registry.
_REALMS = {"registry-1.docker.io": "auth.docker.io", "registry.gitlab.com": "gitlab.com"}
_PART = re.compile(
    r'(?P<key>[a-zA-Z_]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))|(?P<scheme>[a-zA-Z][\w-]*)'
)


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, or an identity token in place of both."""

    user: str
    password: str
    identity_token: str = ""

    @property
    def header(self) -> str:
        """The value of ``Authorization`` (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Challenge:
    """``WWW-Authenticate`` of a registry: ``scheme`` in lower case."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge:
    """The first challenge of a header; one without a scheme where there is none."""
    return next(iter(parse_challenges([header])), Challenge(""))


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """Read the headers (RFC 9110, section 11.6.1; distribution, "Token Authentication"); one may hold several."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        for match in _PART.finditer(header):
            if match["scheme"]:
                found.append((match["scheme"].lower(), {}))
            elif found:
                found[-1][1].setdefault(match["key"].lower(), match["quoted"] or match["plain"] or "")
    return [
        Challenge(scheme, said.get("realm", ""), said.get("service", ""), said.get("scope", ""))
        for scheme, said in found
    ]


def check_realm(realm: str, registry: str, *, plain: bool, allowed: Collection[str] = ()) -> bool:
    """May the token service be asked, and may it see credentials?

    :param registry: host[:port] that named it; ``plain`` where that one is spoken to without TLS
    :param allowed: hosts (with or without a port) that the settings allow for this registry
    :returns: True where it is the registry's own, so that credentials may go to it
    :raises Unauthorized: it must not be asked at all
    """
    try:
        parts = urlsplit(realm)
    except ValueError:
        parts = urlsplit("")
    host, registry_host = parts.hostname or "", urlsplit(f"//{registry}").hostname or ""
    own = host == registry_host or _REALMS.get(registry_host) == host or _akin(host, registry_host)
    own = own or (bool(host) and (host in allowed or parts.netloc in allowed))
    # In clear only where the registry itself is: else whoever is on the way reads the token. And a registry out there
    # has no business to make us call services on this machine.
    clear = parts.scheme == "http" and plain and own
    if not host or not (parts.scheme == "https" or clear) or (reaches_us(host) and not reaches_us(registry_host)):
        raise Unauthorized(
            f"the registry {registry} asks for a token from {realm[:200]!r}",
            "that is not a place where it may send us",
            "Check the registry's configuration (its token realm)",
        )
    return own


def _akin(host: str, registry: str) -> bool:
    """True where one name lies below the other (``auth.example.org`` is not below ``example.com``)."""
    return host.endswith(f".{registry}") or (registry.endswith(f".{host}") and host.count(".") >= 1)
