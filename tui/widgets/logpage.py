"""From log lines to the rows of a page: wrapped or cut, with time, sign of the stream, and matches highlighted."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from rich.cells import cell_len

from core.model import LogLine
from tui.text import folded, glyphs, window
from tui.widgets.logline import Shown, clock, show

MATCH = "text on warning"
_CACHED = 512  # lines
_MOST_ROWS = 500  # of one wrapped line

Pieces = tuple[tuple[str, str], ...]
"""One row: (text, style words) from left to right."""


@dataclass(frozen=True)
class PageStyle:
    """How rows are made; a change makes all of them anew."""

    width: int
    wrap: bool = False
    timestamps: bool = True
    left: int = 0  # cells scrolled to the right, where lines are cut
    readable: bool = True
    needle: str = ""  # folded

    @property
    def prefix(self) -> int:
        """Cells before the text: the stream's sign, and the time where it is shown."""
        return 14 if self.timestamps else 1

    @property
    def room(self) -> int:
        """Cells for the text itself."""
        return max(1, self.width - self.prefix)


@dataclass(frozen=True)
class PageRow:
    """What one screen line shows; equal rows need no repaint."""

    line: LogLine
    sub: int  # which row of a wrapped line
    backdrop: str
    scroll: tuple[str, str]
    style: PageStyle


class RowMaker:
    """Makes rows of lines and remembers those of the last few hundred."""

    def __init__(self) -> None:
        self._style = PageStyle(80)
        self._rows: OrderedDict[LogLine, tuple[Pieces, ...]] = OrderedDict()

    @property
    def style(self) -> PageStyle:
        return self._style

    @style.setter
    def style(self, style: PageStyle) -> None:
        if style != self._style:
            self._style = style
            self._rows.clear()

    def rows(self, line: LogLine) -> tuple[Pieces, ...]:
        """The rows of a line: one, or several where it is wrapped."""
        found = self._rows.get(line)
        if found is None:
            found = self._rows[line] = self._make(line)
            if len(self._rows) > _CACHED:
                self._rows.popitem(last=False)
        return found

    def _make(self, line: LogLine) -> tuple[Pieces, ...]:
        style = self._style
        shown = show(line, readable=style.readable)
        pieces = _pieces(shown, style.needle)
        head = ((glyphs().stderr, "warning"),) if line.stream == "stderr" else ((" ", ""),)
        if not style.wrap:
            prefix = (*head, (clock(line.time) + " ", "text-muted")) if style.timestamps else head
            return ((*prefix, *_slice(pieces, shown.text, style.left, style.room, shown.words)),)
        rows: list[Pieces] = []
        for number, part in enumerate(_wrap(pieces, style.room)):
            if style.timestamps:
                time = clock(line.time) + " " if number == 0 else " " * 13
                rows.append((*head, (time, "text-muted"), *part))
            else:
                rows.append((*head, *part))
        return tuple(rows)


def _pieces(shown: Shown, needle: str) -> list[tuple[str, str]]:
    """The whole text as (text, words), matches of ``needle`` cut out with their own words."""
    marks = _matches(shown.text, needle)
    pieces: list[tuple[str, str]] = []
    at = 0
    for start, end, words in (*shown.spans, (len(shown.text), len(shown.text), "")):
        for first, last, style in ((at, start, shown.words), (start, end, words)):
            for a, b in marks:
                if b <= first or a >= last:
                    continue
                if a > first:
                    pieces.append((shown.text[first:a], style))
                pieces.append((shown.text[max(a, first) : min(b, last)], MATCH))
                first = min(b, last)
            if last > first:
                pieces.append((shown.text[first:last], style))
        at = end
    return pieces


def _matches(text: str, needle: str) -> list[tuple[int, int]]:
    if not needle:
        return []
    low = folded(text)
    found: list[tuple[int, int]] = []
    at = low.find(needle)
    while at >= 0 and len(found) < 1000:
        found.append((at, at + len(needle)))
        at = low.find(needle, at + len(needle))
    return found


def _slice(pieces: list[tuple[str, str]], text: str, left: int, room: int, words: str) -> Pieces:
    """The cells ``left`` to ``left + room`` of a line that is cut, with a sign where something is cut off."""
    cut: list[tuple[str, str]] = []
    at = 0
    sign = glyphs().ellipsis
    for piece, style in pieces:
        cells = len(piece) if piece.isascii() else cell_len(piece)
        if at >= left + room:
            break
        if at + cells > left:
            start = max(0, left - at)
            cut.append((window(piece, start, left + room - max(at, left)), style))
        at += cells
    whole = len(text) if text.isascii() else cell_len(text)
    if whole > left + room and cut:
        last, style = cut[-1]
        kept = window(last, 0, max(0, cell_len(last) - len(sign)))
        cut[-1] = (kept, style)
        cut.append((sign, "text-muted"))
    return tuple(cut) or (("", words),)


def _wrap(pieces: list[tuple[str, str]], room: int) -> list[Pieces]:
    """All of a line in rows of ``room`` cells; after very many, the rest is left out with a sign."""
    rows: list[Pieces] = []
    row: list[tuple[str, str]] = []
    used = 0
    for piece, words in pieces:
        rest = piece
        while rest:
            fits = window(rest, 0, room - used) if rest.isascii() else _head(rest, room - used)
            if fits:
                row.append((fits, words))
                used += len(fits) if fits.isascii() else cell_len(fits)
                rest = rest[len(fits) :]
            if rest:
                rows.append(tuple(row))
                row, used = [], 0
                if not fits and room < 2:  # a wide character can never fit
                    rest = rest[1:]
                if len(rows) >= _MOST_ROWS:
                    rows[-1] = ((f"{glyphs().ellipsis} cut here", "text-muted"),)
                    return rows
    rows.append(tuple(row))
    return rows


def _head(text: str, cells: int) -> str:
    """The longest start of ``text`` that fits."""
    used = 0
    for index, character in enumerate(text):
        used += cell_len(character)
        if used > cells:
            return text[:index]
    return text
