"""From outside text to something shown: safe content, cell widths, humanised figures, glyph sets.

Names, labels, log lines and errors come from outside. A container may be called ``[/]`` or hold escape sequences;
shown as markup such a text crashes the screen, written raw it moves the cursor. So everything passes through
:func:`safe` (or :func:`clean` for line-API widgets), and notifications through :func:`notify`.

Figures have fixed widths, so that a column of them never jumps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from textual.content import Content

from core.errors import WharfError

if TYPE_CHECKING:
    from textual.app import App
    from textual.widget import Widget

Align = Literal["left", "right", "center"]
Severity = Literal["information", "warning", "error"]

# ECMA-48 sections 5.4 and 5.6: CSI, then the string sequences (OSC, DCS, SOS, PM, APC), then two-byte escapes.
# Of a string that never ends only the introducer goes: nothing can hide the rest of a line.
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])(?:[^\x07\x1b\n\x80-\x9f]*(?:\x07|\x9c|\x1b\\))?"
    r"|\x1b[ -/]*[0-~]?"
)

_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c"
    "\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2065\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f"
    "\u3164\ufe00\ufe01\ufe02\ufe03\ufe04\ufe05\ufe06\ufe07\ufe08\ufe09\ufe0a\ufe0b\ufe0c\ufe0d\ufe0e\ufe0f\ufeff\uffa0"
)
_FORCING = re.compile(f"[{_INVISIBLE}\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\U000e0000-\\U000e0fff\\ue000-\\uf8ff]")


def _visible(match: re.Match[str]) -> str:
    """What stands for one character that a terminal would obey, hide or be confused by."""
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code) if glyphs().unicode else "^" + chr(0x40 + code)
    if code == 0x7F:
        return "\u2421" if glyphs().unicode else "^?"
    if 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000 or 0xE000 <= code < 0xF900:
        return "\ufffd" if glyphs().unicode else "?"
    return ""  # zero-width, bidirectional override, variation selector, tag: nothing to see


def neutral(text: str) -> str:
    """``text`` without anything a terminal acts on; keeps newlines out of it, too (they become visible)."""
    if text.isprintable() and (text.isascii() or not _FORCING.search(text)):
        return text
    return _FORCING.sub(_visible, text)


def clean(text: str, *, tab: int = 4) -> str:
    """One safe line: escape sequences removed, tabs expanded, line ends as spaces, other controls visible."""
    if text.isascii() and text.isprintable():
        return text
    if "\x1b" in text or not text.isascii():
        text = ESCAPES.sub("", text)
    if "\t" in text:
        text = text.expandtabs(tab)
    return neutral(text.replace("\r\n", " ").replace("\n", " ").replace("\r", " "))


def plain(text: str) -> str:
    """As :func:`clean`, but lines stay lines."""
    return "\n".join(clean(line) for line in text.replace("\r\n", "\n").split("\n"))


def safe(text: str, style: str = "") -> Content:
    """Outside text as content that is shown and never interpreted.

    :param style: a style in Textual's words (``"bold $error"``); never take it from outside
    """
    return Content.styled(plain(text), style) if style else Content(plain(text))


def join(*parts: str | Content | tuple[str, str]) -> Content:
    """One content of several: each ``str`` and each text of a (text, style) pair is made safe."""
    return Content("").join(
        part if isinstance(part, Content) else safe(part) if isinstance(part, str) else safe(*part) for part in parts
    )


def notify(
    node: App[Any] | Widget,
    message: str,
    *,
    title: str = "",
    severity: Severity = "information",
    timeout: float | None = None,
) -> None:
    """A notification whose text is data: the one place that may call Textual's own ``notify``.

    :param timeout: seconds; ``None`` takes the app's own
    """
    app = node.app
    app.notify(plain(message), title=clean(title), severity=severity, timeout=timeout, markup=False)


def notify_error(node: App[Any] | Widget, error: WharfError, *, title: str = "") -> None:
    """What happened, why, and how to mend it; shown long enough to be read; Esc takes it away."""
    lines = [line for line in (error.why, error.fix) if line]
    heading = title or error.what
    if title:
        lines.insert(0, error.what)
    seconds = 8 if node.app.size.width >= 110 else 5  # it hides more there; the list of jobs keeps it
    notify(node, "\n".join(lines) or error.what, title=heading, severity="error", timeout=seconds)


# -- widths -----------------------------------------------------------------------------------------------------


def width(text: str) -> int:
    """Cells that ``text`` takes on a terminal."""
    return len(text) if text.isascii() else cell_len(text)


def _cut(text: str, cells: int) -> tuple[str, int]:
    """The longest start of ``text`` within ``cells``, and its own width (a wide character may not fit)."""
    if text.isascii():
        return text[:cells], min(len(text), cells)
    used = 0
    for index, character in enumerate(text):
        step = cell_len(character)
        if used + step > cells:
            return text[:index], used
        used += step
    return text, used


def fit(text: str, cells: int, align: Align = "left") -> str:
    """``text`` in exactly ``cells`` cells: padded, or cut with an ellipsis."""
    if cells <= 0:
        return ""
    used = width(text)
    if used > cells:
        sign = glyphs().ellipsis
        if cells <= len(sign):
            sign = ""
        head, used = _cut(text, cells - len(sign))
        text, used = head + sign, used + len(sign)
    space = cells - used
    if align == "right":
        return " " * space + text
    if align == "center":
        return " " * (space // 2) + text + " " * (space - space // 2)
    return text + " " * space


def fit_reference(text: str, cells: int) -> str:
    """``text`` in at most ``cells`` cells, its longest word cut where it says least: an image loses its registry and
    the beginning of its path (``…/app:1.27``), then the middle of its name, its tag last; a file's path likewise."""
    words = text.split(" ")
    longest = max(words, key=width)
    room = width(longest) - (width(text) - cells)
    if room >= width(longest) or room < 4:
        return text
    words[words.index(longest)] = _shorter(longest, room)
    return " ".join(words)


