"""The application: screens, themes, keymap. What it does is in the workspace, the panes and the registry of actions."""

from __future__ import annotations

import os
from typing import ClassVar

from core.engine import Engine
from tui import settings, text
from tui.env import Terminal
from tui.keymap import build
from tui.render import RenderApp
from tui.screens.workspace import Workspace
from tui.theming import load_themes


class WharfApp(RenderApp[None]):
    """The workstation over one open engine; the caller closes the engine afterwards."""

    TITLE = "wharf"
    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False  # ours opens by an action of the registry, like everything else
    NOTIFICATION_TIMEOUT = 5

    def __init__(self, engine: Engine, terminal: Terminal | None = None) -> None:
        super().__init__()
        chosen = settings.load()
        themes, problems = load_themes()
        keymap = build(chosen.keys, chosen.keymap)
        self.engine = engine
        self.problems = [*chosen.problems, *problems, *keymap.problems]
        self.theme_names = [theme.name for theme in themes]
        for theme in themes:
            self.register_theme(theme)
        few_colours = terminal is not None and terminal.colors in ("16", "none")
        default = "ansi16" if few_colours else "dark"
        if chosen.theme and chosen.theme not in self.theme_names:
            self.problems.append(f"there is no theme {chosen.theme!r}; {default} is shown instead")
        self.theme = chosen.theme if chosen.theme in self.theme_names else default
        self.set_keymap(keymap.overrides)
        self.desk = Workspace(engine, keymap, os.uname().nodename)

    def on_mount(self) -> None:
        self.push_screen(self.desk)

    def action_help_quit(self) -> None:
        """ctrl+c: many press it to leave; it must not end anything by accident."""
        text.notify(self, f"{self.desk.keymap.label('app.quit')} leaves; the containers run on", timeout=3)
