"""What the dialogs share: a box in the middle, Esc leaves."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.types import CSSPathType
from textual.widget import Widget
from textual.widgets import Checkbox

from tui import text

T = TypeVar("T")


class Dialog(ModalScreen[T], Generic[T]):
    """A box over the workspace."""

    CSS_PATH: ClassVar[CSSPathType | None] = "dialog.tcss"
    BINDINGS: ClassVar = [("escape", "leave", "Back"), ("question_mark", "keys", "Keys")]
    TITLE_TEXT: ClassVar[str] = ""
    covers: ClassVar[bool] = False  # all of the workspace, at any size of the terminal
    KEYS_TEXT: ClassVar[str] = "Esc back"

    def compose(self) -> ComposeResult:
        box = Vertical(*self.parts(), id="box")
        box.border_title = text.safe(self.heading())
        box.border_subtitle = text.safe(self.KEYS_TEXT)
        yield box

    def heading(self) -> str:
        """The words in the border."""
        return self.TITLE_TEXT

    def parts(self) -> list[Widget]:
        """What is in the box."""
        raise NotImplementedError

    def action_leave(self) -> None:
        self.app.clear_notifications()
        self.dismiss(None)

    def action_keys(self) -> None:
        """The keys that work here now. (While a line is typed, ``?`` is typed.)"""
        from tui.screens.help import KeysScreen  # it is a dialog itself

        found: dict[str, list[str]] = {}
        for key, active in self.active_bindings.items():
            if active.binding.description and active.enabled and active.node is not self.app:
                found.setdefault(active.binding.description, []).append(key)
        self.app.push_screen(KeysScreen(self.heading(), [(keys, words) for words, keys in found.items()]))


class Check(Checkbox, inherit_bindings=False):
    """``[x] words``: a box that is told apart without colour. Space checks it; Enter is the dialog's."""

    BINDINGS: ClassVar = [("space", "toggle_button", "Check")]

    BUTTON_LEFT = ""
    BUTTON_RIGHT = ""
    BUTTON_INNER = "[ ]"

    def watch_value(self) -> None:
        self.BUTTON_INNER = "[x]" if self.value else "[ ]"
        super().watch_value()
