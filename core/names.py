"""Names and ids: what is allowed, and how one is made up where the user gives none."""

from __future__ import annotations

import fnmatch
import re

from core.errors import InvalidArgument

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_MANNER = "able bright calm deft early fair glad hardy keen level merry neat open proud quick ready sound true warm"
DOCKER_HUB = ("docker.io/library/", "docker.io/")  # what stands before names that have no registry in them
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


def is_interface_name(text: str) -> bool:
    """May a network interface of one's own be called so? IFNAMSIZ has 16 bytes, the last is 0; ``all`` and ``default``
    are folders of settings (/proc/sys/net/ipv4/conf), ``%`` is a pattern to the kernel."""
    fits = 1 <= len(text.encode()) <= 15 and not any(c.isspace() or c in "/:%" or not c.isprintable() for c in text)
    return fits and text not in (".", "..", "lo", "all", "default")


def make_id() -> str:
    """64 random hex digits. Never all digits in its first 12, so that a short id is never taken for a number."""
    import secrets  # late: its own imports take longer than all else here, and few verbs make a name

    while True:
        new = secrets.token_hex(32)
        if not new[:12].isdigit():
            return new


def make_name() -> str:
    """A pronounceable name such as ``calm_bollard``; the caller checks that it is free."""
    import secrets

    return f"{secrets.choice(_MANNER.split())}_{secrets.choice(_THING.split())}"


def has_label(labels: dict[str, str], wanted: str) -> bool:
    """``KEY`` or ``KEY=VALUE``."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def natural(text: str) -> list[tuple[int, str]]:
    """For sorting: 1.9 comes before 1.10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", text)]


def architecture(machine: str) -> str:
    """What images call a machine that ``uname -m`` calls ``machine``."""
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}.get(
        machine, machine
    )


def familiar(reference: str) -> str:
    """``docker.io/library/busybox:1`` as people write it: ``busybox:1``."""
    return next((reference[len(start) :] for start in DOCKER_HUB if reference.startswith(start)), reference)


def name_matches(name: str, pattern: str) -> bool:
    """Whether a full reference (``docker.io/library/busybox:1``) fits; ``*`` and ``?`` stop at a slash.

    The pattern is that of Docker's ``reference`` filter (distribution/reference, FamiliarMatch): against the familiar
    name with its tag, and without.
    """
    text = familiar(name)
    bare = text.partition("@")[0]
    if ":" in bare.rpartition("/")[2]:
        bare = bare.rpartition(":")[0]
    return any(_fits(candidate, familiar(pattern)) for candidate in (text, bare))


def _fits(text: str, pattern: str) -> bool:
    one, other = text.split("/"), pattern.split("/")
    return len(one) == len(other) and all(map(fnmatch.fnmatchcase, one, other))
