"""All keys: of the panel in focus first, from the registry and from the lists' and the log's own bindings."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import wrap

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from tui import text
from tui.actions import ACTIONS, Action
from tui.keymap import Keymap, key_label, split_keys, widget_bindings
from tui.screens.base import Dialog

WIDTH = 104
KEYS = 9  # cells
LABEL = 24

Line = tuple[str, str, str]  # keys, label, sentence


def sections(
    keymap: Keymap, panel: str, offered: Callable[[Action], bool] = lambda action: True
) -> list[tuple[str, list[Line]]]:
    """Headings with their lines. Each action that is ``offered`` occurs once; those of ``panel`` come first."""
    here: dict[str, list[Line]] = {}
    elsewhere: dict[str, list[Line]] = {}
    for action in filter(offered, ACTIONS):
        into = here if panel in action.contexts else elsewhere
        into.setdefault(action.group, []).append(_line(keymap, action))
    moving = []
    for binding, panels in widget_bindings():
        if panel in panels and binding.description:
            moving.append((_labels(keymap.keys.get(str(binding.id), binding.key)), binding.description, ""))
    found = list(here.items())
    if moving:
        found.append(("Moving", _merged(moving)))
    found += [(f"{group} (in other panels)", lines) for group, lines in elsewhere.items()]
    return found


def _merged(lines: list[Line]) -> list[Line]:
    seen: dict[str, Line] = {}
    for line in lines:
        seen.setdefault(line[1], line)
    return list(seen.values())


def _labels(keys: str) -> str:
    return " ".join(dict.fromkeys(key_label(key) for key in split_keys(keys)))


def _line(keymap: Keymap, action: Action) -> Line:
    return _labels(keymap.keys[action.id]), action.label, action.about


def render(keymap: Keymap, panel: str, width: int, offered: Callable[[Action], bool]) -> Content:
    """The help as one content, ``width`` cells wide; sentences fold under themselves."""
    parts: list[str | Content | tuple[str, str]] = []
    indent = 2 + KEYS + LABEL
    for heading, lines in sections(keymap, panel, offered):
        parts.append((f"{heading}\n", "bold $accent"))
        for keys, label, about in lines:
            folded = wrap(about, max(20, width - indent)) or [""]
            parts += [(f"  {text.fit(keys, KEYS)}", "bold"), text.fit(label, LABEL)]
            parts.append((("\n" + " " * indent).join(folded) + "\n", "$text-muted"))
        parts.append("\n")
    return text.join(*parts)


class HelpScreen(Dialog[None]):
    """Help; scrolls."""

    BINDINGS = [("escape,q,question_mark", "leave", "Back")]
    TITLE_TEXT = "Keys"
    KEYS_TEXT = "↑ ↓ scroll · Esc back"

    def __init__(self, keymap: Keymap, panel: str, offered: Callable[[Action], bool]) -> None:
        super().__init__()
        self._offered = offered
        self._keymap = keymap
        self._panel = panel

    def parts(self) -> list[Widget]:
        return [VerticalScroll(Static(id="words"), id="scroll")]

    def on_mount(self) -> None:
        self.query_one("#box").styles.width = WIDTH
        inner = min(WIDTH, self.app.size.width) - 8  # borders, padding, scrollbar
        self.query_one("#words", Static).update(render(self._keymap, self._panel, inner, self._offered))
        self.query_one("#scroll").focus()
