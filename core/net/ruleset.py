"""What is in the instance's nft table: its sets, as the database fills them, and a dozen rules that never change.

::

    raw          prerouting -300  from our bridges: nothing to or from 127/8, nothing in the name of an address that is
                                  not the network's own (from_container); from an internal one nothing to any other
                                  address of the host (from_internal); loopback ports only over lo
    prerouting   nat -100         to this host, port published → container
    output       nat -100         the same for what the host itself sends
    forward      filter 0         to a bridge: replies, same bridge, published ports; nothing else
                                  from a bridge: all but internal networks, and Docker's own bridges
                                  neither: nothing, if it is we who made a router of this host
    postrouting  nat 100          from a container's subnet out: masquerade; hairpin; from 127/8: masquerade

IPv4 and IPv6 have the same rules, and sets of their own (``…6``).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from core.kernel import nftables as nft
from core.model import Network, Subnet
from core.model.network import MASQUERADE

_PROTOCOL, _SERVICE, _IFNAME = nft.TYPE_PROTOCOL, nft.TYPE_SERVICE, nft.TYPE_IFNAME
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_LOCAL6 = ipaddress.IPv6Network("fc00::/7")  # RFC 4193: no router of the Internet knows them


@dataclass(frozen=True)
class Family:
    """What differs between the versions of IP: sets, and where things are in registers and headers."""

    number: int  # NFPROTO_*
    any: nft.SetSpec
    bound: nft.SetSpec
    local: nft.SetSpec
    subnets: nft.SetSpec
    size: int  # bytes of an address
    source: int  # offsets in the header
    destination: int
    behind: int  # register behind an address in register 1

    @classmethod
    def make(cls, number: int, suffix: str, address: int, size: int, source: int) -> Family:
        return cls(
            number,
            # Names that are no keywords of nft: what it lists it can load again.
            nft.SetSpec(f"publish_any{suffix}", (_PROTOCOL, _SERVICE), (address, _SERVICE)),
            nft.SetSpec(f"publish_ip{suffix}", (address, _PROTOCOL, _SERVICE), (address, _SERVICE)),
            nft.SetSpec(f"local{suffix}", (address, _IFNAME), interval=True),
            nft.SetSpec(f"subnets{suffix}", (address,), interval=True),
            size, source, source + size, 8 + size // 4,
        )  # fmt: skip

    @property
    def this(self) -> bytes:
        """Go on only with packets of this version."""
        return nft.meta(nft.META_NFPROTO) + nft.compare(bytes([self.number]))

    @property
    def from_address(self) -> bytes:
        return nft.network_header(self.source, self.size)

    @property
    def to_address(self) -> bytes:
        return nft.network_header(self.destination, self.size)


V4 = Family.make(nft.IPV4, "", nft.TYPE_ADDRESS, 4, 12)
V6 = Family.make(nft.IPV6, "6", nft.TYPE_ADDRESS6, 16, 8)
FAMILIES = (V4, V6)
BRIDGES = nft.SetSpec("bridges", (_IFNAME,))
INTERNAL = nft.SetSpec("internal", (_IFNAME,))
NEIGHBOURS = nft.SetSpec("neighbours", (_IFNAME,))
GUARDED = nft.SetSpec("guarded", (nft.TYPE_NFPROTO,))  # see core.net.guard
PAIRS = nft.SetSpec("same_bridge", (_IFNAME, _IFNAME))
ON_LOOPBACK = nft.SetSpec("on_loopback", (nft.TYPE_ADDRESS, _PROTOCOL, _SERVICE))
OF_PORTS = (V4.any, V4.bound, V6.any, V6.bound, ON_LOOPBACK)
SETS = (*OF_PORTS, BRIDGES, INTERNAL, NEIGHBOURS, GUARDED, PAIRS, V4.local, V6.local, V4.subnets, V6.subnets)

_MADE_HERE = ("bridge", "tun", "wireguard", "openvswitch")
_ESTABLISHED = nft.ct_bits(0, 0x2 | 0x4)  # established, related
_DNATTED = nft.ct_bits(2, 0x20)
_LOOPBACK = nft.compare(b"\x7f")
_ACCEPT, _DROP = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)


class Port(NamedTuple):
    """One published port as the database has it; ``host_ip`` "" is every IPv4, "::" every IPv6 address."""

    protocol: str
    host_ip: str
    host_port: int
    container_ip: str
    container_port: int


def _name(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _port(number: int) -> bytes:
    return struct.pack("!Hxx", number)


def _ip(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _key(port: Port) -> bytes:
    return bytes([PROTOCOLS[port.protocol], 0, 0, 0]) + _port(port.host_port)


def of_ports(ports: Iterable[Port]) -> dict[nft.SetSpec, set[nft.Element]]:
    """What the sets of published ports hold for these. The kernel cannot translate ::1 (there is no route_localnet for
    IPv6): those are not among them."""
    found: dict[nft.SetSpec, set[nft.Element]] = {}
    for port in ports:
        if port.host_ip == "::1":
            continue
        family = V6 if ":" in port.host_ip else V4
        value = _ip(port.container_ip) + _port(port.container_port)
        if port.host_ip in ("", "::"):
            found.setdefault(family.any, set()).add(nft.Element(_key(port), value))
            continue
        key = _ip(port.host_ip) + _key(port)
        found.setdefault(family.bound, set()).add(nft.Element(key, value))
        if port.host_ip.startswith("127."):
            found.setdefault(ON_LOOPBACK, set()).add(nft.Element(key))
    return found


def contents(
    networks: Iterable[Network], ports: Iterable[Port], neighbours: Iterable[str] = (), guarded: Iterable[int] = ()
) -> dict[nft.SetSpec, set[nft.Element]]:
    """What every set must hold.

    :param neighbours: bridges of another engine, which isolates its containers from each other as we do ours
    :param guarded: versions of IP that are routed to and from bridges only
    """
    wanted: dict[nft.SetSpec, set[nft.Element]] = {spec: set() for spec in SETS} | of_ports(ports)
    wanted[NEIGHBOURS] = {nft.Element(_name(name)) for name in neighbours}
    wanted[GUARDED] = {nft.Element(bytes([(V6 if version == 6 else V4).number])) for version in guarded}
    for network in networks:
        bridge = _name(network.bridge)
        wanted[BRIDGES].add(nft.Element(bridge))
        if network.icc:
            wanted[PAIRS].add(nft.Element(bridge + bridge))
        if network.internal:
            wanted[INTERNAL].add(nft.Element(bridge))
        for one in network.subnets:
            family = V6 if one.version == 6 else V4
            subnet = ipaddress.ip_network(one.subnet)
            first, last = subnet.network_address.packed, subnet.broadcast_address.packed
            wanted[family.local].add(nft.Element(first + bridge, b"", last + bridge))
            if _masqueraded(network, one):
                behind = (int(subnet.broadcast_address) + 1).to_bytes(family.size, "big")
                wanted[family.subnets].add(nft.Element(first, b"", behind))
    return wanted


def _masqueraded(network: Network, one: Subnet) -> bool:
    """IPv6 addresses that the world can answer stay as they are, unless it was asked for."""
    if network.internal or not network.masquerade:
        return False
    subnet = ipaddress.ip_network(one.subnet)
    return subnet.version == 4 or MASQUERADE in network.options or subnet.subnet_of(_LOCAL6)


def _from(spec: nft.SetSpec) -> bytes:
    return nft.meta(nft.META_IIFNAME) + nft.lookup(spec.name)


def _to(spec: nft.SetSpec) -> bytes:
    return nft.meta(nft.META_OIFNAME) + nft.lookup(spec.name)


def _bound(family: Family) -> bytes:
    """Destination address, protocol and port, side by side."""
    return family.to_address + nft.meta(nft.META_L4PROTO, family.behind) + nft.transport_header(2, 2, family.behind + 1)


def _raw_rules() -> Iterator[tuple[str, bytes]]:
    # One question for what comes from elsewhere: every packet of the host passes by here.
    yield "raw", _from(BRIDGES) + nft.verdict(nft.JUMP, "from_container")
    # A port published on 127.0.0.1 is for this host only, also where somebody set route_localnet on an uplink.
    outside = nft.meta(nft.META_IIFNAME) + nft.compare(_name("lo"), equal=False)
    yield "raw", outside + V4.this + _bound(V4) + nft.lookup(ON_LOOPBACK.name) + _DROP
    # route_localnet on our bridges would otherwise let a container reach 127.0.0.1 services of the host, or speak to
    # them in the name of 127.0.0.1. Of ::1 the kernel believes nothing that comes from a wire.
    for offset in (V4.destination, V4.source):
        yield "from_container", V4.this + nft.network_header(offset, 1) + _LOOPBACK + _DROP
    # Nobody speaks in another's name: neither a neighbour network's nor an outsider's. Without an address yet: DHCP,
    # and in IPv6 neighbour discovery, which also has link-local ones.
    for family in FAMILIES:
        own = family.from_address + nft.meta(nft.META_IIFNAME, family.behind)
        strange = nft.network_header(family.source, family.size) + nft.compare(bytes(family.size), equal=False)
        if family is V6:
            strange += nft.network_header(family.source, 2) + nft.masked(b"\xff\xc0", b"\xfe\x80", equal=False)
        yield "from_container", family.this + strange + own + nft.lookup(family.local.name, negate=True) + _DROP
    yield "from_container", _from(INTERNAL) + nft.verdict(nft.JUMP, "from_internal")
    yield "from_container", _ACCEPT  # as for this chain's part
    # An internal network ends at its bridge: the host's other addresses are outside of it. (Not multicast: discovery.)
    for family, mask, group in ((V4, b"\xe0", b"\xe0"), (V6, b"\xff\xc0", b"\xfe\x80")):
        there = family.to_address + nft.meta(nft.META_IIFNAME, family.behind)
        one_host = nft.network_header(family.destination, len(mask)) + nft.masked(mask, group, equal=False)
        if family is V6:
            one_host += nft.network_header(family.destination, 1) + nft.compare(b"\xff", equal=False)
        yield "from_internal", family.this + one_host + there + nft.lookup(family.local.name, negate=True) + _DROP


def _publish_rules() -> Iterator[bytes]:
    for family in FAMILIES:
        local = nft.destination_is_local() + family.this
        if family is V6:  # ::1 cannot be the way to a container: the monitor's proxy serves it
            local += family.to_address + nft.compare(bytes(15) + b"\1", equal=False)
        anywhere = nft.meta(nft.META_L4PROTO) + nft.transport_header(2, 2, 9)
        to = nft.dnat_to_registers(family.number)
        yield local + _bound(family) + nft.lookup(family.bound.name, into=1) + to
        yield local + anywhere + nft.lookup(family.any.name, into=1) + to


def _forward_rules() -> list[tuple[str, bytes]]:
    same = nft.meta(nft.META_IIFNAME) + nft.meta(nft.META_OIFNAME, 2) + nft.lookup(PAIRS.name)
    return [
        # First, because with br_netfilter the traffic inside one bridge comes by here as well.
        ("forward", same + _ACCEPT),
        ("forward", _from(INTERNAL) + _DROP),
        ("forward", _to(INTERNAL) + _DROP),
        ("forward", _to(BRIDGES) + nft.verdict(nft.JUMP, "to_container")),
        ("forward", _from(BRIDGES) + _to(NEIGHBOURS) + nft.verdict(nft.JUMP, "to_container")),
        # Where we made a router of this host, others' networks may come later, when nobody of us is there to look:
        # their bridges, and what comes in by interfaces that are made on this host. What is no virtual interface has
        # no kind, and no rule that asks for it applies.
        *(("forward", nft.meta(nft.META_IIFKIND) + nft.compare(_name(kind)) + _ACCEPT) for kind in _MADE_HERE),
        ("forward", nft.meta(nft.META_OIFKIND) + nft.compare(_name("bridge")) + _ACCEPT),
        ("forward", _ESTABLISHED + _ACCEPT),  # the answers to those
        ("forward", nft.meta(nft.META_NFPROTO) + nft.lookup(GUARDED.name) + _DROP),
        ("to_container", _ESTABLISHED + _ACCEPT),
        ("to_container", _DNATTED + _ACCEPT),
        # Whoever routes to a container's address directly, from outside or from another bridge, gets no further; nor
        # does a neighbour by way of the host, where containers may not speak with each other.
        ("to_container", _DROP),
    ]


def _postrouting_rules() -> Iterator[bytes]:
    for family in FAMILIES:
        home = (
            family.this + family.from_address
            + nft.meta(nft.META_OIFNAME, family.behind) + nft.lookup(family.local.name)
        )  # fmt: skip
        # Hairpin: a container that calls a published port of its own network must get the answer from the host, not
        # directly from the neighbour. By source subnet: with br_netfilter the input interface is not the bridge.
        yield home + _DNATTED + nft.masquerade()
        yield home + _ACCEPT
        yield family.this + family.from_address + nft.lookup(family.subnets.name) + nft.masquerade()
    # The host's 127.0.0.1 to a published port: the container could not answer that address.
    yield V4.this + nft.network_header(V4.source, 1) + _LOOPBACK + _to(BRIDGES) + nft.masquerade()


def rules() -> list[tuple[str, bytes]]:
    """(chain, expressions), in order."""
    found = list(_raw_rules())
    found += [(chain, r) for chain in ("prerouting", "output") for r in _publish_rules()]
    return found + _forward_rules() + [("postrouting", r) for r in _postrouting_rules()]


CHAINS: dict[str, tuple[str, int, int] | None] = {
    "raw": ("filter", nft.HOOK_PREROUTING, -300),
    "from_container": None,
    "from_internal": None,
    "prerouting": ("nat", nft.HOOK_PREROUTING, -100),
    "output": ("nat", nft.HOOK_OUTPUT, -100),
    "to_container": None,
    "forward": ("filter", nft.HOOK_FORWARD, 0),
    "postrouting": ("nat", nft.HOOK_POSTROUTING, 100),
}
