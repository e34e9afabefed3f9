"""Paths that users type: what the file system refuses to tell of them is no error yet."""

from __future__ import annotations

import os
from pathlib import Path


def typed(words: str) -> Path:
    """With ``~`` and ``~user`` replaced, where there is such a user."""
    return Path(os.path.expanduser(words))


def proposed(name: str) -> str:
    """A file ``name`` in the working directory, which may be gone."""
    try:
        return str(Path.cwd() / name)
    except OSError:
        return str(Path.home() / name)


def complaint(target: Path, *, replace: bool) -> str:
    """Why no archive can be written there, as far as it can be seen beforehand.

    :param replace: a file that is there may be replaced
    """
    # These functions answer False where Path's methods raise: no permission, a name too long.
    if os.path.isdir(target):
        return f"{target} is a folder"
    return f"{target} is there already" if os.path.exists(target) and not replace else ""