def fit_words(text: str, cells: int) -> str:
    """``text`` in at most ``cells`` cells by leaving whole words out at its end: ``10.7.0.0/24 +1``."""
    words = text.split(" ")
    for kept in range(len(words), 0, -1):
        more = [f"+{len(words) - kept}"] if kept < len(words) else []
        if width(shown := " ".join([*words[:kept], *more])) <= cells:
            return shown
    return words[0]


def _shorter(name: str, cells: int) -> str:
    sign = glyphs().ellipsis
    parts = name.split("/")
    for start in range(1, len(parts)):
        if width(rest := "/".join(["", *parts[start:]])) + len(sign) <= cells:
            return sign + rest
    last = parts[-1]
    mark = max(last.rfind(":"), last.rfind("@"))
    tag = last[mark:] if mark > 0 else last[-(cells // 2) :]
    room = cells - len(sign) - width(tag)
    if room > 0:
        return _cut(last, room)[0] + sign + tag
    return sign + _cut(last[::-1], cells - len(sign))[0][::-1]


def window(text: str, start: int, cells: int) -> str:
    """The part of ``text`` between cell ``start`` and ``start + cells``; a halved wide character shows as a space."""
    if text.isascii():
        return text[start : start + cells]
    parts: list[str] = []
    at = 0
    for character in text:
        step = cell_len(character)
        if at >= start + cells:
            break
        if at >= start and at + step <= start + cells:
            parts.append(character)
        elif at + step > start and step:
            parts.append(" ")
        at += step
    return "".join(parts)


# -- figures with fixed widths ------------------------------------------------------------------------------------


def size(count: float) -> str:
    """Bytes in 5 cells, powers of 1024: ``64.1M``, `` 512K``, ``  17B``."""
    count = max(0.0, count)
    if count < 1000:
        return f"{int(count)}B".rjust(5)
    for unit in "KMGTP":
        count /= 1024
        if count < 99.95:
            return f"{count:.1f}{unit}".rjust(5)
        if count < 999.5:
            return f"{count:.0f}{unit}".rjust(5)
    return "  >1E"


def decimal(count: float) -> str:
    """Bytes in 6 cells, powers of 1000, as docker and the command line count images: ``47.8MB``, `` 512kB``."""
    count = max(0.0, count)
    if count < 999.5:
        return f"{int(count)}B".rjust(6)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        count /= 1000
        if count < 99.95:
            return f"{count:.1f}{unit}".rjust(6)
        if count < 999.5:
            return f"{count:.0f}{unit}".rjust(6)
    return "  >1EB"


def decimal_rate(count: float) -> str:
    """Bytes per second in 8 cells, powers of 1000."""
    return decimal(count) + "/s"


def rate(count: float) -> str:
    """Bytes per second in 7 cells."""
    return size(count) + "/s"


def span(seconds: float) -> str:
    """A time to wait in 5 cells at most: ``42s``, ``3m05``, ``1h20``, ``>99h``."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}"
    return f"{whole // 3600}h{whole % 3600 // 60:02}" if whole < 100 * 3600 else ">99h"


def percent(value: float) -> str:
    """5 cells without a sign: `` 12.4``, ``100.0``, `` 1600``."""
    return f"{value:5.1f}" if value < 999.95 else f"{value:5.0f}"


def count(number: float) -> str:
    """A number of things in 5 cells, powers of 1000: ``12345``, ``1.2M``."""
    if number < 100_000:
        return f"{int(number):5d}"
    for unit in "kMGT":
        number /= 1000
        if number < 999.5:
            return (f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}").rjust(5)
    return " >1P "


def age(seconds: float) -> str:
    """A time span in 3 cells, its largest unit only: ``59s``, ``12m``, `` 3h``, `` 9d``, ``52w``, `` 3y``."""
    seconds = max(0.0, seconds)
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h"), (86400 * 14, 86400, "d")):
        if seconds < limit:
            return f"{int(seconds // divisor)}{unit}".rjust(3)
    if seconds < 86400 * 7 * 99:
        return f"{int(seconds // (86400 * 7))}w".rjust(3)
    return f"{min(99, int(seconds // (86400 * 365)))}y".rjust(3)


# -- glyphs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Glyphs:
    """The signs of the screen. Every one is a single cell (``ellipsis`` in ASCII: two); never an emoji."""

    unicode: bool
    running: str = "●"
    paused: str = "◐"
    exited: str = "✕"
    created: str = "○"
    starting: str = "◌"
    dead: str = "†"
    unknown: str = "?"
    unhealthy: str = "!"
    cursor: str = "▸"
    mark: str = "✓"
    sort_up: str = "▴"
    sort_down: str = "▾"
    ellipsis: str = "…"
    everywhere: str = "◉"
    lan: str = "◎"
    local: str = "○"
    arrow: str = "→"
    follow: str = "●"
    held: str = "‖"
    wrap: str = "↩"
    stderr: str = "▎"
    separator: str = "│"
    dot: str = "·"
    enter: str = "↵"
    bar_full: str = "━"
    bar_half: str = "╸"
    bar_empty: str = "─"
    scroll_thumb: str = "┃"
    scroll_track: str = "│"
    ok: str = "✓"
    failed: str = "✕"


UNICODE = Glyphs(unicode=True)
ASCII = Glyphs(
    unicode=False,
    running="*",
    paused="=",
    exited="x",
    created="o",
    starting=".",
    dead="+",
    cursor=">",
    mark="+",
    sort_up="^",
    sort_down="v",
    ellipsis="..",
    everywhere="@",
    lan="o",
    local=".",
    arrow=">",
    follow="*",
    held='"',
    wrap="\\",
    stderr="!",
    separator="|",
    dot=".",
    enter="<",
    bar_full="#",
    bar_half="=",
    bar_empty="-",
    scroll_thumb="#",
    scroll_track="|",
    ok="+",
    failed="x",
)

_current = UNICODE


def glyphs() -> Glyphs:
    """The set in use."""
    return _current


def use_glyphs(chosen: Glyphs) -> None:
    """Choose the set (once, before the first paint)."""
    global _current
    _current = chosen


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """Lower case for comparing without regard to case; as long as ``text``, so that offsets stay true."""
    low = text.lower()
    return low if len(low) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
