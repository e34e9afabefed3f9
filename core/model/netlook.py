"""Words about looking at networks: what a check found, live connections, counters of interfaces, the map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from core.model.container import EndpointInfo, PortMapping, State
from core.model.network import Network, Reach

T = TypeVar("T")


@dataclass(frozen=True)
class NetStep:
    """One link of the way that packets take, looked at. ``status``: ok, warning, broken, skipped."""

    subject: str  # whose: "network web", "container db"
    name: str  # the link: bridge, firewall, gateway …
    status: str
    found: str
    fix: str = ""  # how to mend it


@dataclass(frozen=True)
class Connection:
    """A connection of a container at one moment; rates are the difference of two (:func:`rate`)."""

    container: str  # id
    protocol: str  # tcp or udp
    local_ip: str
    local_port: int
    remote_ip: str  # the real one, also where the host translates it
    remote_port: int
    state: str  # established, time-wait, listen …; of UDP: assured, new, open (a socket that anybody may send to)
    time: float  # time.monotonic() seconds when read
    remote: str = ""  # who that is, where we know: a container's name, "host", "gateway"
    via: str = ""  # IP:PORT on the host, where it is translated: the published port, or the address outside
    pid: int = 0  # of one process that has it, as the host counts; 0: none is left, or nobody can know
    process: str = ""
    sent: int | None = None  # bytes since it began; None: the kernel does not count them
    received: int | None = None

    @property
    def key(self) -> tuple[str, str, str, int, str, int]:
        """The same connection has the same one in every sample."""
        return self.container, self.protocol, self.local_ip, self.local_port, self.remote_ip, self.remote_port


@dataclass(frozen=True)
class InterfaceSample:
    """Counters of one interface of a container, as the container sees them: bytes and packets since it was made."""

    container: str  # id
    network: str
    name: str  # in the container
    host: str  # its end on the host; "" where there is none (macvlan, ipvlan)
    time: float  # time.monotonic() seconds when read
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True)
class MapPort:
    """A published port on the map."""

    port: PortMapping
    reach: Reach | None = None  # who can reach it; None: its container does not run


@dataclass(frozen=True)
class MapPlace:
    """A container's place on a network."""

    container: str  # id
    name: str
    state: State
    endpoint: EndpointInfo | None = None  # None: it does not run, or the network gives no address (host, none)
    shares: str = ""  # name of the container whose network namespace it uses
    ports: tuple[MapPort, ...] = ()  # at their first place only: a port leads to one address


@dataclass(frozen=True)
class NetworkMap:
    """A network, and who is on it: those that run, and those that will be when they are started."""

    network: Network
    places: tuple[MapPlace, ...] = ()


def port_ranges(
    items: Iterable[T], port: Callable[[T], PortMapping], alike: Callable[[T], object] = lambda _: None
) -> list[list[T]]:
    """Published ports that lie side by side, put together as docker's lists have them: 8080-8089->80-89/tcp.

    :param port: of an item
    :param alike: what else those of one range must have in common
    """
    order = sorted(items, key=lambda i: (port(i).protocol, port(i).host_ip, port(i).container_port, port(i).host_port))
    found: list[list[T]] = []
    for item in order:
        last = found[-1][-1] if found else None
        if last is not None and _next(port(last)) == port(item) and alike(last) == alike(item):
            found[-1].append(item)
        else:
            found.append([item])
    return found


def _next(port: PortMapping) -> PortMapping:
    """The one behind it. Of those that the kernel has yet to choose, each is 0."""
    step = 1 if port.host_port else 0
    return replace(port, container_port=port.container_port + 1, host_port=port.host_port + step)


def port_numbers(group: Sequence[PortMapping]) -> tuple[str, str]:
    """The host's and the container's, of one of :func:`port_ranges`: ``8080-8089``, ``80-89``; ``80`` where there is
    one, ``?`` where the kernel has yet to choose."""
    first, last = group[0], group[-1]
    host = f"{first.host_port}-{last.host_port}" if last.host_port != first.host_port else str(first.host_port or "?")
    inner = f"{first.container_port}-{last.container_port}" if len(group) > 1 else str(first.container_port)
    return host, inner


def rate(before: int | None, now: int | None, seconds: float) -> float | None:
    """Units per second; None where one of them is not known, or no time has passed."""
    if before is None or now is None or seconds <= 0:
        return None
    return max(0, now - before) / seconds
