"""``--ulimit`` to the specification's ``process.rlimits``."""

from __future__ import annotations

import resource
from collections.abc import Sequence

from core.errors import InvalidArgument
from core.kernel import caps
from core.runtime.defaults import Json


def rlimits(ulimits: Sequence[str]) -> list[Json]:
    """From ``nofile=1024:2048``.

    :raises InvalidArgument: no such limit, or a hard limit above our own that we may not raise
    """
    limits: list[Json] = []
    for text in ulimits:
        name, _, values = text.partition("=")
        soft_text, _, hard_text = values.partition(":")
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        try:
            soft = _limit(soft_text)
            hard = _limit(hard_text) if hard_text else soft
        except ValueError:
            number = None
        if number is None:
            raise InvalidArgument(f"invalid ulimit {text!r}", "it is not like nofile=1024:2048", "See setrlimit(2)")
        if soft > hard:
            raise InvalidArgument(f"invalid ulimit {text!r}", "the soft limit exceeds the hard one", "Swap them")
        _check_hard_limit(text, number, hard)
        limits.append({"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard})
    return limits


def _check_hard_limit(text: str, number: int, hard: int) -> None:
    own = resource.getrlimit(number)[1]
    if own == resource.RLIM_INFINITY or hard <= own or "CAP_SYS_RESOURCE" in caps.bounding():
        return
    raise InvalidArgument(
        f"cannot raise {text!r}",
        f"this host's own hard limit is {own} and CAP_SYS_RESOURCE is missing",
        f"Ask for at most {own}",
    )


def _limit(text: str) -> int:
    value = int(text)
    if not -1 <= value < 1 << 64:
        raise ValueError
    return (1 << 64) - 1 if value == -1 else value
