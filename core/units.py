"""Sizes, durations and times as people write and read them."""

from __future__ import annotations

import re
import time

from core.errors import InvalidArgument

_SIZE = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*([kmgtp]?)(?:i?b)?\s*$", re.IGNORECASE)
_RATE = re.compile(r"([0-9]*\.?[0-9]+)([kmgt]?)(?:bit)?")
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ms|us|µs|ns|h|m|s|d)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_size(text: str) -> int:
    """Bytes from ``64m``, ``1.5G``, ``512``; units are powers of 1024, as in Docker's ``--memory``.

    :raises InvalidArgument: not a size
    """
    match = _SIZE.match(text)
    if not match:
        raise InvalidArgument(f"invalid size {text!r}", "it is not a number with a unit", "Write it like 64m or 1.5g")
    count = float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " ")
    if count >= 1 << 63:
        raise InvalidArgument(f"invalid size {text[:100]!r}", "it is beyond what a kernel counts", "Write it like 64m")
    return int(count)


def size_word(count: int) -> str:
    """Bytes as one would write them in an option: ``5m``; what is no whole number of units, ``1000 bytes``."""
    for power, unit in ((3, "g"), (2, "m"), (1, "k")):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{unit}"
    return f"{count} bytes"


def parse_rate(text: str) -> int:
    """Bits per second from ``10mbit``, ``1.5gbit`` or a plain number; units are powers of 1000, as in tc(8).

    :raises InvalidArgument: not a rate
    """
    match = _RATE.fullmatch(text.lower())
    count = float(match[1]) * 1000 ** " kmgt".index(match[2] or " ") if match else 0.0
    if not 0 < count < 1 << 63:
        raise InvalidArgument(f"invalid rate {text!r}", "it is not a number with a unit", "Write it like 10mbit")
    return int(count)


def parse_duration(text: str) -> float:
    """Seconds from Go's duration format (``1m30s``, ``500ms``) or a plain number of seconds.

    :raises InvalidArgument: not a duration
    """
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if abs(seconds) < float("inf"):  # false for NaN as well
            return seconds
        raise InvalidArgument(f"invalid duration {text!r}", "it is not a number", "Write it like 10s, 1m30s or 500ms")
    parts = _DURATION.findall(text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise InvalidArgument(f"invalid duration {text!r}", "it is not like 1m30s", "Write it like 10s, 1m30s or 500ms")
    return sum(float(a) * _SECONDS[b] for a, b in parts)


def human_size(count: float, *, binary: bool = False) -> str:
    """``71.2MB`` (powers of 1000, Docker's image list) or ``64MiB`` (powers of 1024, Docker's stats)."""
    step, units = (1024.0, "B KiB MiB GiB TiB PiB") if binary else (1000.0, "B kB MB GB TB PB")
    names = units.split()
    index = 0
    while count >= step and index < len(names) - 1:
        count /= step
        index += 1
    return f"{count:.4g}{names[index]}"


def human_age(seconds: float) -> str:
    """``3 hours``, as Docker words it (units.HumanDuration)."""
    count = int(seconds)
    if count < 1:
        return "Less than a second"
    for limit, divisor, word in (
        (60, 1, "second"),
        (3600, 60, "minute"),
        (86400 * 2, 3600, "hour"),
        (86400 * 14, 86400, "day"),
        (86400 * 60, 86400 * 7, "week"),
        (86400 * 730, 86400 * 30, "month"),
    ):
        if count < limit:
            number = count // divisor
            return f"{number} {word}{'' if number == 1 else 's'}"
    return f"{count // (86400 * 365)} years"


def rfc3339(when: float) -> str:
    """UTC with nanoseconds, ``0001-01-01T00:00:00Z`` for 0 (Go's zero time, as Docker prints it)."""
    if not when:
        return "0001-01-01T00:00:00Z"
    seconds = int(when)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int((when - seconds) * 1e9):09d}Z"


def parse_when(text: str, now: float | None = None) -> float:
    """Seconds since the epoch from a time stamp (RFC 3339, or a part of it), such seconds, or an age like ``10m``.

    :raises InvalidArgument: none of these
    """
    from datetime import datetime

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(_six_digits(text)).timestamp()
    except ValueError:
        pass
    try:
        return (time.time() if now is None else now) - parse_duration(text)
    except InvalidArgument:
        raise InvalidArgument(
            f"invalid time {text!r}",
            "it is neither a time stamp nor an age",
            "Write it like 2024-05-01T12:00:00, 1714564800 or 10m",
        ) from None


def _six_digits(text: str) -> str:
    """A time stamp with its nanoseconds cut to the microseconds that Python reads."""
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}" if dot else text
