"""How one line of a table is painted: header, cursor, marks, cells, matches of the filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.segment import Segment
from textual.strip import Strip

from tui.text import clean, fit, fit_reference, fit_words, folded, glyphs, width
from tui.widgets.columns import GUTTER, SCROLLBAR, Cell, Row, Slot
from tui.widgets.palette import Palette
from tui.widgets.sparkline import spark

MATCH = "text on warning"


@dataclass(frozen=True)
class Look:
    """All that decides how one line looks: equal looks need no repaint."""

    row: Row | None
    cursor: bool
    marked: bool
    focused: bool
    scroll: tuple[str, str]  # the scrollbar's sign and its style words


def paint_header(palette: Palette, slots: Sequence[Slot], sort: tuple[str, bool] | None, total: int) -> Strip:
    """The labels; ``sort`` is the sorted column and whether it runs downwards."""
    style = palette.style("text-muted")
    segments: list[Segment] = []
    at = 0
    for slot in slots:
        segments.append(Segment(" " * (slot.x - at), style))
        label, shown = slot.column.label, style
        if sort and sort[0] == slot.column.key:
            sign = glyphs().sort_down if sort[1] else glyphs().sort_up
            label = fit(label, max(0, min(width(label), slot.width - 2))) + " " + sign
            shown = palette.style("text-accent bold")
        segments.append(Segment(fit(label, slot.width, slot.column.align), shown))
        at = slot.x + slot.width
    return Strip(segments).adjust_cell_length(total, style)


def paint_row(palette: Palette, slots: Sequence[Slot], look: Look, row: Row, needle: str, total: int) -> Strip:
    """One row in ``total`` cells, ``needle`` (folded) highlighted."""
    dress, backdrop = _dress(palette, look)
    style, signs = palette.style, glyphs()
    base = style(dress(row.style), backdrop)
    segments = [
        Segment(signs.cursor if look.cursor else " ", style(dress("primary bold"), backdrop)),
        Segment((signs.mark if look.marked else " ") + " ", style(dress("accent bold"), backdrop)),
    ]
    at = GUTTER
    for slot in slots:
        if slot.x > at:
            segments.append(Segment(" " * (slot.x - at), base))
        cell = row.cells[slot.index]
        words = (cell.style or row.style) if isinstance(cell, Cell) else row.style
        text, drawn = _contents(cell, slot)
        if needle and needle in (low := folded(text)):
            segments += _matches(palette, text, low, needle, dress(words), backdrop)
        else:
            segments.append(Segment(text, style(dress(words), backdrop)))
        if drawn:
            segments.append(Segment(drawn, style(dress(words), backdrop)))
        at = slot.x + slot.width
    edge = total - SCROLLBAR
    if edge > at:
        segments.append(Segment(" " * (edge - at), base))
    sign, words = look.scroll
    segments.append(Segment(sign, style(words)))
    return Strip(segments).adjust_cell_length(total, base)


def _dress(palette: Palette, look: Look) -> tuple[Callable[[str], str], str]:
    """What the line does to the style words of its cells, and the colour behind them."""
    if not look.cursor:
        return lambda words: words, ""
    if palette.colourless:
        return lambda words: words + (" reverse" if look.focused else " underline"), ""
    if palette.background.ansi is None:
        return lambda words: words, "primary-muted" if look.focused else "boost"
    # The terminal's own colours cannot be blended, and of two of them nobody knows whether one can be read on the
    # other: the whole line is of one colour, the one pair that the theme has for it.
    if look.focused:
        return lambda words: "block-cursor-foreground" + " bold" * ("bold" in words), "block-cursor-background"
    return lambda words: words + " underline", ""


def _contents(cell: str | Cell, slot: Slot) -> tuple[str, str]:
    """The cell's text fitted, and its sparkline where there is room for both."""
    text, drawn = clean(cell if isinstance(cell, str) else cell.text), ""
    if isinstance(cell, Cell) and cell.spark and slot.width - width(text) > 2:
        drawn = " " + spark(cell.spark, min(cell.spark_width, slot.width - width(text) - 1), cell.spark_max)
    if slot.column.cut == "reference":
        text = fit_reference(text, slot.width - len(drawn))
    elif slot.column.cut == "words":
        text = fit_words(text, slot.width - len(drawn))
    return fit(text, slot.width - len(drawn), slot.column.align), drawn


def _matches(palette: Palette, text: str, low: str, needle: str, words: str, backdrop: str) -> list[Segment]:
    style = palette.style(words, backdrop)
    match = palette.style("bold underline" if palette.colourless else MATCH)
    segments: list[Segment] = []
    at = 0
    while (found := low.find(needle, at)) >= 0:
        if found > at:
            segments.append(Segment(text[at:found], style))
        at = found + len(needle)
        segments.append(Segment(text[found:at], match))
    if at < len(text):
        segments.append(Segment(text[at:], style))
    return segments
