"""Themes: one TOML file each, shipped in ``themes/`` and the user's own in their config folder."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

from textual.color import Color, ColorParseError
from textual.theme import Theme

from tui.settings import config_dir

_FIELDS = {f.name for f in fields(Theme)}
_COLOURS = frozenset("primary secondary warning error success accent foreground background surface panel boost".split())


def shipped_dir() -> Path:
    """``themes/`` at the repository's root, or inside the package once installed."""
    here = Path(__file__).resolve().parent
    inside = here / "themes"
    return inside if inside.is_dir() else here.parent / "themes"


def read_theme(path: Path) -> Theme:
    """The theme in one file; its name is the file's.

    :raises ValueError: what is wrong with it, in words
    """
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"theme {path} was not read: {error}") from None
    unknown = sorted(set(data) - _FIELDS)
    if unknown:
        raise ValueError(f"theme {path}: unknown setting {', '.join(unknown)}")
    variables = data.get("variables", {})
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise ValueError(f"theme {path}: [variables] must be a table of strings")
    for key in _COLOURS & set(data):
        try:
            Color.parse(data[key])
        except (ColorParseError, TypeError, AttributeError):
            raise ValueError(f"theme {path}: {key} = {data[key]!r} is not a colour") from None
    if "primary" not in data:
        raise ValueError(f"theme {path}: primary is missing")
    return Theme(**{**data, "name": path.stem, "variables": _quiet(data) | variables})


def _quiet(data: dict[str, str]) -> dict[str, str]:
    """The colour of quiet words: Textual's own (``auto 60%``) turns white or black in a line of mixed styles."""
    front, back = data.get("foreground", ""), data.get("background", "")
    if not front.startswith("#") or not back.startswith("#"):
        return {}
    return {"text-muted": Color.parse(back).blend(Color.parse(front), 0.62).hex}


def find_theme(name: str) -> Theme | None:
    """The theme of that name, the user's own before a shipped one; ``None`` where there is none.

    :raises ValueError: what is wrong with it, in words
    """
    for folder in (config_dir() / "themes", shipped_dir()):
        path = folder / f"{name}.toml"
        if "/" not in name and path.is_file():
            return read_theme(path)
    return None


def load_themes() -> tuple[list[Theme], list[str]]:
    """All themes, the user's own replacing shipped ones of the same name, and what was wrong with the others."""
    found: dict[str, Theme] = {}
    problems: list[str] = []
    for folder in (shipped_dir(), config_dir() / "themes"):
        for path in sorted(folder.glob("*.toml")):
            try:
                found[path.stem] = read_theme(path)
            except ValueError as error:
                problems.append(str(error))
    return list(found.values()), problems
