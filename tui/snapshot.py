"""What the panes show: one frozen picture of the engine, with rates worked out from two readings. Pure; no Textual."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from core.model import Container, HostSample, Image, InterfaceSample, Network, Reach, Sample
from core.model.netlook import rate

HISTORY = 120  # readings kept per container: two minutes at one a second


def repository(name: str) -> str:
    """A reference without its tag or digest."""
    name = name.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def registry_of(name: str) -> str:
    """The registry that a name begins with; "" where it has none: that is Docker Hub."""
    registry, slash, _ = name.partition("/")
    named = slash and (registry == "localhost" or "." in registry or ":" in registry) and registry != "docker.io"
    return registry if named else ""


def image_name(image: Image) -> str:
    """Its first tag without what Docker leaves out too; of one that was pulled by digest its repository with that
    digest cut short; ``<none>`` for one without any name."""
    if image.tags:
        return familiar(image.tags[0])
    repository, _, digest = image.repo_digests[0].partition("@") if image.repo_digests else ("", "", "")
    return f"{familiar(repository)}@{digest.removeprefix('sha256:')[:12]}" if digest else f"<none> {image.short_id}"


def familiar(reference: str) -> str:
    """A full reference as people write it."""
    return reference.removeprefix("docker.io/library/").removeprefix("docker.io/")


def listed(names: Iterable[str], most: int) -> str:
    """``a, b and 5 more``."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


@dataclass(frozen=True)
class Usage:
    """One container's consumption. CPU in percent of one CPU, rates in bytes a second; ``None``: not known yet."""

    sample: Sample
    cpu: float | None = None
    throttled: float | None = None  # percent of the time that it waited for its quota
    block_read: float | None = None
    block_write: float | None = None
    net_rx: float | None = None
    net_tx: float | None = None
    cpu_history: tuple[float, ...] = ()
    memory_history: tuple[float, ...] = ()
    block_history: tuple[float, ...] = ()
    net_history: tuple[float, ...] = ()


@dataclass(frozen=True)
class HostUsage:
    """The host's consumption. ``cpu`` in percent of all CPUs."""

    sample: HostSample
    cpu: float | None = None
    cpu_history: tuple[float, ...] = ()


class Flow(NamedTuple):
    """What passes by one interface or several, in bytes a second, as the containers see it."""

    received: float
    sent: float


@dataclass(frozen=True)
class Snapshot:
    """Everything on the first screen at one moment. ``listed`` is False until the first lists arrived."""

    listed: bool = False
    now: float = 0.0  # seconds since the epoch
    containers: tuple[Container, ...] = ()
    images: tuple[Image, ...] = ()
    networks: tuple[Network, ...] = ()
    usage: dict[str, Usage] = field(default_factory=dict)
    reach: dict[str, tuple[Reach, ...]] = field(default_factory=dict)  # by the container's name
    traffic: dict[tuple[str, str], Flow] = field(default_factory=dict)  # by container's id and network's name
    host: HostUsage | None = None
    hostname: str = ""

    def container(self, cid: str | None) -> Container | None:
        """The container with that full id."""
        return next((c for c in self.containers if c.id == cid), None)

    def image(self, image_id: str | None) -> Image | None:
        return next((i for i in self.images if i.id == image_id), None)

    def network(self, network_id: str | None) -> Network | None:
        return next((n for n in self.networks if n.id == network_id), None)

    def flow_of(self, network: str) -> Flow | None:
        """What passes between a network and its containers; None where nobody has looked yet."""
        flows = [flow for (_, name), flow in self.traffic.items() if name == network]
        return Flow(sum(flow.received for flow in flows), sum(flow.sent for flow in flows)) if flows else None


class _Track:
    """The last reading of one container and its short history."""

    def __init__(self) -> None:
        self.last: Sample | None = None
        self.cpu: deque[float] = deque(maxlen=HISTORY)
        self.memory: deque[float] = deque(maxlen=HISTORY)
        self.block: deque[float] = deque(maxlen=HISTORY)
        self.net: deque[float] = deque(maxlen=HISTORY)

    def add(self, sample: Sample) -> Usage:
        last, self.last = self.last, sample
        self.memory.append(float(sample.memory))
        # A counter that went back belongs to a new run of the container: its rates begin anew.
        if last is None or sample.time <= last.time or sample.cpu_ns < last.cpu_ns:
            return Usage(sample, memory_history=tuple(self.memory))
        seconds = sample.time - last.time
        read, write = (
            max(0, sample.block_read - last.block_read) / seconds,
            max(0, sample.block_write - last.block_write) / seconds,
        )
        rx, tx = max(0, sample.net_rx - last.net_rx) / seconds, max(0, sample.net_tx - last.net_tx) / seconds
        cpu = (sample.cpu_ns - last.cpu_ns) / 1e7 / seconds
        self.cpu.append(cpu)
        self.block.append(read + write)
        self.net.append(rx + tx)
        return Usage(
            sample,
            cpu=cpu,
            throttled=min(100.0, max(0, sample.throttled_ns - last.throttled_ns) / 1e7 / seconds),
            block_read=read,
            block_write=write,
            net_rx=rx,
            net_tx=tx,
            cpu_history=tuple(self.cpu),
            memory_history=tuple(self.memory),
            block_history=tuple(self.block),
            net_history=tuple(self.net),
        )


class Rates:
    """Turns readings into :class:`Usage`; keeps a history of every container that is still read."""

    def __init__(self) -> None:
        self._tracks: dict[str, _Track] = {}
        self._interfaces: dict[tuple[str, str], InterfaceSample] = {}
        self._host: HostSample | None = None
        self._host_history: deque[float] = deque(maxlen=HISTORY)

    def add(self, samples: Iterable[Sample]) -> dict[str, Usage]:
        """The usage of each sampled container, by id."""
        return {sample.id: self._tracks.setdefault(sample.id, _Track()).add(sample) for sample in samples}

    def keep(self, ids: Iterable[str]) -> None:
        """Forget all but these containers."""
        kept = set(ids)
        for cid in [cid for cid in self._tracks if cid not in kept]:
            del self._tracks[cid]

    def interfaces(self, samples: Iterable[InterfaceSample]) -> dict[tuple[str, str], Flow]:
        """What passes by each interface since the reading before."""
        last, self._interfaces = self._interfaces, {(one.container, one.network): one for one in samples}
        found = {}
        for key, now in self._interfaces.items():
            before = last.get(key)
            if before is not None and before.name == now.name:
                seconds = now.time - before.time
                received, sent = (
                    rate(before.rx_bytes, now.rx_bytes, seconds),
                    rate(before.tx_bytes, now.tx_bytes, seconds),
                )
                if received is not None and sent is not None:
                    found[key] = Flow(received, sent)
        return found

    def host(self, sample: HostSample) -> HostUsage:
        """The host's usage since the reading before."""
        last, self._host = self._host, sample
        if last is None or sample.cpu_total <= last.cpu_total:
            return HostUsage(sample, None, tuple(self._host_history))
        busy = 100.0 * (sample.cpu_busy - last.cpu_busy) / (sample.cpu_total - last.cpu_total)
        self._host_history.append(min(100.0, max(0.0, busy)))
        return HostUsage(sample, self._host_history[-1], tuple(self._host_history))
