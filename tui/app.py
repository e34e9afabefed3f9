"""The application: screens, themes, keymap. What it does is in the workspace, the panes and the registry of actions."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from textual import events
from textual.screen import Screen

from core.engine import Engine
from tui import settings, text
from tui.env import Terminal
from tui.keymap import build
from tui.render import RenderApp
from tui.screens.workspace import Workspace
from tui.theming import find_theme, load_themes


class WharfApp(RenderApp[None]):
    """The workstation over one open engine; the caller closes the engine afterwards."""

    TITLE = "wharf"
    CSS_PATH = "screens/workspace.tcss"  # the app's, not the screen's: a screen's own sheet parses all of them anew
    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False  # ours opens by an action of the registry, like everything else
    NOTIFICATION_TIMEOUT = 5

    def __init__(self, engine: Engine, terminal: Terminal | None = None) -> None:
        # Without colours Textual must take them away and not turn them into greys, which is black on black here.
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") is not None else None)
        if terminal is not None and not terminal.unicode:
            text.use_glyphs(text.ASCII)
        chosen = settings.load()
        keymap = build(chosen.keys, chosen.keymap)
        self.engine = engine
        self.problems = [*chosen.problems, *keymap.problems]
        self._all_themes: list[str] = []
        few_colours = terminal is not None and terminal.colors in ("16", "none")
        default = "ansi16" if few_colours else "dark"
        self.theme = self._first_theme(chosen.theme, default)
        self.set_keymap(keymap.overrides)
        self.desk = Workspace(engine, keymap, os.uname().nodename)

    async def on_event(self, event: events.Event) -> None:
        """Textual's; a key that is still waiting when the last screen has gone finds nobody."""
        if not (isinstance(event, events.Key) and not self.screen_stack):
            await super().on_event(event)

    def get_default_screen(self) -> Screen[None]:
        return self.desk

    def push_screen(self, *args: Any, **options: Any) -> Any:
        """Textual's; what was notified before would lie over the new screen, and goes."""
        self.clear_notifications()
        return super().push_screen(*args, **options)

    def _first_theme(self, chosen: str, default: str) -> str:
        """Register the one theme that the first frame needs (the others on first use), and give its name."""
        for name in dict.fromkeys((chosen or default, default)):
            try:
                theme = find_theme(name)
            except ValueError as error:
                self.problems.append(str(error))
                continue
            if theme is not None:
                self.register_theme(theme)
                return name
            self.problems.append(f"there is no theme {name!r}; {default} is shown instead")
        return self.theme

    @property
    def theme_names(self) -> list[str]:
        """All themes, read on first use; what is wrong with some of them is told then."""
        if not self._all_themes:
            themes, problems = load_themes()
            for theme in themes:
                self.register_theme(theme)
            for problem in problems:
                text.notify(self, problem, severity="warning", timeout=12)
            self._all_themes = [theme.name for theme in themes]
        return self._all_themes

    def action_help_quit(self) -> None:
        """ctrl+c: many press it to leave; it must not end anything by accident."""
        text.notify(self, f"{self.desk.keymap.label('app.quit')} leaves; the containers run on", timeout=3)
