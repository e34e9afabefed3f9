"""Words about networks."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.model.container import PortMapping

# Options of the drivers, by the names that Docker's clients use.
BRIDGE_NAME = "com.docker.network.bridge.name"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
PUBLISH_ADDRESS = "com.docker.network.bridge.host_binding_ipv4"
MTU = "com.docker.network.driver.mtu"
PARENT, MACVLAN_MODE, IPVLAN_MODE, IPVLAN_FLAG = "parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag"
HOST_SHIM = "host_shim"  # macvlan: the address by which the host itself is on that network


@dataclass(frozen=True)
class Subnet:
    """One range of addresses of a network, IPv4 or IPv6, with what its containers must not get."""

    subnet: str = ""  # CIDR; "": a free one is chosen
    gateway: str = ""  # "": the first address
    ip_range: str = ""  # CIDR within it, from which containers get addresses; "": all of it
    reserved: dict[str, str] = field(default_factory=dict)  # name → address of some other host (--aux-address)

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.subnet else 4


@dataclass(frozen=True)
class NetworkSpec:
    """All that creating a network is asked for. ``driver`` is bridge, macvlan or ipvlan."""

    name: str
    driver: str = "bridge"
    subnets: tuple[Subnet, ...] = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """One network. ``driver`` is bridge, macvlan, ipvlan, host or null."""

    id: str  # 64 hex digits
    name: str
    driver: str
    created: float
    subnets: tuple[Subnet, ...] = ()
    bridge: str = ""  # name of the Linux bridge, or of the interface that macvlan and ipvlan are on
    mtu: int = 0
    internal: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    containers: tuple[str, ...] = ()  # ids attached now

    @property
    def short_id(self) -> str:
        return self.id[:12]

    def of_version(self, version: int) -> tuple[Subnet, ...]:
        """Its IPv4 or IPv6 subnets."""
        return tuple(one for one in self.subnets if one.version == version)

    @property
    def subnet(self) -> str:
        """The first one, "" for none."""
        return self.subnets[0].subnet if self.subnets else ""

    @property
    def gateway(self) -> str:
        return self.subnets[0].gateway if self.subnets else ""

    @property
    def ipv6(self) -> bool:
        return bool(self.of_version(6))

    @property
    def icc(self) -> bool:
        """May its containers speak with each other?"""
        return is_on(self.options.get(ICC, "true"))

    @property
    def masquerade(self) -> bool:
        """Does what leaves the host bear the host's address?"""
        return is_on(self.options.get(MASQUERADE, "true"))

    @property
    def publish_address(self) -> str:
        """Where ports are published that name no address of the host; "": on all of them."""
        return self.options.get(PUBLISH_ADDRESS, "")


def is_network(word: str) -> bool:
    """Does ``--network`` name a network? Not the modes: ``none``, ``host`` and ``container:ID``."""
    return word not in ("host", "none") and not word.startswith("container:")


def is_on(word: str) -> bool:
    """Docker's spelling of true and false (Go's strconv.ParseBool)."""
    return word.lower() in ("1", "t", "true")


@dataclass(frozen=True)
class Reach:
    """Who can reach one published port, as this host is set up now.

    ``scope`` is ``host`` (programs of this host), ``lan`` (the networks that this host is on), ``everyone`` or
    ``nobody``; containers of this host come by its addresses as well.
    """

    container: str  # name
    port: PortMapping
    scope: str
    addresses: tuple[str, ...]  # where it can be called, like "192.0.2.7 (eth0)"
    rule: str  # what says so
    warnings: tuple[str, ...] = ()
