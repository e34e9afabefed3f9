"""All that is known of one object, as ``docker inspect`` prints it."""

from __future__ import annotations

import json

from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from tui import text
from tui.screens.base import Dialog


class InspectScreen(Dialog[None]):
    """Pretty JSON; ``c`` copies all of it."""

    BINDINGS = [("escape,q,i", "leave", "Back"), ("c,y", "copy_all", "Copy")]
    KEYS_TEXT = "↑ ↓ scroll · c copy · Esc back"

    def __init__(self, facts: dict[str, object]) -> None:
        super().__init__()
        self._subject = str(facts.get("Name") or facts.get("Id") or "").removeprefix("/")
        self._json = json.dumps(facts, indent=2, ensure_ascii=False, default=str)

    def heading(self) -> str:
        return f"Inspect {self._subject}"

    def parts(self) -> list[Widget]:
        return [VerticalScroll(Static(text.safe(self._json)), id="scroll")]

    def on_mount(self) -> None:
        box = self.query_one("#box")
        narrow = self.app.size.width < 110
        box.styles.width = "100%" if narrow else "80%"
        box.styles.height = "100%" if narrow else "90%"
        self.query_one("#scroll").focus()

    def action_copy_all(self) -> None:
        self.app.copy_to_clipboard(self._json)
        text.notify(self, "copied", timeout=2)
