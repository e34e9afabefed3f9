"""A container's sockets, whose they are, and what the host translates; see :mod:`core.kernel.sockdiag`."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from core.kernel import sockdiag
from core.kernel.sockdiag import Socket

_FD = re.compile(r"^socket:\[(\d+)\]$")
_FAMILIES = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6, "udp": socket.AF_INET, "udp6": socket.AF_INET6}


def every() -> list[Socket]:
    """All TCP and UDP sockets of the calling thread's namespace."""
    try:
        return sockdiag.sockets()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EPROTONOSUPPORT):
            raise
        return list(from_proc())


def from_proc() -> Iterator[Socket]:
    """The same by proc_pid_net(5), without counters: for kernels without inet_diag."""
    for table, family in _FAMILIES.items():
        try:
            lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            words = line.split()
            local, remote = (_end(family, word) for word in words[1:3])
            yield Socket(table[:3], int(words[3], 16), *local, *remote, int(words[9]))


def _end(family: int, text: str) -> tuple[str, int]:
    """``0100007F:1F90``: each 32 bits of the address as a number in the host's byte order."""
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    return sockdiag.plain(family, struct.pack(f"={len(words)}I", *words)), int(port, 16)


def processes_of(namespace: int, kind: str = "net") -> list[int]:
    """Pids of whatever is in the namespace of that kind with that number (its inode), threads' own ones left out."""
    wanted, found = f"{kind}:[{namespace}]", []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.readlink(f"/proc/{name}/ns/{kind}") == wanted:
                    found.append(int(name))
            except OSError:
                continue  # it ended, or is another user's
    return found


def holders(pids: Collection[int]) -> dict[int, tuple[int, str]]:
    """(pid, name) of a process for the inode of every socket that they have open. Of several that share one, as a
    server and its children do, the oldest."""
    found: dict[int, tuple[int, str]] = {}
    for pid in sorted(pids):
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                links = [os.readlink(entry.path) for entry in entries]
            name = Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
        except OSError:
            continue
        for link in links:
            if match := _FD.match(link):
                found.setdefault(int(match[1]), (pid, name))
    return found
