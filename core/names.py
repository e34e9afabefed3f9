"""Names and ids: what is allowed, and how one is made up where the user gives none."""

from __future__ import annotations

import re
import secrets

from core.errors import InvalidArgument

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_MANNER = "able bright calm deft early fair glad hardy keen level merry neat open proud quick ready sound true warm"
_THING = "anchor barge beacon bollard buoy capstan cleat cutter derrick dory ferry hawser jetty keel ketch lugger mast"


def check_name(name: str) -> str:
    """Return ``name`` if Docker would allow it for a container.

    :raises InvalidArgument: the rule is in ``why``
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"invalid name {name!r}",
            "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at most 128 characters",
            "Choose another name",
        )
    return name


def make_id() -> str:
    """64 random hex digits. Never all digits in its first 12, so that a short id is never taken for a number."""
    while True:
        new = secrets.token_hex(32)
        if not new[:12].isdigit():
            return new


def make_name() -> str:
    """A pronounceable name such as ``calm_bollard``; the caller checks that it is free."""
    return f"{secrets.choice(_MANNER.split())}_{secrets.choice(_THING.split())}"
