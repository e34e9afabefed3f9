"""The host's side of a network, link by link: what :mod:`core.ops.diagnose` asks first."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.model import Network
from core.model.netlook import NetStep
from core.model.network import HOST_SHIM
from core.net import firewall, forwards, guard, ports, vlans
from core.net.forwards import Forward
from core.net.host import Host
from core.ops import netview
from core.ops.netview import View

REPAIR = "wharf network check --repair"


@dataclass(frozen=True)
class HostSide:
    """All that is looked at on the host for one network, at one moment."""

    view: View
    firewall: str = ""  # what is wrong with our table; "": nothing
    chains: tuple[Forward, ...] = ()
    legacy: str = ""  # the policy of iptables' own FORWARD
    settings: dict[str, str] = field(default_factory=dict)  # of /proc/sys/net
    guarded: frozenset[int] = frozenset()  # versions of IP that are routed to and from bridges only
    routes: dict[str, str] = field(default_factory=dict)  # subnet → the interface by which the host reaches it


def look(host: Host, network: Network) -> HostSide:
    """In the worker thread."""
    view = netview.view()
    if network.driver != "bridge":
        return HostSide(view)
    names = [f"ipv{version}/conf/{name}/forwarding" for version in (4, 6) for name in ("all", network.bridge)]
    way = view.way()
    names += [f"ipv4/conf/{way.interface}/forwarding"] if way else []
    names += ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"]
    names += [f"ipv4/conf/{name}/rp_filter" for name in ("all", network.bridge)]
    return HostSide(
        view,
        _firewall(host),
        tuple(forwards.chains(host.netfilter, host.inst.nft_table, (network.bridge,))),
        forwards.legacy_policy(),
        {name: text for name in names if (text := _setting(name))},
        guard.versions(host),
        {one.subnet: netview.interface_to(_member(one.subnet, one.gateway)) for one in network.subnets},
    )


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys/net", name).read_text().strip()
    except OSError:
        return ""


def _member(subnet: str, gateway: str) -> str:
    """An address of the subnet that is not the host's own."""
    whole = ipaddress.ip_network(subnet)
    first = int(whole.network_address) + 1
    kind = type(whole.network_address)
    return str(kind(first + 1) if str(kind(first)) == gateway else kind(first))


def _firewall(host: Host) -> str:
    nl, table = host.netfilter, host.inst.nft_table
    if not firewall.present(nl, table):
        return f"the table inet {table} is not there"
    rows = list(ports.parse(host.store.run.read("SELECT * FROM port")))
    every, used = host.bridged(), host.attached()
    # What a network has in the table is made with its bridge, by the first container that is on it.
    needed = host.contents([network for network in every if network.id in used], rows)
    if not firewall.intact(nl, table, needed, host.contents(every, rows)):
        return f"the table inet {table} is not what the database says: rules or elements are missing, or too many"
    return ""


def links_of(network: Network, side: HostSide) -> Iterator[NetStep]:
    """Every link, in the order in which one rests on the other. What has no sense without an earlier one is skipped."""
    who = f"network {network.name}"
    if network.driver != "bridge":
        yield from _parent(who, network, side)
        return
    ranges = ", ".join(one.subnet for one in network.subnets) or "no addresses"
    yield NetStep(who, "network", "ok", f"bridge {network.bridge}, {ranges}{', internal' * network.internal}")
    yield from _bridge(who, network, side)
    for step in (_mtu(who, network, side), _route(who, network, side)):
        yield from step
    if side.firewall:
        yield NetStep(who, "firewall", "broken", side.firewall, f"{REPAIR} {network.name}")
    else:
        yield NetStep(who, "firewall", "ok", "our nftables table is whole")
    if network.internal:
        yield NetStep(who, "way out", "skipped", "internal: that nothing gets out, or in, is right")
        return
    yield from _policies(who, network, side)
    yield from _forwarding(who, network, side)
    yield from _filters(who, network, side)


