"""From the shell: `run --rm IMAGE true`, and `ps`."""

from __future__ import annotations

from functools import partial

from tests.bench.measure import Row, clock, turns
from tests.bench.place import BUSYBOX, Place, sh

ROUNDS = 11


def run(place: Place) -> list[Row]:
    rows = []
    for name, words in (("`run --rm IMAGE true`", ("run", "--rm", BUSYBOX, "true")), ("`ps -a`", ("ps", "-a"))):
        commands = {"wharf": place.wharf.command(*words), "docker": place.docker.command(*words)}
        found = turns({side: partial(clock, partial(sh, *command)) for side, command in commands.items()}, ROUNDS)
        rows.append(Row(name, "ms", found["wharf"], found["docker"], note="command line, interpreter start included"))
    return rows
