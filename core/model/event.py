"""Words about what happened."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """One change. ``kind``: container, image, network; ``action``: Docker's words (create, start, die …)."""

    time: float  # seconds since the epoch
    kind: str
    action: str
    id: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LogLine:
    """One line of a container's output (or part of one: ``partial``)."""

    time: str  # RFC 3339 with nanoseconds, UTC
    stream: str  # stdout or stderr
    text: str
    partial: bool = False
