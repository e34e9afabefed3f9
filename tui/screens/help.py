"""All keys: of the panel in focus first, from the registry and from the lists' and the log's own bindings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from tui import text
from tui.actions import ACTIONS, PANELS, Action
from tui.keymap import Keymap, key_label, split_keys, widget_bindings
from tui.screens.base import Dialog

WIDTH = 104
KEYS = 9  # cells
LABEL = 26

Line = tuple[str, str, str]  # keys, label, sentence

# Where a line is typed in a dialog, ``?`` is typed: so its keys are told here.
DIALOGS: tuple[Line, ...] = (
    ("tab,shift+tab", "Next, previous field", ""),
    ("enter,ctrl+r", "Go", "Do what the dialog asks about."),
    ("ctrl+x", "Cancel", "What it has begun; Esc only hides it, and it goes on."),
    ("ctrl+l", "Log in", "Where a registry is asked: pull, push, search and its tags, newer."),
)


def sections(
    keymap: Keymap, panel: str, offered: Callable[[Action], bool] = lambda action: True
) -> list[tuple[str, list[Line]]]:
    """Headings with their lines. Each action that is ``offered`` occurs once; those of ``panel`` come first, and among
    them the groups with what works in few other panels."""
    here: dict[str, list[Line]] = {}
    elsewhere: dict[str, list[Line]] = {}
    spread: dict[str, int] = {}
    for action in filter(offered, ACTIONS):
        if panel in action.contexts:
            spread[action.group] = min(spread.get(action.group, len(PANELS)), len(action.contexts))
        into = here if panel in action.contexts else elsewhere
        into.setdefault(action.group, []).append(_line(keymap, action))
    moving = []
    for binding, panels in widget_bindings():
        if panel in panels and binding.description:
            moving.append((_labels(keymap.keys.get(str(binding.id), binding.key)), binding.description, ""))
    found = sorted(here.items(), key=lambda item: spread[item[0]])
    if moving:
        found.append(("Moving", _merged(moving)))
    found += [(f"{group} (in other panels)", lines) for group, lines in elsewhere.items()]
    found.append(("Dialogs", [(_labels(keys), label, about) for keys, label, about in DIALOGS]))
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
            parts += [(f"  {text.fit(keys, KEYS)}", "bold"), text.fit(label, LABEL - 1) + " "]
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
        for words in self.query("#words").results(Static):
            words.update(render(self._keymap, self._panel, inner, self._offered))
        self.query("#scroll").focus()  # none is there yet, or any more, where Esc was faster


class KeysScreen(Dialog[None]):
    """The keys of one dialog."""

    BINDINGS = [("escape,q,question_mark", "leave", "Back")]
    TITLE_TEXT = "Keys"

    def __init__(self, subject: str, lines: Sequence[tuple[Sequence[str], str]]) -> None:
        super().__init__()
        self._subject = subject
        self._lines = lines

    def heading(self) -> str:
        return f"Keys: {self._subject}"

    def parts(self) -> list[Widget]:
        words = [(" ".join(dict.fromkeys(map(key_label, keys))), about) for keys, about in self._lines]
        room = max((text.width(keys) for keys, _ in words), default=0) + 2
        content = text.join(*(part for keys, about in words for part in ((text.fit(keys, room), "bold"), f"{about}\n")))
        return [VerticalScroll(Static(content), id="scroll")]

    def on_mount(self) -> None:
        self.query("#scroll").focus()  # none is there yet, or any more, where Esc was faster
