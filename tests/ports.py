"""Ports of this host for tests that say which one they want."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

_NUMBERS = itertools.count(21000 + 37 * (os.getpid() % 290))


def free_port() -> int:
    """One that nobody has at this moment, and not of those that the kernel gives out by itself."""
    for number in _NUMBERS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", number))
            return number
    raise AssertionError
