"""Unix sockets by path, however long the path is."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

_LONGEST = 100  # bytes; sun_path holds 108 (unix(7)), and ids alone take 64


def connect(sock: socket.socket, path: str) -> None:
    """:raises OSError: ``ECONNREFUSED`` or ``ENOENT`` where nobody listens"""
    _by_short_name(sock.connect, path)


def bind(sock: socket.socket, path: str) -> None:
    """Bind, in place of what a killed process has left there; 0600 (folders are 0700, and the peer is checked too)."""
    if os.path.exists(path):
        os.unlink(path)
    _by_short_name(sock.bind, path)
    os.chmod(path, 0o600)


def _by_short_name(act: Callable[[str], None], path: str) -> None:
    if len(os.fsencode(path)) <= _LONGEST:
        act(path)
        return
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        act(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)
