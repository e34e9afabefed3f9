"""Sparkline, meters, filter bar, status bar, pull progress."""

from __future__ import annotations

import pytest
from rich.color import ColorType
from textual.app import App, ComposeResult
from textual.geometry import Region

from core.model import LayerProgress, PullProgress, Speed
from tui.text import ASCII, UNICODE, use_glyphs
from tui.text import width as cells
from tui.widgets.filterbar import FilterBar
from tui.widgets.linewidget import LineWidget, thumb
from tui.widgets.meter import Meter, bar
from tui.widgets.progress import PullView, total_share
from tui.widgets.sparkline import Sparkline, band, spark
from tui.widgets.statusbar import StatusBar


class SmallApp(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[object, ...]] = []

    def compose(self) -> ComposeResult:
        yield Meter("memory")
        yield Sparkline(maximum=10)
        yield PullView()
        yield FilterBar()
        yield StatusBar()

    def on_filter_bar_changed(self, event: FilterBar.Changed) -> None:
        self.said.append(("changed", event.purpose, event.text))

    def on_filter_bar_submitted(self, event: FilterBar.Submitted) -> None:
        self.said.append(("submitted", event.purpose, event.text))

    def on_filter_bar_cancelled(self, event: FilterBar.Cancelled) -> None:
        self.said.append(("cancelled", event.purpose, event.text))

    def on_status_bar_pressed(self, event: StatusBar.Pressed) -> None:
        self.said.append(("pressed", event.index))


def shown(widget: LineWidget) -> list[str]:
    return [widget.render_line(y).text for y in range(widget.size.height)]


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_pictures_have_their_width(glyphs: object) -> None:
    use_glyphs(glyphs)  # type: ignore[arg-type]
    try:
        for room in range(12):
            for values in ([], [0.0], [1.0, 2.0, 3.0], [float(i) for i in range(100)]):
                assert cells(spark(values, room)) == room
            for share in (-1.0, 0.0, 0.001, 0.5, 0.999, 1.0, 7.0):
                assert cells(bar(share, room)) == room
    finally:
        use_glyphs(UNICODE)


def test_spark_shows_the_newest_at_the_right() -> None:
    assert spark([0, 0, 4, 4], 2, 4) == "⠀⣿"
    assert spark([4], 2, 4) == "⠀⢸"
    assert spark([0.001], 1, 100)[-1] != "⠀"  # more than nothing shows


def test_bands_and_bar() -> None:
    assert [band(share, (0.7, 0.9)) for share in (0.0, 0.69, 0.7, 0.9, 2.0)] == [
        "success", "success", "warning", "error", "error",
    ]  # fmt: skip
    assert bar(0.5, 4) == "━━──"
    assert bar(0.001, 4)[0] != "─"


def test_the_thumb_touches_an_end_only_at_the_end() -> None:
    for total in (11, 100, 10_000_000):
        assert thumb(10, 0, total)[0] == 0
        assert thumb(10, total - 10, total)[1] == 10
        if total > 11:
            assert thumb(10, 1, total)[0] > 0
            assert thumb(10, total - 11, total)[1] < 10


async def test_meter_and_sparkline_repaint_only_when_they_look_different() -> None:
    app = SmallApp()
    async with app.run_test(size=(80, 24)) as pilot:
        meter, line = app.query_one(Meter), app.query_one(Sparkline)
        meter.set(64 * 1024**2, 128 * 1024**2)
        line.push(5.0)
        await pilot.pause()
        assert "64.0M /  128M" in shown(meter)[0] or "64.0M / 128M" in shown(meter)[0]
        before = meter.repaints
        meter.set(64 * 1024**2 + 1, 128 * 1024**2)
        assert meter.repaints == before
        meter.set(100 * 1024**2, 128 * 1024**2)
        assert meter.repaints > before
        meter.set(5.0, 0.0, "no limit")
        assert "no limit" in shown(meter)[0]
        before = line.repaints
        line.set_values([5.0])
        assert line.repaints == before


async def test_filter_bar() -> None:
    app = SmallApp()
    async with app.run_test(size=(80, 24)) as pilot:
        bar_ = app.query_one(FilterBar)
        assert not bar_.is_open
        bar_.open("rows", "ab")
        await pilot.press("c")
        await pilot.pause()
        assert app.said == [("changed", "rows", "abc")]
        await pilot.press("enter")
        assert not bar_.is_open
        assert app.said[-1] == ("submitted", "rows", "abc")
        bar_.open("log")
        await pilot.press("x", "escape")
        assert not bar_.is_open
        assert app.said[-1] == ("cancelled", "log", "x")


async def test_status_bar_shows_what_fits_and_takes_clicks() -> None:
    app = SmallApp()
    async with app.run_test(size=(40, 24)) as pilot:
        status = app.query_one(StatusBar)
        status.set_keys([("↵", "open"), ("s", "stop"), ("r", "[/]restart"), ("z", "never fits here")])
        status.set_right("jobs 1")
        await pilot.pause()
        text = shown(status)[0]
        assert cells(text) == 40
        assert "s stop" in text
        assert "never" not in text
        assert text.rstrip().endswith("jobs 1")
        await pilot.click(status, offset=(text.index("s stop"), 0))
        assert app.said == [("pressed", 1)]


async def test_pull_progress() -> None:
    app = SmallApp()
    async with app.run_test(size=(80, 24)) as pilot:
        view = app.query_one(PullView)
        layers = tuple(LayerProgress(f"sha256:{i}" + "a" * 63, "downloading", i * 100, 1000) for i in range(3))
        view.set_progress(PullProgress("nginx[/]:1", layers), Speed())
        await pilot.pause()
        assert view.size.height == 4
        assert "nginx[/]:1" in shown(view)[0]
        before = view.repaints
        view.set_progress(PullProgress("nginx[/]:1", layers), Speed())
        assert view.repaints == before
        moved = (layers[0], LayerProgress(layers[1].digest, "done", 1000, 1000), layers[2])
        view.set_progress(PullProgress("nginx[/]:1", moved), Speed())
        assert view.repaints == before + 2  # the head and that layer
        view.set_progress(PullProgress("nginx[/]:1", moved), Speed(1200, 3000, 3 << 20, 185.0))
        assert shown(view)[0].rstrip().endswith("  3.1MB/s   3m05 left")
        assert {cells(text) for text in shown(view)} == {80}


def test_the_whole_is_weighted_by_bytes() -> None:
    done, half = LayerProgress("a", "exists", 0, 0), LayerProgress("b", "downloading", 500, 1000)
    assert total_share(PullProgress("x", (half,))) == 0.5
    assert 0.5 < total_share(PullProgress("x", (done, half))) < 0.51
    assert total_share(PullProgress("x")) == 0.0


async def test_the_terminals_own_colours_and_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    app = SmallApp()
    async with app.run_test(size=(60, 24)) as pilot:
        app.theme = "ansi-dark"
        app.query_one(Meter).set(90, 100)
        await pilot.pause()
        styles = [segment.style for segment in app.query_one(Meter).render_lines(Region(0, 0, 60, 1))[0]]
        assert all(style and style.color and style.color.type is not ColorType.TRUECOLOR for style in styles)
    monkeypatch.setenv("NO_COLOR", "1")
    app = SmallApp()
    async with app.run_test(size=(60, 24)) as pilot:
        app.query_one(Meter).set(95, 100)
        await pilot.pause()
        for segment in app.query_one(Meter).render_lines(Region(0, 0, 60, 1))[0]:
            color = segment.style and segment.style.color and segment.style.color.triplet
            assert color is None or color.red == color.green == color.blue
