"""Keys: presets and the user's own, over the registry's defaults. Clashes are found here, when it is loaded.

A key clashes when two actions whose panels overlap have it, or when a list or the log itself needs it (their own
bindings take part, and can be remapped by their ids too).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from textual.binding import Binding

from tui.actions import ACTIONS, ALL, LISTS, LOG
from tui.widgets.linetable import LineTable
from tui.widgets.logview import LogView

PRESETS: dict[str, dict[str, str]] = {
    "default": {},
    "lazydocker": {
        "container.log": "m",
        "container.shell": "E",
        "list.mark_all": "b",
        "app.palette": "x,:",
        "app.demo": "X",
        "app.zoom": "+",
    },
    "k9s": {
        "container.shell": "s",
        "container.stop": "x",
        "container.kill": "ctrl+k",
        "container.remove": "ctrl+d",
        "image.remove": "ctrl+d",
        "network.remove": "ctrl+d",
        "list.inspect": "d",
        "app.demo": "X",
        "table.half_down": "ctrl+f",
        "table.half_up": "ctrl+b",
        "log.half_down": "ctrl+f",
        "log.half_up": "ctrl+b",
    },
}
RESERVED = frozenset({"ctrl+q", "ctrl+c", "ctrl+z"})  # Textual's own: quit, copy, suspend
_LABELS = {
    "escape": "Esc",
    "enter": "↵",
    "tab": "Tab",
    "shift+tab": "S-Tab",
    "space": "Space",
    "ctrl+@": "^Space",
    "question_mark": "?",
    "slash": "/",
    "colon": ":",
    "asterisk": "*",
    "plus": "+",
}


@dataclass(frozen=True)
class Keymap:
    """``overrides``: binding id → keys, for ``App.set_keymap``; ``keys``: the keys of every id now."""

    overrides: dict[str, str]
    keys: dict[str, str]
    problems: tuple[str, ...] = ()

    def label(self, binding_id: str) -> str:
        """The first key of that binding as people write it."""
        return key_label(self.keys.get(binding_id, "").split(",")[0])


def key_label(key: str) -> str:
    """``?`` for ``question_mark``, ``^d`` for ``ctrl+d``."""
    if key in _LABELS:
        return _LABELS[key]
    return "^" + key_label(key[5:]) if key.startswith("ctrl+") else key


def split_keys(keys: str) -> list[str]:
    """The single keys of a comma separated list."""
    return [key.strip() for key in keys.split(",") if key.strip()]


def widget_bindings() -> list[tuple[Binding, frozenset[str]]]:
    """The lists' and the log's own bindings with the panels they work in."""
    own = [(binding, LISTS) for binding in LineTable.BINDINGS] + [(binding, LOG) for binding in LogView.BINDINGS]
    return [(binding, panels) for binding, panels in own if isinstance(binding, Binding) and binding.id]


def _panels() -> dict[str, frozenset[str]]:
    panels = {str(binding.id): where for binding, where in widget_bindings()}
    return panels | {action.id: action.contexts for action in ACTIONS}


def _defaults() -> dict[str, str]:
    keys: dict[str, list[str]] = {}
    for binding, _ in widget_bindings():
        keys.setdefault(str(binding.id), []).append(binding.key)
    return {bid: ",".join(each) for bid, each in keys.items()} | {action.id: action.keys for action in ACTIONS}


def find_clashes(keys: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """All (key, id, other id) where two bindings meet on a key in one panel; id ``""`` stands for the reserved keys."""
    panels = _panels()
    reserved = set(map(key_label, RESERVED))
    owners: dict[str, list[str]] = {}
    found = []
    for binding_id, listed in keys.items():
        for key in map(key_label, split_keys(listed)):  # ``?`` and ``question_mark`` are one key
            if key in reserved:
                found.append((key, binding_id, ""))
            for other in owners.setdefault(key, []):
                if other != binding_id and panels.get(other, ALL) & panels.get(binding_id, ALL):
                    found.append((key, binding_id, other))
            owners[key].append(binding_id)
    return found


def _apply(keys: dict[str, str], changes: Mapping[str, str], source: str, problems: list[str]) -> dict[str, str]:
    """``keys`` with ``changes``; those that clash are left out one by one, each with a sentence."""
    good = dict(changes)
    for binding_id in [bid for bid in good if bid not in keys]:
        problems.append(f"{source}: there is no action {binding_id!r}")
        del good[binding_id]
    while good:
        clash = next((c for c in find_clashes(keys | good) if c[1] in good or c[2] in good), None)
        if clash is None:
            break
        key, one, other = clash
        loser = one if one in good else other
        holder = other if loser == one else one
        problems.append(f"{source}: {key} for {loser} is taken by {holder or 'the terminal'}; it keeps its old key")
        del good[loser]
    return keys | good


def build(preset: str, own: Mapping[str, str]) -> Keymap:
    """The keymap of a preset with the user's changes; what is wrong in them is left out and told in ``problems``."""
    problems: list[str] = []
    defaults = _defaults()
    if preset not in PRESETS:
        problems.append(f"keys = {preset!r}: there is no such preset; there are {', '.join(sorted(PRESETS))}")
        preset = "default"
    keys = _apply(defaults, PRESETS[preset], f"preset {preset}", problems)
    keys = _apply(keys, own, "[keymap]", problems)
    changed = {bid: listed for bid, listed in keys.items() if listed != defaults[bid]}
    return Keymap(changed, keys, tuple(problems))


def bindings_for(panel: str | None) -> list[Binding]:
    """Textual's bindings of a panel (``None``: those that work everywhere), made from the registry."""
    return list(_bindings(panel))


def _bindings(panel: str | None) -> Iterable[Binding]:
    for action in ACTIONS:
        everywhere = action.contexts == ALL
        if action.keys and everywhere == (panel is None) and (everywhere or panel in action.contexts):
            yield Binding(action.keys, f"screen.perform('{action.id}')", action.label, show=False, id=action.id)
