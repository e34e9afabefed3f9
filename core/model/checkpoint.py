"""Words about checkpoints: a container's processes, saved to go on later."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointOptions:
    """What is taken along beside memory and open files; without it, a container that has such a thing is refused.

    :param tcp_established: established TCP connections; the restored container needs the same address
    :param file_locks: locks on files; sound only where no process outside holds one on the same file
    :param ext_unix: unix sockets whose other end is outside; restored, they have no peer
    """

    tcp_established: bool = False
    file_locks: bool = False
    ext_unix: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a container, in the store or in an archive."""

    name: str  # "" where it is in an archive alone
    container: str  # id
    created: float  # seconds since the epoch
    size: int  # bytes, of the images or of the archive
    criu: str = ""  # version
    options: CheckpointOptions = CheckpointOptions()
