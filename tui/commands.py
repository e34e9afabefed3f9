"""The command palette: every action of the registry by name, and every container, image and theme."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from textual.command import CommandPalette, DiscoveryHit, Hit, Hits, Provider, SearchIcon

from tui import text
from tui.actions import ACTIONS

if TYPE_CHECKING:
    from tui.screens.workspace import Workspace

Command = tuple[str, str, Callable[[], None]]  # words, help, what to do


def _actions(desk: Workspace) -> Iterator[Command]:
    for action in ACTIONS:
        if desk.active in action.contexts and not action.id.startswith("panel.") and desk.offers(action):
            key = desk.keymap.label(action.id)
            words = f"{action.group}: {action.label}" if action.group != "Workstation" else action.label
            yield words, f"{key}  {action.about}".strip(), partial(desk.perform, action.id)


def _objects(desk: Workspace) -> Iterator[Command]:
    for container in desk.snapshot.containers:
        yield f"go to {container.name}", f"container, {container.state.value}", partial(desk.choose, container.id)
    for name in desk.theme_names:
        yield f"theme {name}", "colours", partial(desk.set_theme, name)


class DeskProvider(Provider):
    """Finds commands of the workspace below the palette."""

    @property
    def _desk(self) -> Workspace:
        from tui.screens.workspace import Workspace

        desk = self.screen
        if not isinstance(desk, Workspace):
            raise TypeError("the palette opens over the workspace only")
        return desk

    async def discover(self) -> Hits:
        for words, about, command in _actions(self._desk):
            yield DiscoveryHit(text.safe(words), command, text=words, help=_help(about))

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for words, about, command in [*_actions(self._desk), *_objects(self._desk)]:
            # Names of containers come from outside: what is matched and shown is plain text, never markup.
            score = matcher.match(words)
            if score > 0:
                yield Hit(score, text.safe(words), command, text=words, help=_help(about))


class Palette(CommandPalette):
    """Textual's, with a plain sign for its emoji: that is two cells wide on some terminals and one on others."""

    def on_mount(self) -> None:
        self.query_one(SearchIcon).icon = ":"


def _help(about: str) -> str:
    return about.replace("[", r"\[")  # the palette reads help as markup


def open_palette(desk: Workspace) -> None:
    """Open the palette over ``desk``."""
    desk.app.push_screen(Palette(providers=[DeskProvider], placeholder="command, container or theme"))
