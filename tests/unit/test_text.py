"""Outside text never acts, figures never jump."""

from __future__ import annotations

import re

import pytest
from textual.geometry import Size

from core.errors import NotFound
from tui import text
from tui.text import (
    ASCII,
    UNICODE,
    age,
    clean,
    count,
    fit,
    folded,
    join,
    percent,
    plain,
    rate,
    safe,
    size,
    use_glyphs,
    window,
)
from tui.text import width as cells

HOSTILE = [
    "[/]",
    "[bold red]x[/bold red]",
    "[@click=app.quit]quit[/]",
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "\x1b]52;c;aGk=\x07",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x1bP+q544e\x1b\\",
    "\x1b]0;never ends",
    "\x9b31mred",
    "a\rb\nc\td\x00\x07\x08\x7f",
    "\u202egnp.exe",
    "zero\u200bwidth\ufeff",
    "heart \u2764\ufe0f",
    "surrogate \udcff",
    "\U000e0041tag",
    "世界",
]


@pytest.fixture(autouse=True)
def _glyphs():
    yield
    use_glyphs(UNICODE)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_clean_is_one_harmless_line(hostile: str) -> None:
    for glyphs in (UNICODE, ASCII):
        use_glyphs(glyphs)
        shown = clean(hostile)
        assert shown.isprintable()
        assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ud800-\udfff]", shown)
        shown.encode()  # no lone surrogate is left


@pytest.mark.parametrize("hostile", HOSTILE)
def test_safe_content_has_no_spans_of_its_own(hostile: str) -> None:
    content = safe(hostile)
    assert content.spans == []
    assert content.plain == plain(hostile)


def test_markup_is_shown_as_it_is() -> None:
    assert safe("[bold]x[/]").plain == "[bold]x[/]"
    assert join("[/]", ("[b]", "bold"), safe("c")).plain == "[/][b]c"


def test_an_unfinished_sequence_hides_nothing() -> None:
    assert "secret" in clean("\x1b]0;secret")
    assert clean("a\x1b[31") == "a"


def test_clean_takes_linear_time() -> None:
    for bad in ("\x1b]" * 50_000, "\x1b[" * 50_000, "\x90" * 50_000, "\x1b[" + "1;" * 50_000):
        assert len(clean(bad)) < len(bad) + 1


def test_plain_keeps_lines() -> None:
    assert plain("a\r\nb\n\x1b[1mc") == "a\nb\nc"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "   0B"), (17, "  17B"), (999, " 999B"), (1023, " 1.0K"), (64.1 * 1024, "64.1K"), (512 * 1024**2, " 512M")],
)
def test_size(value: float, shown: str) -> None:
    assert size(value) == shown


def test_figures_have_fixed_widths() -> None:
    for exponent in range(62):
        for value in (2**exponent - 1, 2**exponent, 1.37 * 2**exponent, 10 ** (exponent // 4)):
            assert len(size(value)) == 5, value
            assert len(rate(value)) == 7
            assert len(age(value)) == 3, value
            assert len(count(value)) in (5, 6)
    assert [percent(v) for v in (0, 12.44, 100, 999.94, 1600)] == ["  0.0", " 12.4", "100.0", "999.9", " 1600"]
    assert size(-5) == "   0B"
    assert age(-5) == " 0s"


def test_fit_gives_exactly_the_cells() -> None:
    for glyphs in (UNICODE, ASCII):
        use_glyphs(glyphs)
        for value in ("", "a", "abcdefgh", "世界世界世界", "aé世b", "e\u0301e\u0301e\u0301"):
            for room in range(10):
                for align in ("left", "right", "center"):
                    assert cells(fit(value, room, align)) == room, (value, room, align)
    assert fit("abcdef", 4, "right") == "ab.."
    use_glyphs(UNICODE)
    assert fit("abcdef", 4) == "abc…"
    assert fit("ab", 4, "right") == "  ab"


def test_window_shows_half_a_wide_character_as_a_space() -> None:
    assert window("abcdef", 2, 3) == "cde"
    assert window("a世界b", 0, 2) == "a "
    assert window("a世界b", 2, 3) == " 界"
    for start in range(8):
        assert cells(window("a世界b", start, 3)) <= 3


def test_every_ascii_glyph_is_ascii_and_every_sign_one_cell() -> None:
    for name, value in vars(ASCII).items():
        assert name == "unicode" or value.isascii(), name
    for glyphs in (UNICODE, ASCII):
        for name, value in vars(glyphs).items():
            assert name in ("unicode", "ellipsis") or cells(value) == 1, name


def test_folded_keeps_offsets() -> None:
    for value in ("ABC", "İstanbul", "straße", "ΑΒΓ"):
        assert len(folded(value)) == len(value)


class FakeNode:
    """Records what would be notified."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, object]]] = []
        self.size = Size(80, 24)

    @property
    def app(self) -> FakeNode:
        return self

    def notify(self, message: str, **options: object) -> None:
        self.said.append((message, options))


def test_notifications_are_never_markup() -> None:
    node = FakeNode()
    text.notify(node, "[/]\x1b[2J", title="[x]")  # type: ignore[arg-type]
    text.notify_error(node, NotFound("no [/] here", "why", "do this"))  # type: ignore[arg-type]
    assert node.said[0] == (
        "[/]",
        {"title": "[x]", "severity": "information", "timeout": None, "markup": False},
    )
    assert node.said[1][0] == "why\ndo this"
    assert node.said[1][1]["title"] == "no [/] here"
    assert node.said[1][1]["markup"] is False
