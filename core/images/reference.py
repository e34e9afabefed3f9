"""Image references: ``[registry/]repository[:tag][@digest]`` as Docker writes and reads them.

Grammar: github.com/distribution/reference. ``busybox`` means ``docker.io/library/busybox:latest``; the first component
is a registry only where it has a dot, a colon or a capital letter, or is ``localhost``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from core.errors import InvalidArgument

HUB = "docker.io"
HUB_HOST = "registry-1.docker.io"
_LONGEST_NAME = 255  # characters of registry and repository together

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = re.compile(rf"{_HOST}\Z")
_PATH = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_ID = re.compile(r"[0-9a-f]{64}\Z")


def is_digest(text: object) -> bool:
    """True for ``sha256:`` and 64 lower-case hex digits: the only form ever used in a path or a URL (CVE-2024-3727)."""
    return isinstance(text, str) and _DIGEST.match(text) is not None


@dataclass(frozen=True)
class Reference:
    """A parsed reference. ``tag`` and ``digest`` are empty where not given; :func:`parse` sets a default tag."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository: ``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def version(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def host(self) -> str:
        """host[:port] that serves the registry API."""
        return HUB_HOST if self.domain == HUB else self.domain

    @property
    def local(self) -> bool:
        """True for registries on this machine, which may speak plain HTTP (as Docker allows 127.0.0.0/8)."""
        return is_local(self.domain)

    @property
    def familiar(self) -> str:
        """The short form for people: ``busybox:latest``."""
        path = self.path.removeprefix("library/") if self.domain == HUB else self.path
        base = path if self.domain == HUB else f"{self.domain}/{path}"
        return base + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _has_port(domain: str) -> bool:
    return domain.rpartition(":")[2].isdigit() and not domain.endswith("]")


def is_local(domain: str) -> bool:
    """True for a registry (host[:port]) on this machine."""
    return is_loopback(domain.rpartition(":")[0] if _has_port(domain) else domain)


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and addresses in 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def reaches_us(host: str) -> bool:
    """True for whatever a connection takes for this machine alone: loopback in any notation, and no address at all."""
    name = host.strip("[]").rstrip(".").lower()
    if is_loopback(name) or name.endswith((".localhost", "localhost.localdomain")):
        return True
    try:
        address = ipaddress.ip_address(socket.inet_aton(name)) if ":" not in name else ipaddress.ip_address(name)
    except (OSError, ValueError):
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _refuse(text: str, why: str) -> InvalidArgument:
    fix = "Write it like debian:12 or registry:5000/team/app:1"
    return InvalidArgument(f"invalid image reference {text!r}", why, fix)


def _split_domain(rest: str) -> tuple[str, str]:
    first, slash, path = rest.partition("/")
    if not slash or not (any(mark in first for mark in ".:[") or first == "localhost" or first != first.lower()):
        domain, path = HUB, rest
    else:
        domain = HUB if first == "index.docker.io" else first
    if domain == HUB and "/" not in path:
        path = f"library/{path}"
    return domain, path


def parse_domain(text: str) -> str:
    """The registry that a person names: ``registry.lan:5000``; "" and docker's longer names for it are Docker Hub.

    :raises InvalidArgument: not a host name with an optional port
    """
    host = text.strip().removeprefix("https://").removeprefix("http://").partition("/")[0]
    if host in ("", "index.docker.io", HUB_HOST, "hub.docker.com"):
        return HUB
    if not _DOMAIN.match(host):
        raise InvalidArgument(
            f"invalid registry {text!r}", "it is not a host name, with a port or without", "Write it like a.lan:5000"
        )
    return host


def parse_repository(text: str) -> Reference:
    """A reference without tag and digest.

    :raises InvalidArgument: it has one, or is none
    """
    host = text.strip().rstrip("/")
    port = "." in host and host.rpartition(":")[2].isdigit()
    if "/" not in host and (port or text.endswith("/") or is_local(host)):
        raise InvalidArgument(f"{text!r} names a registry", "a repository was asked for", f"Write it like {host}/NAME")
    found = parse(text)
    if found.digest or (found.tag and text.endswith(f":{found.tag}")):
        raise InvalidArgument(f"{text!r} names one image", "a repository was asked for", "Leave the tag out")
    return Reference(found.domain, found.path)


def parse(text: str) -> Reference:
    """Read a reference; where neither tag nor digest is given the tag is ``latest``.

    :raises InvalidArgument: the rule that is broken is in ``why``
    """
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _refuse(text, "a digest is sha256: and 64 lower-case hex digits")
    head, colon, tag = rest.rpartition(":")
    if colon and "/" not in tag:
        rest = head
        if not _TAG.match(tag):
            raise _refuse(text, "a tag has at most 128 of [a-zA-Z0-9_.-] and does not start with '.' or '-'")
    else:
        tag = ""
    if _ID.match(rest):
        raise _refuse(text, "64 hex digits are an image's id, not a name")
    domain, path = _split_domain(rest)
    if not _DOMAIN.match(domain):
        raise _refuse(text, f"{domain!r} is not a host name with an optional port")
    if not _PATH.match(path):
        raise _refuse(text, "a repository has lower-case letters, digits and single . _ - between them")
    if len(domain) + 1 + len(path) > _LONGEST_NAME:
        raise _refuse(text, f"the name has more than {_LONGEST_NAME} characters")
    return Reference(domain, path, tag if tag or digest else "latest", digest)


def parse_tag(text: str) -> Reference:
    """A name that an image is to get here: one with a digest would claim what nobody has checked.

    :raises InvalidArgument:
    """
    found = parse(text)
    if found.digest:
        raise _refuse(text, "a digest comes from a registry; a name given here ends with a tag")
    return found


def is_bare(text: str) -> bool:
    """Does it name a repository only, without tag and digest?"""
    return "@" not in text and ":" not in text.rpartition("/")[2]
