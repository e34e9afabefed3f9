"""After the end of a container: have what an engine gave it (network, ports, folders) released."""

from __future__ import annotations

import json
import os
import socket
import time

from core.supervise.protocol import Launch
from core.supervise.sockets import connect

PATIENCE = 5.0  # seconds an engine may take to answer


def release(launch: Launch) -> None:
    """Ask the engines that listen, one after the other; if none does it, start the one-shot clean-up."""
    end = time.monotonic() + PATIENCE
    for name in _sockets(launch.engines):
        if _asked(os.path.join(launch.engines, name), launch.id, end):
            return
    if launch.cleanup:
        _start_cleanup([*launch.cleanup, launch.id])


def _sockets(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(".sock")]
    except FileNotFoundError:
        return []


def _asked(path: str, cid: str, end: float) -> bool:
    """True where the engine behind ``path`` has released the container ``cid``."""
    left = end - time.monotonic()
    if left <= 0:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(left)
        try:
            connect(sock, path)
            sock.send(json.dumps({"op": "exited", "id": cid}).encode())
            return bool(json.loads(sock.recv(4096) or b"{}").get("ok"))
        except (ConnectionRefusedError, FileNotFoundError):
            # Left by an engine that was killed. Names are pids of live ones, so nobody needs it any more.
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            return False
        except (OSError, ValueError):
            return False


def _start_cleanup(argv: list[str]) -> None:
    """It outlives this monitor, is reaped by the launcher, and keeps nothing of ours but the error stream."""
    if os.fork() == 0:
        try:
            os.setsid()
            os.execve(argv[0], argv, {"PATH": os.defpath, "LANG": "C.UTF-8"})
        except OSError:
            os._exit(127)
