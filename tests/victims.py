"""Processes that end in the middle of their work, forked one by one from a process that has imported what they need:
of a test that has one killed at each step, starting Python would be the longer part."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

HOUSE = Path(__file__).resolve().parents[1]


class Victims:
    """:param module: its ``main(words)`` is what each process runs"""

    def __init__(self, module: str) -> None:
        argv = [sys.executable, "-m", "tests.victims", module]
        self._server = subprocess.Popen(argv, cwd=HOUSE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, *words: object) -> int:
        """One process to its end. :returns: its exit code, or below zero the signal that killed it"""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.communicate()


@contextmanager
def victims(module: str) -> Iterator[Victims]:
    made = Victims(module)
    try:
        yield made
    finally:
        made.close()


def _serve(module: str) -> None:
    main = importlib.import_module(module).main
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(main, json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(main: object, words: list[str]) -> NoReturn:
    code = 1
    try:
        os.dup2(2, 1)  # the other end takes what is written there for an answer
        main(words)  # type: ignore[operator]
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
