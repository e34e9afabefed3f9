"""Style words of line-API widgets (``"error bold"``, ``"text-muted on panel"``) as Rich styles, cached per theme."""

from __future__ import annotations

from rich.style import Style as RichStyle
from textual.color import Color, ColorParseError
from textual.widget import Widget

_ATTRIBUTES = frozenset({"bold", "dim", "italic", "underline", "reverse", "strike"})


class Palette:
    """Resolves words against the app's theme and the widget's own colours.

    A word is a theme variable (``success``), an attribute (``bold``), or any colour Textual knows. Unknown words
    change nothing: a user's theme may lack a variable.
    """

    def __init__(self, widget: Widget) -> None:
        self._widget = widget
        self._cache: dict[tuple[str, str], RichStyle] = {}
        self._variables: dict[str, str] = {}
        self._background = Color(0, 0, 0)
        self._foreground = Color(255, 255, 255)

    def begin(self) -> None:
        """Before painting: forget everything if the theme or the widget's colours changed."""
        variables = self._widget.app.theme_variables
        _, _, background, foreground = self._widget.colors
        if (variables, background, foreground) != (self._variables, self._background, self._foreground):
            self._cache.clear()
            self._variables, self._background, self._foreground = variables, background, foreground

    @property
    def colourless(self) -> bool:
        """True where colours are not shown (NO_COLOR): what they say must be said by attributes."""
        return self._widget.app.no_color

    @property
    def background(self) -> Color:
        return self._background

    def style(self, words: str, background: str = "") -> RichStyle:
        """The style of ``words`` over the widget's background, with the colour ``background`` laid on that first."""
        key = (words, background)
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._resolve(words, background)
        return found

    def _resolve(self, words: str, background: str) -> RichStyle:
        base = self._background
        front, _, behind = words.partition(" on ")
        for layer in (background, behind.strip()):
            if layer and (over := self.color(layer, base)):
                # The terminal's own colours cannot be blended: they cover what is beneath.
                base = base + over if over.ansi is None else over
        color = self._foreground
        attributes: dict[str, bool] = {}
        for word in front.split():
            if word in _ATTRIBUTES:
                attributes[word] = True
            elif word == "text" and base.ansi is not None and base.ansi >= 0:
                color = Color.parse("ansi_black")  # on one of the terminal's colours; all but black and blue are light
            else:
                color = self.color(word, base) or color
        shown = base + color if color.ansi is None else color
        return RichStyle(
            color=shown.rich_color,
            bgcolor=base.rich_color,
            bold=attributes.get("bold"),
            dim=attributes.get("dim"),
            italic=attributes.get("italic"),
            underline=attributes.get("underline"),
            reverse=attributes.get("reverse"),
            strike=attributes.get("strike"),
        )

    def color(self, word: str, base: Color) -> Color | None:
        """The colour of one word; a theme's ``auto N%`` is black or white, whichever can be read on ``base``."""
        name, _, percent = self._variables.get(word, word).strip().partition(" ")
        try:
            share = float(percent.rstrip("%") or 100) / 100
            if name != "auto":
                parsed = Color.parse(name)
                return parsed if parsed.ansi is not None or share == 1 else parsed.multiply_alpha(share)
        except (ColorParseError, ValueError):
            return None
        if base.ansi is not None:  # the terminal's own colours: nobody knows whether dark or light
            return Color.parse("ansi_default" if share > 0.7 else "ansi_bright_black")
        return base.get_contrast_text(share)
