"""A monitor's descriptors in the hands of others, and how it learns that they have let go of them.

With the last descriptor that one has, a host port is free: who promises that has to wait for the launcher and the
proxy, which do on their own time what they are told.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from core.supervise.protocol import Message, send

if TYPE_CHECKING:
    from core.kernel import memory

SETTLED = "settled"  # name of a descriptor that is closed when all that was told is done
_PATIENCE = 1.0  # seconds


def give(
    launcher: socket.socket,
    kept: Mapping[str, int],
    pid: int,
    pages: memory.Pages = (),
    *,
    settled: bool = False,
    starting: bool = False,
) -> None:
    """Have the launcher hold copies of these, in place of all that it has from us. Where it was killed, nothing is
    done: a new one asks for them (``keep`` of :mod:`core.supervise.service`).

    :param pid: of the container's first process
    :param pages: of our memory, which a start writes to
    :param settled: wait until it has closed those that it had
    :param starting: nobody knows yet that the container runs
    """
    message: Message = {"keep": list(kept), "pid": pid, **({"pages": pages} if pages else {})}
    if starting:
        message["starting"] = True
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        fds = list(kept.values())
        if settled:
            message["keep"] = [*kept, SETTLED]
            fds.append(stack.enter_context(until_settled()))
        send(launcher, message, fds)


@contextlib.contextmanager
def until_settled() -> Iterator[int]:
    """A descriptor to be sent with a message. The block ends when whoever got it has closed it (as its own end does),
    or a second later."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            yield writing
        finally:
            os.close(writing)
        poll = select.poll()
        poll.register(reading, 0)  # of a hang-up one always hears
        poll.poll(_PATIENCE * 1000)
    finally:
        os.close(reading)
