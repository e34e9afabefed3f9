"""Words about networks."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Network:
    """One network. ``driver`` is bridge, host or none."""

    id: str  # 64 hex digits
    name: str
    driver: str
    created: float
    subnet: str = ""  # CIDR
    gateway: str = ""
    bridge: str = ""  # name of the Linux bridge
    mtu: int = 0
    internal: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    containers: tuple[str, ...] = ()  # ids attached now

    @property
    def short_id(self) -> str:
        return self.id[:12]
