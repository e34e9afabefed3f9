"""Words about registries."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FoundRepository:
    """A repository that a search has found."""

    name: str  # as one would pull it
    description: str = ""
    stars: int = 0
    official: bool = False
    automated: bool = False


@dataclass(frozen=True)
class Referrer:
    """What names an image as its subject: a signature, a bill of materials …"""

    digest: str
    kind: str  # artifact type
    size: int  # bytes of its manifest
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TagCheck:
    """What a registry has by an image's name today.

    ``status``: current, newer, gone (the tag is no more), local (never was in a registry), unknown (``why``).
    """

    reference: str
    status: str
    here: str = ""  # digest
    there: str = ""  # digest
    why: str = ""
    login: bool = False  # the registry wants (other) credentials


@dataclass(frozen=True)
class Login:
    """Who we are at a registry. ``where`` names the place of the credentials, in words; ``asked`` is False where the
    registry let us in without them, so that they were not tried."""

    registry: str
    user: str
    where: str
    asked: bool = True


@dataclass(frozen=True)
class Logout:
    """``removed``: there were credentials. ``left``: a file of another program that still has some, or empty."""

    registry: str
    removed: bool
    left: str = ""
