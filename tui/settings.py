"""The user's settings: ``config.toml`` is theirs and never written; what the workstation remembers is kept apart.

``$XDG_CONFIG_HOME/wharf/config.toml``::

    theme = "nord"          # a theme's name (the choice made in the workstation wins)
    keys = "lazydocker"     # a preset: default, lazydocker, k9s

    [keymap]                # action id = keys
    "container.stop" = "ctrl+s"

``$XDG_CONFIG_HOME/wharf/themes/*.toml`` are the user's own themes; ``$XDG_STATE_HOME/wharf/state.toml`` remembers.
"""

from __future__ import annotations

import os
import time
import tomllib
import traceback
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What was found. ``problems`` are sentences for the user; a bad file never stops the workstation."""

    theme: str = ""
    keys: str = "default"
    keymap: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def _folder(variable: str, fallback: str) -> Path:
    base = os.environ.get(variable, "")
    # The XDG base directory specification: a relative path in these variables is invalid and is to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / fallback) / "wharf"


def config_dir() -> Path:
    """Where the user's own settings and themes are."""
    return _folder("XDG_CONFIG_HOME", ".config")


def state_dir() -> Path:
    """Where the workstation writes what it remembers, and its error log."""
    return _folder("XDG_STATE_HOME", ".local/state")


def _read(path: Path, problems: list[str]) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path} was not read: {error}")
        return {}


def load() -> Settings:
    """The settings of this user; never raises."""
    problems: list[str] = []
    config = _read(config_dir() / "config.toml", problems)
    state = _read(state_dir() / "state.toml", problems)
    keymap = config.get("keymap", {})
    if not isinstance(keymap, dict) or not all(isinstance(keys, str) for keys in keymap.values()):
        problems.append('[keymap] was left out: it must be a table of action = "keys"')
        keymap = {}
    theme = state.get("theme") or config.get("theme") or ""
    keys = config.get("keys", "default")
    return Settings(str(theme), str(keys), {str(k): str(v) for k, v in keymap.items()}, tuple(problems))


def remember_theme(name: str) -> None:
    """Keep the theme for the next start.

    :raises OSError: the state folder cannot be written
    """
    folder = state_dir()
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"state.toml.{os.getpid()}"
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    new.write_text(f'theme = "{quoted}"\n', encoding="utf-8")
    new.replace(folder / "state.toml")  # by rename, so that a second workstation never reads half a file


def keep_traceback(what: str) -> Path | None:
    """Append the exception now handled to the error log; its path, ``None`` where it cannot be written."""
    path = state_dir() / "errors.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {what}\n{traceback.format_exc()}\n")
    except OSError:
        return None
    return path
