"""A monitor forked in advance: the next start finds it waiting, and pays neither for the fork nor for the first touch
of memory that a forked process shares with its parent (hundreds of page faults)."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import cast

from core.errors import Unavailable
from core.kernel import process
from core.supervise.loop import Loop
from core.supervise.protocol import Launch, Message, receive, send

TITLE = "wharf-spare"


@dataclass(frozen=True)
class Spare:
    """The launcher's end: a forked process that waits on ``line``."""

    pid: int
    line: socket.socket

    def give(self, launch: object, fds: dict[str, int], reply: int) -> bool:
        """Hand a launch over.

        :param launch: as it came from the engine
        :param reply: the engine's connection
        :returns: False where it is gone
        """
        try:
            send(self.line, {"launch": launch, "fds": list(fds)}, [reply, *fds.values()])
        except OSError:
            return False
        return True


def wait_for_work(line: socket.socket) -> tuple[Launch, dict[str, int], socket.socket] | None:
    """In the forked process: what to start, the descriptors by name, and the engine's connection; None where the
    launcher has left without need of it."""
    _touch(line)
    line.settimeout(None)
    try:
        message, fds = receive(line)
    except (EOFError, OSError, Unavailable):
        return None
    names = cast("list[str]", message["fds"])
    reply = socket.socket(fileno=fds[0])
    return Launch.from_plain(cast(Message, message["launch"])), dict(zip(names, fds[1:], strict=True)), reply


def _touch(line: socket.socket) -> None:
    """Run once through what every start does, so that its pages are our own by then."""
    loop = Loop()
    loop.watch(line.fileno(), lambda events: None)
    loop.unwatch(line.fileno())
    loop.close()
    process.start_time(os.getpid())
    json.loads(json.dumps({"op": "launch", "fds": ["netns"], "numbers": [0, 1.5]}))
