"""The command palette: every action of the registry by name, and every container, image and theme."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from textual.command import CommandPalette, DiscoveryHit, Hit, Hits, Provider, SearchIcon

from tui import text
from tui.actions import ACTIONS, PANELS, Action

if TYPE_CHECKING:
    from tui.screens.workspace import Workspace

Command = tuple[str, str, Callable[[], None], float]  # words, help, what to do, how near: 1 in this panel


def _actions(desk: Workspace) -> Iterator[Command]:
    """Those of the panel in focus, then those of the others, which name it and are done in it."""
    for here in (True, False):
        for action in ACTIONS:
            near = desk.active in action.contexts
            if near is not here or action.id.startswith("panel.") or not desk.offers(action):
                continue
            words = f"{action.group}: {action.label}" if action.group != "Workstation" else action.label
            where = "" if here else f"in {home(desk, action).capitalize()}: "
            about = f"{desk.keymap.label(action.id)}  {where}{action.about}".strip()
            yield words, about, partial(_perform, desk, action), 1.0 if here else 0.8


def home(desk: Workspace, action: Action) -> str:
    """The panel in which an action is done: the one in focus, else the last list, else its first."""
    for panel in (desk.active, desk.last_list, *PANELS):
        if panel in action.contexts:
            return panel
    raise ValueError(f"{action.id} belongs to no panel")


def _perform(desk: Workspace, action: Action) -> None:
    panel = home(desk, action)
    if panel != desk.active:
        desk.focus_panel(panel)
    desk.perform(action.id)


def _objects(desk: Workspace) -> Iterator[Command]:
    for container in desk.snapshot.containers:
        yield f"go to {container.name}", f"container, {container.state.value}", partial(desk.choose, container.id), 1.0
    for name in desk.theme_names:
        yield f"theme {name}", "colours", partial(desk.set_theme, name), 1.0


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
        for words, about, command, _ in _actions(self._desk):
            yield DiscoveryHit(text.safe(words), command, text=words, help=_help(about))

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for words, about, command, near in [*_actions(self._desk), *_objects(self._desk)]:
            # Names of containers come from outside: what is matched and shown is plain text, never markup.
            score = matcher.match(words) * near
            if score > 0:
                yield Hit(score, text.safe(words), command, text=words, help=_help(about))


class Palette(CommandPalette):
    """Textual's, with a plain sign for its emoji: that is two cells wide on some terminals and one on others."""

    def on_mount(self) -> None:
        self.query_one(SearchIcon).icon = ":"

    @property
    def at_work(self) -> bool:
        """True while it still searches for what was typed: Enter must not take a hit of the letters before."""
        return any(worker.node is self and not worker.is_finished for worker in self.workers)


def _help(about: str) -> str:
    return about.replace("[", r"\[")  # the palette reads help as markup


def open_palette(desk: Workspace) -> None:
    """Open the palette over ``desk``."""
    desk.app.push_screen(Palette(providers=[DeskProvider], placeholder="command, container or theme"))