def _bridge(who: str, network: Network, side: HostSide) -> Iterator[NetStep]:
    bridge = side.view.interfaces.get(network.bridge)
    again = f"{REPAIR} {network.name}"
    if bridge is None:
        if not network.containers:
            yield NetStep(who, "bridge", "skipped", "not there yet: the first container that starts makes it")
        else:
            yield NetStep(who, "bridge", "broken", f"the interface {network.bridge} is gone", again)
        return
    if bridge.kind != "bridge":
        yield NetStep(who, "bridge", "broken", f"{network.bridge} is no bridge", f"ip link del {network.bridge}")
        return
    if not bridge.up:
        yield NetStep(who, "bridge", "broken", f"{network.bridge} is down", f"ip link set {network.bridge} up")
        return
    yield NetStep(who, "bridge", "ok", f"{network.bridge} is there and up")
    for one in network.subnets:
        wanted = f"{one.gateway}/{ipaddress.ip_network(one.subnet).prefixlen}"
        if wanted not in bridge.addresses:
            fix = f"ip address add {wanted} dev {network.bridge}"
            yield NetStep(who, "bridge address", "broken", f"{network.bridge} does not have {wanted}", fix)
        else:
            yield NetStep(who, "bridge address", "ok", wanted)


def _mtu(who: str, network: Network, side: HostSide) -> Iterator[NetStep]:
    bridge, way = side.view.interfaces.get(network.bridge), side.view.way() or side.view.way(6)
    if bridge is None:
        return
    uplink = side.view.interfaces.get(way.interface) if way else None
    if bridge.mtu != network.mtu:
        text = f"{network.bridge} has {bridge.mtu}, and was made with {network.mtu}"
        yield NetStep(who, "mtu", "warning", text, f"ip link set {network.bridge} mtu {network.mtu}")
    elif uplink and not network.internal and uplink.mtu < bridge.mtu:
        text = f"{bridge.mtu} is more than the {uplink.mtu} of {uplink.name}: large packets may be lost on the way out"
        fix = f"Make the network again with -o com.docker.network.driver.mtu={uplink.mtu}"
        yield NetStep(who, "mtu", "warning", text, fix)
    else:
        yield NetStep(who, "mtu", "ok", f"{bridge.mtu}" + (f", {uplink.name} {uplink.mtu}" if uplink else ""))


def _route(who: str, network: Network, side: HostSide) -> Iterator[NetStep]:
    """Answers to containers go where the host's routes say; with rp_filter, a detour drops their questions too."""
    bridge = side.view.interfaces.get(network.bridge)
    if bridge is None or not bridge.up:
        return
    for subnet, interface in side.routes.items():
        if interface != network.bridge:
            strict = "1" in (side.settings.get(f"ipv4/conf/{one}/rp_filter") for one in ("all", network.bridge))
            text = f"the host reaches {subnet} by {interface or 'no interface'}, not by {network.bridge}"
            text += "; rp_filter drops what containers send, too" if strict else ""
            fix = f"ip route add {subnet} dev {network.bridge}, or remove the other"
            yield NetStep(who, "route", "broken", text, fix)
            return
    yield NetStep(who, "route", "ok", f"its subnets are reached by {network.bridge}")


def _policies(who: str, network: Network, side: HostSide) -> Iterator[NetStep]:
    """Whether others' chains at the forward hook let packets of this network pass."""
    doubts = []
    for chain in _dropping(network, side):
        family, table, name, *_ = chain.chain
        if chain.is_place:
            fix = f"{REPAIR} {network.name}"
            if table == "firewalld":  # newer ones let nobody else into their table
                fix += f", or firewall-cmd --zone=trusted --add-interface={network.bridge} (and once more --permanent)"
            yield NetStep(who, "forward policy", "broken", f"{chain} {chain.how}, and our accepts are not in it", fix)
            return
        nft = f"nft insert rule {family} {table} {name}"
        fix = f"{nft} iifname {network.bridge} accept; {nft} oifname {network.bridge} accept"
        if not chain.rules or (chain.rules == 1 and not chain.chain.drops):
            yield NetStep(who, "forward policy", "broken", f"{chain} drops everything", fix)
            return
        doubts.append(NetStep(
            who, "forward policy", "warning",
            f"{chain} {chain.how}, and no rule of its table names {network.bridge}", fix,
        ))  # fmt: skip
    if side.legacy == "drop":
        fix = f"iptables-legacy -I FORWARD -i {network.bridge} -j ACCEPT; the same with -o"
        doubts.append(NetStep(who, "forward policy", "warning", "iptables-legacy: FORWARD drops by policy", fix))
    yield from doubts
    if not doubts:
        count = len(side.chains) + bool(side.legacy)
        words = "nobody else decides what is forwarded" if not count else "other firewalls let it pass"
        yield NetStep(who, "forward policy", "ok", words)


