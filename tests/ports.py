"""Ports of this host for tests that say which one they want."""

from __future__ import annotations

import contextlib
import itertools
import socket
from pathlib import Path

from tests.shares import MOST, SHARE

_MANY = 400  # ports of each test process
_KINDS = (
    (socket.AF_INET, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_INET6, socket.SOCK_STREAM),
    (socket.AF_INET6, socket.SOCK_DGRAM),
)


def _own() -> range:
    """Below those that the kernel gives out by itself: of these another socket may get one at any moment. And no other
    test process looks in here."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    top = lowest if lowest >= 10_000 + MOST * _MANY else 32_768
    return range(top - (SHARE + 1) * _MANY, top - SHARE * _MANY)


_NUMBERS = itertools.cycle(_own())


def free_port() -> int:
    """One that nobody has at this moment, in either protocol or version of IP; not the one of the last call."""
    for number in itertools.islice(_NUMBERS, _MANY):
        with contextlib.suppress(OSError):
            for family, kind in _KINDS:
                _try(family, kind, number)
            return number
    raise AssertionError("no port is free")


def _try(family: int, kind: int, number: int) -> None:
    """:raises OSError: somebody has it"""
    with contextlib.ExitStack() as stack:
        try:
            probe = stack.enter_context(socket.socket(family, kind))
        except OSError:
            return  # this kernel has no IPv6
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(("", number))
