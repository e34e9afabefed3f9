"""What people look for in layers: a path, a glob, or a part of a name. Paths are bytes, without a leading slash."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from core.errors import InvalidArgument

_MAGIC = frozenset("*?[")


def matcher(pattern: str) -> Callable[[bytes], object]:
    """A test for paths.

    ``/etc/passwd``: that path. With ``*``, ``?`` or ``[…]``: a glob, of the whole path where it has a slash, else of
    the name alone; ``*`` stops at slashes and ``**`` does not. Anything else: a part of the path.

    :raises InvalidArgument: empty, or a set without an end
    """
    if not pattern.strip("/"):
        raise InvalidArgument("nothing to look for", "the pattern is empty", "Give a path, a glob or a part of a name")
    if not _MAGIC & set(pattern):
        if pattern.startswith("/"):
            return os.fsencode(pattern.strip("/")).__eq__
        part = os.fsencode(pattern)
        return lambda path: part in path
    whole = "/" in pattern
    text = pattern.removeprefix("/")
    try:
        found = re.compile(os.fsencode(_translate(text)), re.DOTALL)
    except re.error as error:
        why, fix = str(error), "Sets are like [a-z] or [!0-9]"
        raise InvalidArgument(f"the glob {pattern!r} cannot be read", why, fix) from None
    if whole:
        return found.fullmatch
    return lambda path: found.fullmatch(path, path.rfind(b"/") + 1)


def _translate(glob: str) -> str:
    """The glob as a regular expression."""
    out, at = [], 0
    while at < len(glob):
        char = glob[at]
        at += 1
        if char == "*":
            if glob[at : at + 1] != "*":
                out.append("[^/]*")
            elif glob[at + 1 : at + 2] == "/":
                out.append("(?:.*/)?")  # `**/x` finds x at the top, too
                at += 2
            else:
                out.append(".*")
                at += 1
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := glob.find("]", at + (glob[at : at + 1] in ("!", "^")) + 1)) > 0:
            inside = glob[at:end].replace("\\", "\\\\").replace("[", "\\[").replace("&", "\\&").replace("~", "\\~")
            inside = inside.replace("|", "\\|")
            out.append(f"[^/{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]")
            at = end + 1
        else:
            out.append(re.escape(char))
    return "".join(out)
