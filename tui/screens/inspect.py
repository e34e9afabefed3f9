"""All that is known of one object, as ``docker inspect`` prints it."""

from __future__ import annotations

import json
from collections.abc import Callable

from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from core.errors import WharfError
from tui import text
from tui.screens.base import Dialog

Answer = dict[str, object] | WharfError


class InspectScreen(Dialog[None]):
    """Pretty JSON; ``c`` copies all of it."""

    BINDINGS = [("escape,q,i", "leave", "Back"), ("c,y", "copy_all", "Copy")]
    KEYS_TEXT = "↑ ↓ scroll · c copy · Esc back"

    def __init__(self, ask: Callable[[Callable[[Answer], None]], object]) -> None:
        """``ask`` gets the function that takes the answer: the facts, or why there are none."""
        super().__init__()
        self._ask = ask
        self._json = ""
        self._words = Static("…")

    def heading(self) -> str:
        return "Inspect"

    def parts(self) -> list[Widget]:
        return [VerticalScroll(self._words, id="scroll")]

    def _show(self, answer: Answer) -> None:
        if not self.is_attached:
            return
        if isinstance(answer, WharfError):
            shown = "\n".join(part for part in (answer.what, answer.why, answer.fix) if part)
            self._words.update(text.safe(shown, "$text-error"))
            return
        tags = answer.get("RepoTags") or answer.get("RepoDigests")
        named = str(answer.get("Name") or "").removeprefix("/") or (str(tags[0]) if isinstance(tags, list) else "")
        subject = named or str(answer.get("Id") or "").removeprefix("sha256:")[:12]
        self.query_one("#box").border_title = text.safe(f"Inspect {subject}")
        self._json = json.dumps(answer, indent=2, ensure_ascii=False, default=str)
        self._words.update(text.safe(self._json))

    def on_mount(self) -> None:
        box = self.query_one("#box")
        narrow = self.app.size.width < 110
        box.styles.width = "100%" if narrow else "80%"
        box.styles.height = "100%" if narrow else "90%"
        if narrow:
            box.styles.padding = 0  # a line with an id, 75 cells, stays one on a terminal of 80
        self.query("#scroll").focus()  # none is there yet, or any more, where Esc was faster
        self._ask(self._show)

    def action_copy_all(self) -> None:
        self.app.copy_to_clipboard(self._json)
        text.notify(self, "copied", timeout=2)
