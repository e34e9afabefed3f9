"""The tags of a repository, and which of them somebody may have meant."""

from __future__ import annotations

import asyncio
import difflib
import re
from urllib.parse import parse_qsl, urlsplit

from core.errors import NotFound, Unavailable, WharfError
from core.images.answers import clean
from core.images.registry import Params, Registry, read_object
from core.names import natural

_PAGE = 1000
_MOST = 1_000_000  # tags, or repositories: more than any registry has
_FOR_NEAREST = 10_000  # tags that are looked through for a guess
_PATIENCE = 5.0  # seconds for a guess
_SHOWN = 5
_NEXT = re.compile(r"""<([^>]*)>\s*;[^,]*\brel="?next"?""", re.IGNORECASE)


def next_page(header: str) -> Params:
    """The parameters of the next page (RFC 8288, as distribution uses it); empty at the end.

    Only the parameters are taken: where to ask stays ours to say.
    """
    match = _NEXT.search(header)
    return tuple(parse_qsl(urlsplit(match[1]).query)) if match else ()


async def list_tags(registry: Registry, most: int = _MOST) -> list[str]:
    """Every tag, in the registry's order.

    :raises NotFound: no such repository
    """
    found: dict[str, None] = {}
    params: Params = (("n", str(_PAGE)),)
    while params and len(found) < most:
        data, headers = await registry.document("tags/list", "application/json", params=params)
        names = read_object(data).get("tags") or []
        before = len(found)
        if isinstance(names, list):
            found.update({clean(name): None for name in names if isinstance(name, str)})
        params = next_page(headers.get("Link", ""))
        if params and len(found) == before:
            raise Unavailable(
                f"{registry.host} lists its tags in circles", "a page brought nothing new", "Tell its keeper"
            )
    return list(found)


def nearest(wanted: str, tags: list[str]) -> list[str]:
    """Up to five that look like ``wanted``: those that begin the same first, then the similar ones."""
    alike = [tag for tag in tags if tag.startswith(wanted) or (wanted.startswith(tag) and len(tag) > 1)]
    alike.sort(key=lambda tag: (abs(len(tag) - len(wanted)), tag))
    alike += difflib.get_close_matches(wanted, tags, _SHOWN, 0.5)
    return list(dict.fromkeys(alike))[:_SHOWN]


async def with_nearest(registry: Registry, error: NotFound) -> NotFound:
    """``error`` about a missing tag, with what the repository has instead, where the registry lists it."""
    name = registry.reference
    if name.digest or not error.what.startswith("no such image"):
        return error
    try:
        async with asyncio.timeout(_PATIENCE):
            tags = await list_tags(registry, _FOR_NEAREST)
    except (WharfError, TimeoutError):
        return error
    if not tags or name.tag in tags:
        return error
    close = nearest(name.tag, tags)
    fix = (
        f"Did you mean {_either(close)}?"
        if close
        else f"Its tags: {', '.join(map(repr, sorted(tags, key=natural)[:_SHOWN]))}"
        + (
            f" and {len(tags) - _SHOWN} more: wharf registry tags {name.familiar.rpartition(':')[0]}"
            if len(tags) > _SHOWN
            else ""
        )
    )
    return NotFound(error.what, f"the repository has no tag {name.tag!r}", fix)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
