"""One nft table per instance, derived from the database as a whole: maps and sets, and a dozen rules that never change.

::

    raw          prerouting -300  from our bridges: nothing to or from 127/8; loopback ports only over lo
    prerouting   nat -100         to this host, port published → container
    output       nat -100         the same for what the host itself sends
    forward      filter 0         to a bridge: replies, same bridge, published ports; nothing else
                                  from a bridge: all but internal networks
    postrouting  nat 100          from a container's subnet out: masquerade; hairpin; from 127/8: masquerade

Publishing is one element. The table is made, and made again after ``nft flush ruleset``, in one transaction, always
under run.db's write lock: so several processes never see or leave half of it.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterable
from typing import NamedTuple

from core.errors import Unsupported
from core.kernel import nftables as nft
from core.kernel.netlink import Message, Netlink, NetlinkError
from core.model import Network

_VERSION = b"wharf 1"  # the table's tag: another one means that another version of this program made it
_ADDRESS, _PROTOCOL, _SERVICE, _IFNAME = nft.TYPE_ADDRESS, nft.TYPE_PROTOCOL, nft.TYPE_SERVICE, nft.TYPE_IFNAME
PROTOCOLS = {"tcp": 6, "udp": 17}

# Names that are no keywords of nft: what it lists it can load again.
ANY = nft.SetSpec("publish_any", (_PROTOCOL, _SERVICE), (_ADDRESS, _SERVICE))
BOUND = nft.SetSpec("publish_ip", (_ADDRESS, _PROTOCOL, _SERVICE), (_ADDRESS, _SERVICE))
BRIDGES = nft.SetSpec("bridges", (_IFNAME,))
INTERNAL = nft.SetSpec("internal", (_IFNAME,))
PAIRS = nft.SetSpec("same_bridge", (_IFNAME, _IFNAME))
LOCAL = nft.SetSpec("local", (_ADDRESS, _IFNAME), interval=True)
SUBNETS = nft.SetSpec("subnets", (_ADDRESS,), interval=True)
ON_LOOPBACK = nft.SetSpec("on_loopback", (_ADDRESS, _PROTOCOL, _SERVICE))
SETS = (ANY, BOUND, ON_LOOPBACK, BRIDGES, INTERNAL, PAIRS, LOCAL, SUBNETS)

_ESTABLISHED = nft.ct_bits(0, 0x2 | 0x4)  # established, related
_DNATTED = nft.ct_bits(2, 0x20)
_IPV4 = nft.meta(nft.META_NFPROTO) + nft.compare(bytes([nft.IPV4]))
_SOURCE, _DESTINATION = 12, 16  # offsets in the IPv4 header
_LOOPBACK = nft.compare(b"\x7f")
_ACCEPT, _DROP = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)


class Port(NamedTuple):
    """One published port as the database has it; ``host_ip`` "" is every address."""

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
    return ipaddress.IPv4Address(address).packed


def _element(port: Port) -> nft.Element:
    key = bytes([PROTOCOLS[port.protocol], 0, 0, 0]) + _port(port.host_port)
    return nft.Element(
        (_ip(port.host_ip) if port.host_ip else b"") + key, _ip(port.container_ip) + _port(port.container_port)
    )


def _by_set(ports: Iterable[Port]) -> dict[nft.SetSpec, set[nft.Element]]:
    found: dict[nft.SetSpec, set[nft.Element]] = {ANY: set(), BOUND: set(), ON_LOOPBACK: set()}
    for port in ports:
        element = _element(port)
        found[BOUND if port.host_ip else ANY].add(element)
        if port.host_ip.startswith("127."):
            found[ON_LOOPBACK].add(nft.Element(element.key))
    return found


def contents(networks: Iterable[Network], ports: Iterable[Port]) -> dict[nft.SetSpec, set[nft.Element]]:
    """What every set must hold."""
    wanted: dict[nft.SetSpec, set[nft.Element]] = {spec: set() for spec in SETS} | _by_set(ports)
    for network in networks:
        subnet = ipaddress.IPv4Network(network.subnet)
        first, last = subnet.network_address.packed, subnet.broadcast_address.packed
        bridge = _name(network.bridge)
        wanted[BRIDGES].add(nft.Element(bridge))
        wanted[PAIRS].add(nft.Element(bridge + bridge))
        wanted[LOCAL].add(nft.Element(first + bridge, b"", last + bridge))
        if network.internal:
            wanted[INTERNAL].add(nft.Element(bridge))
        else:
            behind = (int(subnet.broadcast_address) + 1).to_bytes(4, "big")
            wanted[SUBNETS].add(nft.Element(first, b"", behind))
    return wanted


def _from(spec: nft.SetSpec) -> bytes:
    return nft.meta(nft.META_IIFNAME) + nft.lookup(spec.name)


def _to(spec: nft.SetSpec) -> bytes:
    return nft.meta(nft.META_OIFNAME) + nft.lookup(spec.name)


def _raw_rules() -> list[bytes]:
    bound = nft.network_header(_DESTINATION, 4) + nft.meta(nft.META_L4PROTO, 9) + nft.transport_header(2, 2, 10)
    return [
        # route_localnet on our bridges would otherwise let a container reach 127.0.0.1 services of the host, or speak
        # to them in the name of 127.0.0.1.
        _from(BRIDGES) + _IPV4 + nft.network_header(_DESTINATION, 1) + _LOOPBACK + _DROP,
        _from(BRIDGES) + _IPV4 + nft.network_header(_SOURCE, 1) + _LOOPBACK + _DROP,
        # A port published on 127.0.0.1 is for this host only, also where somebody set route_localnet on an uplink.
        nft.meta(nft.META_IIFNAME) + nft.compare(_name("lo"), equal=False)
        + _IPV4 + bound + nft.lookup(ON_LOOPBACK.name) + _DROP,
    ]  # fmt: skip


def _publish_rules() -> list[bytes]:
    local = nft.destination_is_local() + _IPV4
    bound = nft.network_header(_DESTINATION, 4) + nft.meta(nft.META_L4PROTO, 9) + nft.transport_header(2, 2, 10)
    anywhere = nft.meta(nft.META_L4PROTO) + nft.transport_header(2, 2, 9)
    return [
        local + bound + nft.lookup(BOUND.name, into=1) + nft.dnat_to_registers(),
        local + anywhere + nft.lookup(ANY.name, into=1) + nft.dnat_to_registers(),
    ]


def _forward_rules() -> list[tuple[str, bytes]]:
    same = nft.meta(nft.META_IIFNAME) + nft.meta(nft.META_OIFNAME, 2) + nft.lookup(PAIRS.name)
    return [
        # First, because with br_netfilter the traffic inside one bridge comes by here as well.
        ("forward", same + _ACCEPT),
        ("forward", _from(INTERNAL) + _DROP),
        ("forward", _to(INTERNAL) + _DROP),
        ("forward", _to(BRIDGES) + nft.verdict(nft.JUMP, "to_container")),
        ("to_container", _ESTABLISHED + _ACCEPT),
        ("to_container", _DNATTED + _ACCEPT),
        # Whoever routes to a container's address directly, from outside or from another bridge, gets no further.
        ("to_container", _DROP),
    ]


def _postrouting_rules() -> list[bytes]:
    home = _IPV4 + nft.network_header(_SOURCE, 4) + nft.meta(nft.META_OIFNAME, 9) + nft.lookup(LOCAL.name)
    return [
        # Hairpin: a container that calls a published port of its own network must get the answer from the host, not
        # directly from the neighbour. By source subnet: with br_netfilter the input interface is not the bridge.
        home + _DNATTED + nft.masquerade(),
        home + _ACCEPT,
        _IPV4 + nft.network_header(_SOURCE, 4) + nft.lookup(SUBNETS.name) + nft.masquerade(),
        # The host's 127.0.0.1 to a published port: the container could not answer that address.
        _IPV4 + nft.network_header(_SOURCE, 1) + _LOOPBACK + _to(BRIDGES) + nft.masquerade(),
    ]


def _rules() -> list[tuple[str, bytes]]:
    rules = [("raw", r) for r in _raw_rules()]
    rules += [(chain, r) for chain in ("prerouting", "output") for r in _publish_rules()]
    return rules + _forward_rules() + [("postrouting", r) for r in _postrouting_rules()]


_CHAINS: dict[str, tuple[str, int, int] | None] = {
    "raw": ("filter", nft.HOOK_PREROUTING, -300),
    "prerouting": ("nat", nft.HOOK_PREROUTING, -100),
    "output": ("nat", nft.HOOK_OUTPUT, -100),
    "to_container": None,
    "forward": ("filter", nft.HOOK_FORWARD, 0),
    "postrouting": ("nat", nft.HOOK_POSTROUTING, 100),
}


def rebuild(nl: Netlink, table: str, wanted: dict[nft.SetSpec, set[nft.Element]]) -> None:
    """Replace the whole table by the one for ``wanted``, atomically. Tracked connections live on.

    :raises Unsupported: the kernel has no nftables, or lacks one of the parts used here
    """
    messages: list[Message] = [
        # Make, delete, make: so that it does not matter whether there was one.
        nft.new_table(table, _VERSION),
        nft.del_table(table),
        nft.new_table(table, _VERSION),
    ]
    messages += [nft.new_set(table, spec, number) for number, spec in enumerate(SETS, 1)]
    messages += [nft.new_chain(table, name, hook) for name, hook in _CHAINS.items()]
    for spec, elements in wanted.items():
        messages += nft.add_elements(table, spec, sorted(elements))
    messages += [nft.rule(nft.INET, table, chain, expressions) for chain, expressions in _rules()]
    try:
        nft.commit(nl, messages)
    except NetlinkError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL, errno.EPROTONOSUPPORT):
            raise Unsupported(
                "networks need nftables in the kernel",
                f"it refused our table: {error.strerror}",
                "Load the modules nf_tables, nft_chain_nat, nft_fib_inet, nft_masq and nft_ct, or use --network host",
            ) from error
        raise


def intact(nl: Netlink, table: str, wanted: dict[nft.SetSpec, set[nft.Element]]) -> bool:
    """True where the table is ours, whole, and holds exactly ``wanted``."""
    if not present(nl, table):
        return False
    chains = [rule.chain for rule in nft.rules(nl, nft.INET, table)]
    if sorted(chains) != sorted(chain for chain, _ in _rules()):
        return False
    try:
        return all(nft.elements(nl, table, spec) == elements for spec, elements in wanted.items())
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return False
        raise


def present(nl: Netlink, table: str) -> bool:
    """True where the table exists in the form of this version: one request, for every attach."""
    return nft.table_tag(nl, table) == _VERSION


def publish(nl: Netlink, table: str, ports: Iterable[Port]) -> None:
    """Add the ports' elements, all or none; those that are there already stay."""
    messages = [m for spec, new in _by_set(ports).items() for m in nft.add_elements(table, spec, sorted(new))]
    nft.commit(nl, messages)


def unpublish(nl: Netlink, table: str, ports: Iterable[Port]) -> None:
    """Delete the ports' elements; what is gone already, or the whole table, is no error."""
    by_set = _by_set(ports)
    try:
        nft.commit(nl, [m for spec, old in by_set.items() for m in nft.del_elements(table, spec, sorted(old))])
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        _unpublish_each(nl, table, by_set)


def _unpublish_each(nl: Netlink, table: str, by_set: dict[nft.SetSpec, set[nft.Element]]) -> None:
    """One by one: a missing element makes the kernel refuse the whole transaction."""
    for spec, old in by_set.items():
        for element in old:
            try:
                nft.commit(nl, nft.del_elements(table, spec, [element]))
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise


def remove(nl: Netlink, table: str) -> bool:
    """Delete the table; False where there was none."""
    if nft.table_tag(nl, table) is None:
        return False
    nft.commit(nl, [nft.del_table(table)])
    return True
