"""The question before something is lost."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.widget import Widget
from textual.widgets import Static

from tui import text
from tui.screens.base import Dialog

_TAKEN = ("y", "n", "escape", "q", "question_mark")  # keys that do something


class ConfirmScreen(Dialog[bool]):
    """Says what will be lost; only ``y`` goes on, so that Enter pressed too often does no harm."""

    BINDINGS: ClassVar = [("y", "answer(True)", "Yes"), ("n,escape,q", "answer(False)", "No")]

    def __init__(self, question: str, lost: list[str], verb: str) -> None:
        super().__init__()
        self._question = question
        self._lost = lost
        self._verb = verb
        self._hint = Static("", classes="hint")

    KEYS_TEXT = ""

    def heading(self) -> str:
        return self._verb

    def parts(self) -> list[Widget]:
        return [
            Static(text.safe(self._question, "bold")),
            Static(""),
            *(Static(text.safe(line), classes="quiet") for line in self._lost),
            self._hint,
            Static(
                text.join(("y", "bold $error"), f"  {self._verb.lower()}      ", ("n", "bold $accent"), "  leave it"),
                classes="choices",
            ),
        ]

    def on_mount(self) -> None:
        self._hint.display = False

    def on_key(self, event: events.Key) -> None:
        """Any other key does nothing, and says what is wanted."""
        if event.key not in _TAKEN:
            self._hint.update(text.safe(f"press y to {self._verb.lower()}, n to leave it", "$warning"))
            self._hint.display = True

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)
