"""Platforms as people write them: ``linux/arm64``, ``arm64``, ``linux/arm/v7`` (containerd's names and aliases)."""

from __future__ import annotations

import re

from core.errors import InvalidArgument, NoPlatform
from core.images.manifest import Platform, host_platform
from core.model import Image

_PART = re.compile(r"[A-Za-z0-9_.-]+")
_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "plan9", "wasi", "android")
_ALIASES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "mips64el": "mips64le",
    "mipsel": "mipsle",
}
_USUAL = {("arm64", "v8"): "", ("amd64", "v1"): "", ("arm", ""): "v7"}


def parse_platform(text: str) -> Platform:
    """:raises InvalidArgument: not a platform"""
    parts = text.strip().lower().split("/")
    if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidArgument(
            f"invalid platform {text!r}", "it is not OS/ARCHITECTURE[/VARIANT]", "Write it like linux/arm64"
        )
    host = host_platform()
    if len(parts) == 1:
        if parts[0] in _SYSTEMS:
            return Platform(parts[0], host.architecture, host.variant)
        parts = [host.os, *parts]
    name, _, variant = _ALIASES.get(parts[1], parts[1]).partition("/")
    if len(parts) == 3:
        variant = parts[2]
    return Platform(parts[0], name, _USUAL.get((name, variant), variant))


def same(wanted: Platform, os: str, architecture: str, variant: str) -> bool:
    """Whether an image made for the latter runs as ``wanted``: variants count where both are named."""
    variant = _USUAL.get((architecture, variant), variant) if variant else ""
    if (os, architecture) != (wanted.os, wanted.architecture):
        return False
    return not variant or not wanted.variant or variant <= wanted.variant


def of_image(image: Image) -> Platform:
    """What an image is made for."""
    return Platform(image.os, image.architecture, _USUAL.get((image.architecture, image.variant), image.variant))


def check(text: str, reference: str, os: str, architecture: str, variant: str) -> None:
    """That an image is for the platform asked for; nothing where none was.

    :raises NoPlatform: it is another one, as Docker has it: `run` then pulls the right one
    :raises InvalidArgument: ``text`` is no platform
    """
    if text and not same(wanted := parse_platform(text), os, architecture, variant):
        raise NoPlatform(
            f"no image {reference} for {wanted}",
            f"the one that is here is for {Platform(os, architecture, variant)}",
            f"Fetch it with: wharf pull --platform {wanted} {reference}",
        )
