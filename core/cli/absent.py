"""Words that are no verb: docker's that we have not, with the nearest way, and what somebody may have mistyped."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.verbs import LONG_FORMS, VERBS, names_of
from core.errors import InvalidArgument

_ENDED = "`wharf rm $(wharf ps -aq -f status=exited)`"
_BUILD = "Build with another tool and `wharf load` or `wharf pull` the image; `wharf commit` makes one of a container"
_VOLUMES = "`-v NAME:/PLACE` makes a volume, `wharf system df -v` lists them"
_ONE_HOST = "This engine has one host"
# Docker's verb → the nearest way; "" where there is none. Of a group ("volume") for all that begins with it.
_ABSENT = {
    "cp": "Out: `wharf export BOX | tar x PATH`; in: `tar c FILE | wharf exec -i BOX tar x -C FOLDER`",
    "top": "`wharf exec BOX ps` lists the processes, `wharf stats` counts them",
    "rename": "Name it when you make it, by --name",
    "container prune": f"{_ENDED} removes those that have ended",
    "system prune": f"`wharf image prune`, `wharf network prune` and {_ENDED}",
    "volume": _VOLUMES,
    "build": _BUILD,
    "image build": _BUILD,
    "buildx": _BUILD,
    "builder": _BUILD,
    "compose": "Make networks by `wharf network create`, and containers on them by `wharf run --network`",
    "context": "--root and --run choose the instance",
    "manifest": "`wharf registry tags` and `wharf image check` ask registries",
    "plugin": "",
    "trust": "",
    **dict.fromkeys(("swarm", "node", "service", "stack", "secret", "config"), _ONE_HOST),
}
_SAME_OF_CONTAINERS = ("cp", "top", "rename")


def no_verb(words: Sequence[str]) -> InvalidArgument:
    """The error for a command line whose first words are no verb of ours."""
    first, second = words[0], words[1] if len(words) > 1 else ""
    for name in (f"{first} {second}", first, second if first == "container" else ""):
        if name in _ABSENT and (name != second or name in _SAME_OF_CONTAINERS):
            return InvalidArgument(f"{name!r} is a command of docker that is not there yet", "", _ABSENT[name])
    group = first if first in LONG_FORMS and second else ""
    said = f"{first} {second}" if group else first
    guess = _nearest(second, names_of(group)) if group else _nearest(first, [*VERBS, *LONG_FORMS])
    help_of = f"{group} --help" if group else "--help"
    hint = f"Did you mean `wharf {f'{group} ' if group else ''}{guess}`? " if guess else ""
    return InvalidArgument(f"{said!r} is not a wharf command", "", f"{hint}See `wharf {help_of}`")


def _nearest(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # late: only those who mistype need it

    return next(iter(get_close_matches(word, [name for name in known if " " not in name], 1, 0.6)), "")
