"""The container's resolver (:mod:`core.dns`) in its monitor: names resolve as long as that lives, restarts included."""

from __future__ import annotations

import os
import socket

from core.dns import TCP, UDP, Loop
from core.dns.server import Server
from core.dns.zone import Zone, container_file
from core.supervise.protocol import Launch


class Resolver:
    """Serves on descriptors that stay their owner's."""

    @classmethod
    def make(cls, loop: Loop, launch: Launch, kept: dict[str, int]) -> Resolver | None:
        """None for a container that has no sockets for it: it is on no user-defined network."""
        return cls(loop, launch, kept[UDP], kept[TCP]) if UDP in kept and TCP in kept else None

    def __init__(self, loop: Loop, launch: Launch, udp: int, tcp: int) -> None:
        self._sockets = socket.socket(fileno=udp), socket.socket(fileno=tcp)
        self._server = Server(loop, *self._sockets, Zone(run_of(launch), launch.id))

    def close(self) -> None:
        self._server.close()
        for sock in self._sockets:
            sock.detach()


def run_of(launch: Launch) -> str:
    """The instance's run folder, in which that of the container is ``c/ID``."""
    return os.path.dirname(os.path.dirname(launch.run_dir))


def open_sockets(launch: Launch, kept: dict[str, int]) -> None:
    """Have sockets in ``kept``, where the container needs some and has none.

    :raises OSError: the kernel refused
    """
    if "netns" not in kept or UDP in kept or not os.path.exists(container_file(run_of(launch), launch.id)):
        return
    # Here, so that the others need not carry it.
    from core.dns import sockets

    udp, tcp = sockets.open_sockets(kept["netns"])
    kept[UDP], kept[TCP] = udp.detach(), tcp.detach()
