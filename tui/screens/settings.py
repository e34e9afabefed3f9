"""The choice of colours."""

from __future__ import annotations

from textual import on
from textual.widget import Widget
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui import text
from tui.screens.base import Dialog
from tui.settings import remember_theme


class ThemeScreen(Dialog[None]):
    """Themes by name: the one under the cursor is shown at once, Enter keeps it, Esc goes back to the former."""

    BINDINGS = [("escape,q", "leave", "Back"), ("j", "move(1)", "Down"), ("k", "move(-1)", "Up")]
    TITLE_TEXT = "Theme"
    KEYS_TEXT = "↵ keep · Esc as before"

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = names
        self._before = ""

    def parts(self) -> list[Widget]:
        return [OptionList(*(Option(text.safe(name), id=f"t{at}") for at, name in enumerate(self._names)), id="list")]

    def on_mount(self) -> None:
        self._before = self.app.theme
        self.query_one("#box").styles.width = 34
        options = self.query_one(OptionList)
        options.highlighted = self._names.index(self._before) if self._before in self._names else 0
        options.focus()

    @on(OptionList.OptionHighlighted)
    def _show(self, message: OptionList.OptionHighlighted) -> None:
        if self._before:
            self.app.theme = self._names[message.option_index]

    @on(OptionList.OptionSelected)
    def _keep(self, message: OptionList.OptionSelected) -> None:
        name = self._names[message.option_index]
        self.app.theme = name
        try:
            remember_theme(name)
        except OSError as error:
            text.notify(self, f"the theme is not remembered: {error}", severity="warning")
        self.dismiss(None)

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        if step > 0:
            options.action_cursor_down()
        else:
            options.action_cursor_up()

    def action_leave(self) -> None:
        self.app.theme = self._before
        self.dismiss(None)
