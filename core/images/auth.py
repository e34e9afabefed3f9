"""Credentials for registries: where they come from, and to whom they may go.

``~/.docker/config.json`` holds them per registry (docker login). They are sent to the registry's own host, or to the
token service (realm) that it names if that one is plausibly the registry's own: a registry must not be able to have
our password sent elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from core.errors import Unauthorized
from core.images.reference import HUB, is_loopback

_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")
# Token services on other hosts than their registry.
_REALMS = {"registry-1.docker.io": "auth.docker.io", "registry.gitlab.com": "gitlab.com"}
_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


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
    """Read the header (RFC 9110, section 11.6.1; distribution, "Token Authentication")."""
    scheme, _, rest = header.strip().partition(" ")
    found = {match[0].lower(): match[1] or match[2] for match in _PARAMETER.findall(rest)}
    return Challenge(scheme.lower(), found.get("realm", ""), found.get("service", ""), found.get("scope", ""))


def find_credentials(domain: str) -> Credentials | None:
    """What ``docker login`` has stored for the registry, from ``$DOCKER_CONFIG`` or ``~/.docker``; None: anonymous."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        document = json.loads((folder / "config.json").read_text())
        entries = document.get("auths") or {}
        keys = _HUB_KEYS if domain == HUB else (domain, f"https://{domain}", f"http://{domain}")
        entry = next((entries[key] for key in keys if entries.get(key)), None)
        return _read(entry) if entry else None
    except (OSError, ValueError, AttributeError, TypeError):
        return None  # absent or not ours to judge: a registry that wants more says so


def _read(entry: dict[str, str]) -> Credentials | None:
    try:
        user, _, password = base64.b64decode(entry.get("auth", "")).decode().rstrip("\0").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, password = user or entry.get("username", ""), password or entry.get("password", "")
    token = entry.get("identitytoken", "")
    return Credentials(user, password, token) if user or token else None


def check_realm(realm: str, registry: str, *, plain: bool) -> bool:
    """May the token service be asked, and may it see credentials?

    :param registry: host[:port] that named it; ``plain`` where that one is spoken to without TLS
    :returns: True where it is the registry's own, so that credentials may go to it
    :raises Unauthorized: it must not be asked at all
    """
    parts = urlsplit(realm)
    host, registry_host = parts.hostname or "", urlsplit(f"//{registry}").hostname or ""
    own = host == registry_host or _REALMS.get(registry_host) == host or _akin(host, registry_host)
    # In clear only where the registry itself is: else whoever is on the way reads the token. And a registry out there
    # has no business to make us call services on this machine.
    clear = parts.scheme == "http" and plain and own
    if not host or not (parts.scheme == "https" or clear) or (is_loopback(host) and not is_loopback(registry_host)):
        raise Unauthorized(
            f"the registry {registry} asks for a token from {realm[:200]!r}",
            "that is not a place where it may send us",
            "Check the registry's configuration (its token realm)",
        )
    return own


def _akin(host: str, registry: str) -> bool:
    """True where one name lies below the other (``auth.example.org`` is not below ``example.com``)."""
    return host.endswith(f".{registry}") or (registry.endswith(f".{host}") and host.count(".") >= 1)
