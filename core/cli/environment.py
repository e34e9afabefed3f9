"""``--env`` and ``--env-file``, for ``run``, ``create`` and ``exec``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from core.errors import InvalidArgument
from core.options import split_env


def environment(words: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
    """``KEY=VALUE`` of files and options; a ``KEY`` alone takes our own value, and is left out where we have none."""
    found: dict[str, str] = {}
    for word in [*lines_of(files, "--env-file"), *words]:
        key, value = split_env(word)
        if value is not None:
            found[key] = value
        elif key in os.environ:
            found[key] = os.environ[key]
    return tuple(f"{key}={value}" for key, value in found.items())


def lines_of(files: Iterable[str], option: str) -> list[str]:
    """The lines of files that say something; comments begin with ``#``."""
    found: list[str] = []
    for name in files:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"cannot read {option} {name}", _reason(error)) from error
        found += [line.lstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return found


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    words = {FileNotFoundError: "there is no such file", IsADirectoryError: "it is a folder"}
    return words.get(type(error), (error.strerror or "it cannot be read").lower())
