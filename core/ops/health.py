"""The health check that a container has: the user's words over the image's, and Docker's defaults below both."""

from __future__ import annotations

import math

from core.errors import InvalidArgument
from core.model import Healthcheck

_EVERY, _LONGEST, _RETRIES = 30.0, 30.0, 3
EVERY_AT_FIRST = 5.0  # in the start period
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
    interval = own.interval or _of_image(theirs.interval) or _EVERY
    check = Healthcheck(
        test=_command(test),
        interval=interval,
        timeout=own.timeout or theirs.timeout or _LONGEST,
        start_period=own.start_period or theirs.start_period,
        retries=own.retries or theirs.retries or _RETRIES,
        start_interval=own.start_interval or _of_image(theirs.start_interval) or min(EVERY_AT_FIRST, interval),
    )
    _checked(check.interval)
    _checked(check.start_interval)
    _checked(check.timeout)
    if check.start_period:
        _checked(check.start_period)
    if check.retries < 0:
        raise _bad(f"{check.retries} retries are less than none")
    return check


def _of_image(interval: float) -> float:
    return max(_checked(interval), _LEAST_OF_IMAGE) if interval else 0.0


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
