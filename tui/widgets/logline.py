"""One log line made readable: ANSI colours as styles, JSON as ``LEVEL message key=value``, its level recognised.

Everything here is for a line that is about to be seen (or tested by a level filter), so it is bounded: a line is cut
at :data:`LONGEST` characters before anything looks at it, and the patterns cannot backtrack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from core.model import LogLine
from tui.text import ESCAPES, clean, glyphs, neutral

LONGEST = 64 * 1024
"""Characters of a line that are shown at most."""

LEVELS = ("trace", "debug", "info", "warn", "error", "fatal")

_NAMES = {
    "trace": "trace", "trc": "trace", "verbose": "trace",
    "debug": "debug", "dbg": "debug",
    "info": "info", "inf": "info", "information": "info", "notice": "info", "log": "info",
    "warn": "warn", "warning": "warn", "wrn": "warn",
    "error": "error", "err": "error", "eror": "error", "severe": "error",
    "fatal": "fatal", "ftl": "fatal", "crit": "fatal", "critical": "fatal", "panic": "fatal", "emerg": "fatal",
    "alert": "fatal", "dpanic": "fatal",
}  # fmt: skip
_WORDS = "|".join(sorted(_NAMES, key=len, reverse=True))
_LEVEL = re.compile(
    rf"(?:\b(?:level|lvl|severity|loglevel)=\"?(?P<logfmt>(?i:{_WORDS}))\b)"  # logfmt
    rf"|(?P<upper>\b(?:{_WORDS.upper()})\b)"  # … ERROR …
    rf"|[\[<](?P<bracket>(?i:{_WORDS}))[\]>:]"  # [error], <warn>
    rf"|^(?P<start>(?i:{_WORDS})):"  # warning: …
    r"|^(?P<klog>[IWEF])\d{4} \d\d:"  # klog: E0102 15:04:05
)
_KLOG = {"I": "info", "W": "warn", "E": "error", "F": "fatal"}
_LOOK_AT = 200  # a level stands near the start of a line

_LEVEL_KEYS = ("level", "lvl", "severity", "levelname", "log.level", "loglevel", "@l", "PRIORITY")
_MESSAGE_KEYS = ("msg", "message", "@m", "@mt", "event", "MESSAGE")
_TIME_KEYS = frozenset({"time", "ts", "timestamp", "@timestamp", "@t", "t", "date", "datetime"})
_NUMBERED = {10: "trace", 20: "debug", 30: "info", 40: "warn", 50: "error", 60: "fatal"}  # bunyan, pino

LEVEL_STYLE = {
    "trace": "text-disabled",
    "debug": "text-muted",
    "info": "text-primary",
    "warn": "text-warning bold",
    "error": "text-error bold",
    "fatal": "text-error bold reverse",
}
_LINE_STYLE = {"trace": "text-muted", "debug": "text-muted", "error": "text-error", "fatal": "text-error"}


class Shown(NamedTuple):
    """A line as shown: safe text, (start, end, style words) in order without overlap, style of the rest, level."""

    text: str
    spans: tuple[tuple[int, int, str], ...]
    words: str
    level: str  # one of LEVELS, or ""


def show(line: LogLine, *, readable: bool = True) -> Shown:
    """How ``line`` looks; ``readable`` False leaves JSON as it came."""
    text = line.text
    if len(text) > LONGEST:
        text = text[:LONGEST] + f" {glyphs().ellipsis} +{len(line.text) - LONGEST} characters"
    text = text.rstrip("\r\n")
    if "\r" in text:  # a progress bar draws over itself: what would be left on a terminal
        text = text[text.rindex("\r") + 1 :]
    if readable and text.startswith("{") and (parsed := _parse_json(text)) is not None:
        return parsed
    if "\x1b" in text or "\x9b" in text:
        text, spans = _parse_ansi(text)
        level = level_of(text)[0]
        return Shown(text, spans, "" if spans else _LINE_STYLE.get(level, ""), level)
    text = clean(text, tab=8)
    level, start, end = level_of(text)
    if not level:
        return Shown(text, (), "", "")
    return Shown(text, ((start, end, LEVEL_STYLE[level]),), _LINE_STYLE.get(level, ""), level)


def level_of(text: str) -> tuple[str, int, int]:
    """The level a plain or logfmt line names, and where; ``("", 0, 0)`` for none."""
    match = _LEVEL.search(text, 0, _LOOK_AT)
    if match is None or match.lastgroup is None:
        return "", 0, 0
    word = match[match.lastgroup]
    level = _KLOG[word] if match.lastgroup == "klog" else _NAMES[word.lower()]
    return level, *match.span(match.lastgroup)


def quick_level(line: LogLine) -> str:
    """The level of a line for a filter, without making it readable."""
    text = line.text[:LONGEST]
    if text.startswith("{"):
        data = _load(text)
        return _json_level(data)[0] if data is not None else ""
    return level_of(ESCAPES.sub("", text[: 2 * _LOOK_AT]) if "\x1b" in text else text)[0]


# -- JSON -------------------------------------------------------------------------------------------------------


def _load(text: str) -> dict[str, object] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _json_level(data: dict[str, object]) -> tuple[str, str]:
    """The level and the key that held it."""
    for key in _LEVEL_KEYS:
        value = data.get(key)
        if isinstance(value, str) and (level := _NAMES.get(value.lower())):
            return level, key
        if isinstance(value, int) and not isinstance(value, bool) and value in _NUMBERED:
            return _NUMBERED[value], key
    return "", ""


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return value if value and " " not in value and '"' not in value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _parse_json(text: str) -> Shown | None:
    data = _load(text)
    if data is None:
        return None
    level, level_key = _json_level(data)
    message_key = next((key for key in _MESSAGE_KEYS if isinstance(data.get(key), str)), "")
    pieces: list[tuple[str, str]] = []
    if level:
        pieces.append((level.upper().ljust(5), LEVEL_STYLE[level]))
    if message_key:
        pieces.append((str(data[message_key]), _LINE_STYLE.get(level, "")))
    for key, value in data.items():
        # The line has a time of its own; a second one only pushes the message away.
        if key not in (level_key, message_key) and key not in _TIME_KEYS:
            pieces.append((f"{key}=", "text-muted"))
            pieces.append((_scalar(value), ""))
    parts: list[str] = []
    spans: list[tuple[int, int, str]] = []
    at = 0
    for piece, words in pieces:
        piece = clean(piece)
        if parts and not parts[-1].endswith("="):
            parts.append(" ")
            at += 1
        parts.append(piece)
        if words:
            spans.append((at, at + len(piece), words))
        at += len(piece)
    return Shown("".join(parts), tuple(spans), "", level)


# -- ANSI -------------------------------------------------------------------------------------------------------

_COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_ON = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "reverse", 9: "strike"}
_OFF = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("reverse",), 29: ("strike",)}


class _Pen:
    """The state that SGR sequences change (ECMA-48 8.3.117, with xterm's 256 and direct colours)."""

    def __init__(self) -> None:
        self.front = ""
        self.back = ""
        self.attributes: dict[str, None] = {}

    def words(self) -> str:
        front = " ".join([*self.attributes, self.front] if self.front else self.attributes)
        return f"{front} on {self.back}" if self.back else front

    def apply(self, parameters: str) -> None:
        codes = iter([int(code) if code.isdigit() else 0 for code in re.split("[;:]", parameters)])
        for code in codes:
            if code == 0:
                self.front, self.back = "", ""
                self.attributes.clear()
            elif code in _ON:
                self.attributes[_ON[code]] = None
            elif code in _OFF:
                for name in _OFF[code]:
                    self.attributes.pop(name, None)
            elif code in (38, 48):
                color = _extended(codes)
                self.front, self.back = (color, self.back) if code == 38 else (self.front, color)
            elif 30 <= code <= 39:
                self.front = "" if code == 39 else f"ansi_{_COLORS[code - 30]}"
            elif 40 <= code <= 49:
                self.back = "" if code == 49 else f"ansi_{_COLORS[code - 40]}"
            elif 90 <= code <= 97:
                self.front = f"ansi_bright_{_COLORS[code - 90]}"
            elif 100 <= code <= 107:
                self.back = f"ansi_bright_{_COLORS[code - 100]}"


def _extended(codes: Iterator[int]) -> str:
    """The colour after 38 or 48: ``5;N`` or ``2;R;G;B``."""
    kind = next(codes, 0)
    if kind == 5:
        return _palette_color(next(codes, 0) & 0xFF)
    if kind == 2:
        red, green, blue = (next(codes, 0) & 0xFF for _ in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"
    return ""


@lru_cache(maxsize=256)
def _palette_color(index: int) -> str:
    """A colour of xterm's 256: 16 named, a 6×6×6 cube, 24 greys."""
    if index < 16:
        return f"ansi_{'bright_' if index > 7 else ''}{_COLORS[index & 7]}"
    if index >= 232:
        grey = 8 + 10 * (index - 232)
        return f"#{grey:02x}{grey:02x}{grey:02x}"
    steps = (0, 95, 135, 175, 215, 255)
    index -= 16
    return f"#{steps[index // 36]:02x}{steps[index // 6 % 6]:02x}{steps[index % 6]:02x}"


def _parse_ansi(text: str) -> tuple[str, tuple[tuple[int, int, str], ...]]:
    """The text without sequences, and what its colour sequences coloured."""
    pen = _Pen()
    parts: list[str] = []
    spans: list[tuple[int, int, str]] = []
    at = column = 0
    for match in ESCAPES.finditer(text):
        column = _emit(parts, spans, text[at : match.start()], column, pen.words())
        sequence = match[0]
        if sequence.endswith("m") and sequence[:1] in ("\x1b", "\x9b"):
            parameters = sequence.lstrip("\x1b\x9b[")[:-1]
            if not parameters or parameters[0].isdigit():
                pen.apply(parameters)
        at = match.end()
    _emit(parts, spans, text[at:], column, pen.words())
    return "".join(parts), tuple(spans)


def _emit(parts: list[str], spans: list[tuple[int, int, str]], text: str, column: int, words: str) -> int:
    """Append a piece of text; returns the column after it."""
    if not text:
        return column
    if "\t" in text:
        text = (" " * (column % 8) + text).expandtabs(8)[column % 8 :]
    text = neutral(text)
    parts.append(text)
    if words and text:
        spans.append((column, column + len(text), words))
    return column + len(text)


# -- time -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def _local_second(second: str) -> tuple[str, str]:
    """Local (date, time of day) of ``YYYY-MM-DDTHH:MM:SS`` in UTC; the text itself where it is not a time."""
    try:
        local = datetime.fromisoformat(second + "+00:00").astimezone()
    except ValueError:
        return "", second[-8:].rjust(8)
    return local.strftime("%Y-%m-%d"), local.strftime("%H:%M:%S")


def clock(time: str) -> str:
    """Local ``HH:MM:SS.mmm`` of a line's time, always 12 cells."""
    fraction = time[20:23] if time[19:20] == "." else ""
    digits = fraction if fraction.isdigit() else ""
    return neutral(f"{_local_second(time[:19])[1]}.{digits.ljust(3, '0')}")


def day(time: str) -> str:
    """Local ``YYYY-MM-DD`` of a line's time, ``""`` where it has none."""
    return _local_second(time[:19])[0]
