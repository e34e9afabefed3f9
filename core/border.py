"""The border of the engine: what its callers see are the errors of :mod:`core.errors` only."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from core.errors import NoSpace, Timeout, WharfError

P = ParamSpec("P")
R = TypeVar("R")


def _translated(error: OSError, doing: str) -> WharfError:
    """The engine's error for one of the operating system's that no step has explained."""
    place = f"{error.filename}: " if error.filename else ""
    why = f"{place}{error.strerror or error}"
    # What an undo could not do was noted on the exception: core.store.journal.
    left = tuple(getattr(error, "__notes__", ()))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "Free some space on the disk of the data root, and try again"
        return NoSpace(f"cannot {doing}: the disk is full", why, fix, step=doing, cleanup=left)
    if isinstance(error, TimeoutError):
        return Timeout(f"cannot {doing}", why or "it took too long", "Try again", step=doing, cleanup=left)
    return WharfError(f"cannot {doing}", why, "`wharf doctor` looks at this host", step=doing, cleanup=left)


def verb(doing: str) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """For a method that is a verb; ``doing`` completes "cannot …"."""

    def wrap(method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        @functools.wraps(method)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return await method(*args, **kwargs)
            except OSError as error:
                raise _translated(error, doing) from error

        return call

    return wrap
