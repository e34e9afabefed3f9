"""The health check that a container has: the user's words over the image's, and Docker's defaults below both."""

from __future__ import annotations

import math

from core.errors import InvalidArgument
from core.model import Healthcheck

_EVERY, _LONGEST, _RETRIES = 30.0, 30.0, 3
_LEAST = 0.001  # seconds, as Docker
_LEAST_OF_IMAGE = 1.0  # seconds: an image must not have the host fork all the time
_MOST = 10 * 365 * 86400.0


def effective(user: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    """What the monitor does; None where there is no check, or either says ``NONE``.

    :raises InvalidArgument: a value that no check can have
    """
    own, theirs = user or Healthcheck(), image or Healthcheck()
    test = own.test or theirs.test
    if not test:
        if user is not None:
            raise _bad("it names no command, and the image has no check")
        return None
    if test[0] == "NONE":
        return None
    check = Healthcheck(
        test=_command(test),
        interval=own.interval or (max(_checked(theirs.interval), _LEAST_OF_IMAGE) if theirs.interval else _EVERY),
        timeout=own.timeout or theirs.timeout or _LONGEST,
        start_period=own.start_period or theirs.start_period,
        retries=own.retries or theirs.retries or _RETRIES,
    )
    _checked(check.interval)
    _checked(check.timeout)
    if check.start_period:
        _checked(check.start_period)
    if check.retries < 0:
        raise _bad(f"{check.retries} retries are less than none")
    return check


def _command(test: tuple[str, ...]) -> tuple[str, ...]:
    if test[0] not in ("CMD", "CMD-SHELL"):
        raise _bad(f"{test[0][:100]!r} is not NONE, CMD or CMD-SHELL")
    if not any(test[1:]):
        raise _bad(f"{test[0]} names no command")
    if any("\0" in word for word in test):
        raise _bad("its command holds a zero byte")
    return ("CMD-SHELL", " ".join(test[1:])) if test[0] == "CMD-SHELL" else test


def _checked(seconds: float) -> float:
    if not math.isfinite(seconds) or not _LEAST <= seconds <= _MOST:
        raise _bad(f"{seconds:g} s is not between 1 ms and 10 years")
    return seconds


def _bad(why: str) -> InvalidArgument:
    return InvalidArgument(
        "invalid health check", why, "Give another by --health-cmd and its options, or none by --no-healthcheck"
    )
