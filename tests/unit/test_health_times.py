"""How long a health check waits: the user's times, the image's, Docker's."""

from __future__ import annotations

import pytest

from core.errors import InvalidArgument
from core.model import Healthcheck
from core.ops.health import effective
from core.supervise.health import Health
from core.supervise.loop import Loop

TEST = ("CMD", "true")


def first(user: Healthcheck, image: Healthcheck | None = None) -> float:
    check = effective(user, image)
    assert check is not None
    return check.start_interval


def test_the_interval_of_the_start_period() -> None:
    assert first(Healthcheck(TEST)) == 5.0
    assert first(Healthcheck(TEST, interval=0.5)) == 0.5  # never less often than later
    assert first(Healthcheck(TEST, start_interval=7.0)) == 7.0
    assert first(Healthcheck(TEST), Healthcheck(TEST, start_interval=9.0)) == 9.0
    assert first(Healthcheck(TEST), Healthcheck(TEST, start_interval=0.01)) == 1.0  # an image must not burden the host
    with pytest.raises(InvalidArgument, match="between 1 ms"):
        first(Healthcheck(TEST, start_interval=-1.0))


def test_it_holds_until_the_first_success_or_the_end_of_the_period() -> None:
    """The timer that a check sets, by the monitor's own loop."""
    loop = Loop()
    try:
        for period, started, expected in ((60.0, "starting", 2.0), (60.0, "healthy", 9.0), (0.0, "starting", 9.0)):
            check = Healthcheck(TEST, interval=9.0, timeout=1.0, start_period=period, retries=3, start_interval=2.0)
            health = Health(loop, check, lambda argv, fds: pytest.fail("not yet"), lambda *state: None)
            health.resume(started, 0)
            assert health._pause() == expected
            health.stop()
    finally:
        loop.close()