def _dropping(network: Network, side: HostSide) -> list[Forward]:
    """Others' chains that refuse what no rule accepts, and have none about this network."""
    versions = [version for version in (4, 6) if network.of_version(version)]
    return [
        one
        for one in side.chains
        if one.refuses and network.bridge not in one.named and any(one.chain.holds(v) for v in versions)
    ]


def _forwarding(who: str, network: Network, side: HostSide) -> Iterator[NetStep]:
    way = side.view.way()
    names = ["ipv4/ip_forward", f"ipv4/conf/{network.bridge}/forwarding"] * bool(network.of_version(4))
    names += [f"ipv4/conf/{way.interface}/forwarding"] if way and names else []
    names += ["ipv6/conf/all/forwarding"] * network.ipv6
    for name in names:
        if side.settings.get(name) == "0":
            key = f"net.{name.replace('/', '.')}"
            yield NetStep(who, "forwarding", "broken", f"{key} is 0: the host does not route", f"sysctl -w {key}=1")
            return
    text = "the host routes" + (" IPv4 and IPv6" if network.ipv6 else "")
    if side.guarded:
        text += "; as it did not before wharf, to and from bridges only (forward_guard)"
    yield NetStep(who, "forwarding", "ok", text)


def _filters(who: str, network: Network, side: HostSide) -> Iterator[NetStep]:
    """br_netfilter: packets between two containers of one bridge pass the forward hook as well."""
    on = side.settings.get("bridge/bridge-nf-call-iptables") == "1"
    if not on:
        yield NetStep(who, "br_netfilter", "ok", "off: traffic inside the bridge passes no firewall")
        return
    if dropping := _dropping(network, side):
        text = f"on, so {dropping[0]} may also drop what containers of this network send each other"
        yield NetStep(who, "br_netfilter", "warning", text, "sysctl -w net.bridge.bridge-nf-call-iptables=0")
    else:
        yield NetStep(who, "br_netfilter", "ok", "on; our rules let the traffic inside the bridge pass")


def _parent(who: str, network: Network, side: HostSide) -> Iterator[NetStep]:
    ranges = ", ".join(one.subnet for one in network.subnets)
    yield NetStep(who, "network", "ok", f"{network.driver} on {network.bridge}, {ranges}")
    parent = side.view.interfaces.get(network.bridge)
    if parent is None:
        yield NetStep(who, "parent", "broken", f"the interface {network.bridge} does not exist", "List them: ip link")
        return
    if not parent.up:
        yield NetStep(who, "parent", "broken", f"{parent.name} is down", f"ip link set {parent.name} up")
        return
    if not parent.carrier:
        yield NetStep(who, "parent", "broken", f"{parent.name} has no carrier", "Look at its cable, or its other end")
        return
    yield NetStep(who, "parent", "ok", f"{parent.name} is up, mtu {parent.mtu}")
    yield from _mode(who, network, parent.promiscuous)


def _mode(who: str, network: Network, promiscuous: bool) -> Iterator[NetStep]:
    mode = vlans.mode(network)
    if mode == "vepa":
        text = "vepa: its containers reach each other only by a switch that sends frames back (hairpin)"
        yield NetStep(who, "mode", "warning", text, "Use mode bridge, or turn hairpin on at the switch")
    elif network.driver == "macvlan" and not network.options.get(HOST_SHIM):
        yield NetStep(who, "mode", "ok", f"{mode}; this host itself does not reach its containers (-o host_shim=IP)")
    else:
        yield NetStep(who, "mode", "ok", mode)
    if network.driver == "macvlan" and not promiscuous:
        text = "the parent is not promiscuous: in a virtual machine its hypervisor may drop frames for other MACs"
        fix = f"If nothing gets in: ip link set {network.bridge} promisc on"
        yield NetStep(who, "promiscuous", "skipped", text, fix)
