"""A process that works on an image store and is killed at a moment that its parent chooses.

``main([FOLDER, MOMENT, VERB, WORD])``: at the ``MOMENT``-th thing that it does to the disk, before it is done, SIGKILL.
What counts is what Python tells its audit hooks (PEP 578) of files and processes, and each statement that changes the
database.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from core.images import archive, pull, registry  # noqa: F401  (what they write while imported is nobody's)
from core.store import db
from tests.images_lab import finish, open_store

_EVENTS = frozenset(
    "os.rename os.remove os.rmdir os.mkdir os.truncate os.link os.symlink os.chmod os.chown os.utime os.setxattr "
    "fcntl.flock subprocess.Popen".split()
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_STATEMENTS = ("BEGIN IMMEDIATE", "COMMIT", "INSERT", "UPDATE", "DELETE")


class Killer:
    def __init__(self, moment: int) -> None:
        self._moment = moment
        self.count = 0

    def tick(self) -> None:
        self.count += 1
        if self.count == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, args: tuple[object, ...]) -> None:
        if event in _EVENTS or (event == "open" and isinstance(args[2], int) and args[2] & _WRITING):
            self.tick()

    def trace(self, statement: str) -> None:
        if statement.upper().startswith(_STATEMENTS):
            self.tick()


def _watched(killer: Killer) -> type[sqlite3.Connection]:
    class Watched(sqlite3.Connection):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            self.set_trace_callback(killer.trace)

    return Watched


async def work(folder: Path, verb: str, word: str) -> None:
    async with open_store(folder) as images:
        if verb == "pull":
            await finish(images.pull(word))
        elif verb == "load":
            await finish(images.load(Path(word)))
        else:
            await images.remove(word, False, lambda _: [])


def main(words: Sequence[str]) -> None:
    folder, moment, verb, word = words
    killer = Killer(int(moment))
    connect, watched = sqlite3.connect, _watched(killer)
    db.sqlite3.connect = lambda *args, **more: connect(*args, factory=watched, **more)  # type: ignore[attr-defined]
    sys.addaudithook(killer.audit)
    asyncio.run(work(Path(folder), verb, word))
