"""Rate and time left of a transfer, from its reports."""

from __future__ import annotations

from core.model import LayerProgress, Pace, PullProgress, Speed


def report(*layers: tuple[str, str, int, int]) -> PullProgress:
    return PullProgress("x", tuple(LayerProgress(*layer) for layer in layers))


def test_rate_and_time_left() -> None:
    pace = Pace()
    assert pace.take(report(("a", "downloading", 0, 1000)), 10.0) == Speed(0, 1000)
    assert pace.take(report(("a", "downloading", 200, 1000)), 12.0) == Speed(200, 1000, 100.0, 8.0)


def test_what_was_there_before_counts_for_no_rate() -> None:
    """A part that is resumed, a layer that exists."""
    pace = Pace()
    pace.take(report(("a", "downloading", 900, 1000), ("b", "exists", 500, 500)), 0.0)
    assert pace.take(report(("a", "downloading", 950, 1000), ("b", "exists", 500, 500)), 1.0) == Speed(
        950, 1000, 50.0, 1.0
    )


def test_unpacking_does_not_go_back() -> None:
    pace = Pace()
    pace.take(report(("a", "downloading", 1000, 1000), ("b", "downloading", 0, 1000)), 0.0)
    assert pace.take(report(("a", "unpacking", 10, 1000), ("b", "downloading", 500, 1000)), 1.0) == Speed(
        1500, 2000, 500.0, 1.0
    )


def test_load_counts_what_is_unpacked() -> None:
    pace = Pace()
    pace.take(report(("a", "unpacking", 0, 100)), 0.0)
    assert pace.take(report(("a", "unpacking", 50, 100)), 1.0) == Speed(50, 100, 50.0, 1.0)


def test_a_line_that_stands_still_has_no_end() -> None:
    pace = Pace()
    for second in range(20):
        speed = pace.take(report(("a", "downloading", min(second, 3) * 100, 1000)), float(second))
    assert speed == Speed(300, 1000, 0.0, None)


def test_old_speed_is_forgotten() -> None:
    pace = Pace()
    for second in range(40):
        speed = pace.take(
            report(("a", "downloading", second * 1000 if second < 10 else 10_000 + second, 10**6)), second
        )
    assert speed.rate == 1.0


def test_next_image_of_an_archive_begins_anew() -> None:
    pace = Pace()
    pace.take(report(("a", "unpacking", 0, 100)), 0.0)
    pace.take(report(("a", "unpacking", 100, 100)), 1.0)
    assert pace.take(report(("b", "unpacking", 0, 50)), 1.1).rate is None
