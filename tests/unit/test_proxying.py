"""A proxy that fails again and again: forked for real, on a loop whose clock runs a thousand times as fast."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.supervise import proxying
from core.supervise.loop import Loop, Timer
from core.supervise.monitor import Monitor

DEATHS = 14


class Fast(Loop):
    """Keeps for how long it was asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        self.pauses.append(seconds)
        if len(self.pauses) == DEATHS:
            self.stop()
        return super().after(seconds / 1000, action)


@pytest.fixture
def failing(tmp_path: Path) -> Any:
    """A monitor's things, with a network that cannot be entered: the proxy ends at once."""
    launch = SimpleNamespace(run_dir=str(tmp_path), uplink=str(tmp_path / "nowhere"), id="c" * 12)
    told: list[tuple[str, str]] = []
    made = SimpleNamespace(
        loop=Fast(), kept={}, launch=launch, told=told,
        give_to_launcher=lambda: None, tell=lambda action, error: told.append((action, error)),
    )  # fmt: skip
    yield made
    made.loop.close()
    for fd in made.kept.values():
        os.close(fd)


def run(failing: Any) -> list[float]:
    order: dict[str, object] = {
        "name": "own one", "protocol": "udp", "bind": ["::1", 0], "target": ["192.0.2.1", 7],
    }  # fmt: skip
    made = proxying.Proxying(cast(Monitor, failing))
    made.serve([order])
    failing.loop.run()
    made.close()
    return cast("list[float]", failing.loop.pauses)


def test_it_is_tried_ever_later_and_told_once(failing: Any) -> None:
    pauses = run(failing)
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert pauses == sorted(pauses)
    assert pauses[-3:] == [5.0] * 3
    assert [action for action, _ in failing.told] == ["proxy_fails"]
    assert "No such file" in failing.told[0][1]


def test_one_that_had_lived_is_replaced_at_once(failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxying, "_STEADY", 0.0)
    assert run(failing) == [0.1] * DEATHS
    assert failing.told == []
