"""From Textual's screen updates to the bytes that change the terminal: cells that already show right are skipped.

Textual resends each dirty region whole. A painter remembers each cell as the terminal shows it (character and pen),
compares, and writes only what differs. Rows with characters whose width terminals disagree about are sent whole: a
terminal that draws one wider would otherwise be off for the rest of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.strip import Strip

_JOIN = 6  # unchanged cells between two changes that are cheaper to send again than to jump over
_UNKNOWN = "\0"  # a cell that may show anything

Run = tuple[int, list[str], list[str]]
"""First cell, characters, pens: a stretch of one row."""


class Painter:
    """Knows what the terminal shows, row by row; :meth:`paint` says what to write and learns from it."""

    def __init__(self) -> None:
        self._width = 0
        self._characters: list[list[str]] = []
        self._pens: list[list[str]] = []
        self._styles: dict[Style, str] = {}

    def forget(self) -> None:
        """The terminal may show anything: the next update is sent whole."""
        self._characters = []
        self._pens = []

    def paint(self, update: LayoutUpdate | ChopsUpdate, console: Console, width: int, height: int) -> str:
        """What to write so that the terminal shows ``update``, which leaves cells outside of it alone."""
        if width != self._width or height != len(self._characters):
            self._width = width
            self._characters = [[_UNKNOWN] * width for _ in range(height)]
            self._pens = [[""] * width for _ in range(height)]
        colors = console._color_system or ColorSystem.TRUECOLOR
        out = _Writer()
        if isinstance(update, LayoutUpdate):
            for y, strips in enumerate(update.strips, update.region.y):
                self._paint_row(out, y, update.region.x, strips, colors)
        else:
            for y, x, strip in _chops(update):
                self._paint_row(out, y, x, (strip,), colors)
        return out.finish()

    def _paint_row(self, out: _Writer, y: int, x: int, strips: Iterable[Strip], colors: ColorSystem) -> None:
        if not 0 <= y < len(self._characters) or not 0 <= x < self._width:
            return
        characters, pens, plain = self._cells(strips, colors)
        del characters[self._width - x :], pens[self._width - x :]
        end = x + len(characters)
        shown, shown_pens = self._characters[y], self._pens[y]
        if shown[x:end] == characters and shown_pens[x:end] == pens:
            return
        if plain and all(map(_is_plain, shown[x:end])):
            for first, last in _changes(shown[x:end], characters, shown_pens[x:end], pens):
                out.cells(x + first, y, characters[first:last], pens[first:last])
        else:
            out.cells(x, y, characters, pens)
        shown[x:end] = characters
        shown_pens[x:end] = pens

    def _cells(self, strips: Iterable[Strip], colors: ColorSystem) -> tuple[list[str], list[str], bool]:
        """Characters and pens cell by cell ("" where a wide character goes on), and whether all are plain."""
        characters: list[str] = []
        pens: list[str] = []
        plain = True
        for strip in strips:
            for text, style, control in strip:
                if control or not text:
                    continue
                pen = self._pen(style, colors)
                if text.isascii() or all(map(_is_plain, text)):
                    characters.extend(text)
                    pens.extend([pen] * len(text))
                else:
                    plain = False
                    _spread(text, pen, characters, pens)
        return characters, pens, plain

    def _pen(self, style: Style | None, colors: ColorSystem) -> str:
        """The style as a key: SGR codes, and after a NUL the link. Equal looks have equal keys."""
        if style is None:
            return ""
        pen = self._styles.get(style)
        if pen is None:
            if len(self._styles) > 4096:  # colours of a log may be without number
                self._styles.clear()
            pen = style._ansi if style._ansi is not None else Strip.render_ansi(style, colors)
            if style._link:
                pen += f"\0id={style._link_id};{style._link}"
            self._styles[style] = pen
        return pen


class _Writer:
    """Collects what to write: jumps, pens, text; says nothing twice."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._pen = ""
        self._at = (-1, -1)

    def cells(self, x: int, y: int, characters: list[str], pens: list[str]) -> None:
        if (x, y) != self._at:
            self._parts.append(f"\x1b[{y + 1};{x + 1}H")
        first = 0
        for index in range(1, len(pens) + 1):
            if index == len(pens) or pens[index] != pens[first]:
                self._take(pens[first])
                self._parts.append("".join(characters[first:index]))
                first = index
        self._at = (x + len(characters), y)

    def _take(self, pen: str) -> None:
        if pen == self._pen:
            return
        codes, _, link = pen.partition("\0")
        if self._pen.partition("\0")[2] != link:
            self._parts.append(f"\x1b]8;{link}\x1b\\" if link else "\x1b]8;;\x1b\\")
        self._parts.append(f"\x1b[0;{codes}m" if codes else "\x1b[0m")
        self._pen = pen

    def finish(self) -> str:
        if self._pen:
            self._take("")
        return "".join(self._parts)


@lru_cache(maxsize=8192)
def _is_plain(character: str) -> bool:
    """True for a character that every terminal draws in one cell.

    Ambiguous and emoji-like ones pass only below U+2600 (box drawing, blocks, arrows, braille are drawn narrow by
    every terminal with a Western font) and as braille patterns.
    """
    if character.isascii():
        return len(character) == 1
    code = ord(character)
    return (0xA0 <= code < 0x300 or 0x2010 <= code < 0x2300 or 0x2500 <= code < 0x2600 or 0x2800 <= code < 0x2900) and (
        cell_len(character) == 1
    )


def _spread(text: str, pen: str, characters: list[str], pens: list[str]) -> None:
    """Append the cells of a text with wide or zero-width characters."""
    for character in text:
        cells = cell_len(character)
        if cells == 0:
            if characters:
                characters[-1] += character
            continue
        characters.append(character)
        characters.extend([""] * (cells - 1))
        pens.extend([pen] * cells)


def _changes(old: list[str], new: list[str], old_pens: list[str], new_pens: list[str]) -> Iterator[tuple[int, int]]:
    """Stretches (first, end) that differ, those close together joined."""
    first = last = -1
    for index, (a, b, c, d) in enumerate(zip(old, new, old_pens, new_pens, strict=False)):
        if a != b or c != d:
            if first >= 0 and index - last > _JOIN:
                yield first, last + 1
                first = index
            elif first < 0:
                first = index
            last = index
    if first >= 0:
        yield first, last + 1


def _chops(update: ChopsUpdate) -> Iterator[tuple[int, int, Strip]]:
    """(y, x, strip) of each fragment of an update: what ``ChopsUpdate.render_segments`` would write."""
    for y, x1, x2 in update.spans:
        for end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if strip is None or x > x2 or end <= x1:
                continue
            if not (x2 > x >= x1 and end <= x2):
                strip = strip.crop(0, min(end, x2) - x)
            yield y, x, strip
