"""A container's side of its networks, link by link, from its interface to the outside: see :mod:`core.ops.diagnose`."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from core.dns import ADDRESS
from core.kernel.sockdiag import Socket
from core.model import Container, EndpointInfo, Network
from core.model.netlook import NetStep
from core.net import names, probe, sockets, ways_out
from core.net.host import Host
from core.net.net import Net
from core.ops import netview
from core.ops.diagnose_host import REPAIR
from core.ops.netview import View


@dataclass(frozen=True)
class Inside:
    """What is seen in the container's network namespace."""

    view: View
    sockets: Sequence[Socket]


def look(_: Host) -> Inside:
    """In the worker thread, inside."""
    return Inside(netview.view(), sockets.every())


def wire(box: Container, end: EndpointInfo, network: Network, host: View) -> Iterator[NetStep]:
    """The host's end of the container's wire."""
    who = f"container {box.name}"
    if not end.interface:
        return
    link = host.interfaces.get(end.interface)
    if link is None:
        yield NetStep(who, "veth", "broken", f"{end.interface}, its end on the host, is gone", f"{REPAIR} {box.name}")
    elif link.master != network.bridge:
        where = f"a port of {link.master}" if link.master else "a port of no bridge"
        text = f"{end.interface} is {where}, not of {network.bridge}"
        yield NetStep(who, "veth", "broken", text, f"ip link set {end.interface} master {network.bridge}")
    elif not link.up:
        yield NetStep(who, "veth", "broken", f"{end.interface} is down", f"ip link set {end.interface} up")
    else:
        yield NetStep(who, "veth", "ok", f"{end.interface} is up, a port of {network.bridge}")


def interface(box: Container, end: EndpointInfo, network: Network, inside: View) -> Iterator[NetStep]:
    """Its own end: there, up, addresses, MTU, default route."""
    who = f"container {box.name}"
    enter = f"nsenter -t {box.pid} -n "
    link = inside.interfaces.get(end.name)
    if link is None:
        yield NetStep(who, "interface", "broken", f"there is no {end.name} in it", f"wharf restart {box.name}")
        return
    if not link.up:
        yield NetStep(who, "interface", "broken", f"{end.name} is down", f"{enter}ip link set {end.name} up")
        return
    if not link.carrier:
        yield NetStep(who, "interface", "broken", f"{end.name} has no carrier", f"{REPAIR} {box.name}")
        return
    yield NetStep(who, "interface", "ok", f"{end.name} is up")
    for address, prefix in ((end.ip, end.prefix_len), (end.ip6, end.prefix_len6)):
        if address and f"{address}/{prefix}" not in link.addresses:
            has = ", ".join(one for one in link.addresses if not one.startswith("fe80:")) or "none"
            fix = f"{enter}ip address add {address}/{prefix} dev {end.name}"
            yield NetStep(who, "address", "broken", f"{end.name} does not have {address}/{prefix}, but {has}", fix)
            return
    yield NetStep(who, "address", "ok", ", ".join(one for one in (end.ip, end.ip6) if one) or "none")
    if network.mtu and link.mtu > network.mtu:
        text = f"{end.name} has {link.mtu}, the network {network.mtu}: large packets are lost"
        yield NetStep(who, "mtu", "warning", text, f"{enter}ip link set {end.name} mtu {network.mtu}")
    yield from _default(who, box, end, inside, enter)


def is_way_out(box: Container, end: EndpointInfo, version: int = 4) -> bool:
    """Whether its default route is by this network."""
    ways = [one for one in ways_out(box.endpoints) if (one.gateway if version == 4 else one.gateway6)]
    return bool(ways) and ways[0].network == end.network


def _default(who: str, box: Container, end: EndpointInfo, inside: View, enter: str) -> Iterator[NetStep]:
    for version, gateway in ((4, end.gateway), (6, end.gateway6)):
        if not gateway or not is_way_out(box, end, version):
            continue
        way = inside.way(version)
        fix = f"{enter}ip {'-6 ' * (version == 6)}route replace default via {gateway} dev {end.name}"
        if way is None:
            yield NetStep(who, "default route", "broken", f"it has no IPv{version} default route", fix)
        elif (way.gateway, way.interface) != (gateway, end.name):
            text = f"it goes by {way.gateway or 'no gateway'} on {way.interface}, not by {gateway} on {end.name}"
            yield NetStep(who, "default route", "broken", text, fix)
        else:
            yield NetStep(who, "default route", "ok", f"by {gateway}")


async def gateway(net: Net, box: Container, end: EndpointInfo, network: Network) -> AsyncIterator[NetStep]:
    """Whether what is at the other end of the wire answers."""
    who = f"container {box.name}"
    # On an internal network, too, the host has an address: it is the bridge that answers.
    gateways = [one.gateway for one in network.subnets if one.gateway]
    wanted = [one for one in gateways if (end.ip6 if ":" in one else end.ip)]
    for address in wanted if end.interface else [one for one in (end.gateway, end.gateway6) if one]:
        why = await probe.echo(net, address, box.pid)
        if not why:
            yield NetStep(who, "gateway", "ok", f"{address} answers")
            continue
        seen = await net.look("look for neighbours", lambda _: netview.view().neighbours, box.pid)
        if address in seen:
            text = f"{address} is there, but answers no ping: {why}"
            yield NetStep(who, "gateway", "warning", text, "Perhaps a firewall of its own (INPUT) drops ICMP")
        else:
            fix = "Look at the links above" if end.interface else f"Is {address} the router of that network?"
            yield NetStep(who, "gateway", "broken", f"{address} does not answer: {why}, not even to ARP", fix)


async def outside(net: Net, box: Container, host: View, version: int, suspects: Sequence[NetStep]) -> NetStep:
    """Whether the host's next router answers the container: routing, masquerade and forward rules, all at once."""
    who, way = f"container {box.name}", host.way(version)
    if way is None:
        return NetStep(who, "way out", "skipped", f"this host itself has no IPv{version} default route")
    if way.gateway.startswith("fe80:"):
        return NetStep(who, "way out", "skipped", f"{way.gateway} answers its own link only")
    if not way.gateway:
        return NetStep(who, "way out", "skipped", f"{way.interface} has no router that could be asked")
    why = await probe.echo(net, way.gateway, box.pid)
    if not why:
        return NetStep(who, "way out", "ok", f"{way.gateway}, the host's router, answers")
    if await probe.echo(net, way.gateway):
        return NetStep(who, "way out", "skipped", f"{way.gateway}, the host's router, answers nobody")
    text = f"{way.gateway}, the host's router, answers this host but not the container: {why}"
    if suspects:
        return NetStep(who, "way out", "broken", f"{text}; because {suspects[0].found}", suspects[0].fix)
    fix = "Look for rules that drop or reject forwarded packets: nft list ruleset"
    return NetStep(who, "way out", "broken", text, fix)


def _nameservers(text: str) -> list[str]:
    """Of resolv.conf(5), those that are addresses: a container may write names there, which nobody is to look up."""
    named = [words[1] for line in text.splitlines() if len(words := line.split()) > 1 and words[0] == "nameserver"]
    return [one for one in named if _is_address(one)]


def _is_address(text: str) -> bool:
    try:
        return not getattr(ipaddress.ip_address(text), "scope_id", None)
    except ValueError:
        return False


async def resolving(net: Net, box: Container, text: str, *, leads_out: bool) -> list[NetStep]:
    """The name servers of its resolv.conf, asked from inside, each at the same time.

    :param text: of resolv.conf
    :param leads_out: whether what is outside can be reached at all
    """
    who = f"container {box.name}"
    servers = _nameservers(text)
    if not servers:
        return [NetStep(who, "dns", "warning", "its resolv.conf names no server", "Give it one: --dns IP")]
    if ADDRESS in servers:
        return [step async for step in _embedded(net, box, leads_out=leads_out)]
    if not leads_out:
        return [NetStep(who, "dns", "skipped", f"{', '.join(servers)}: nothing outside is reached")]
    return [await _upstream(net, box, servers)]


async def _upstream(net: Net, box: Container, servers: Sequence[str]) -> NetStep:
    who, asked = f"container {box.name}", servers[:3]  # as many as a libc asks
    whys = dict(zip(asked, await asyncio.gather(*(probe.ask_dns(net, s, "", box.pid) for s in asked)), strict=True))
    bad = {server: why for server, why in whys.items() if why}
    if not bad:
        return NetStep(who, "dns", "ok", f"{', '.join(asked)} answer" + "s" * (len(asked) == 1))
    words = "; ".join(f"{server}: {why}" for server, why in bad.items())
    if len(bad) < len(asked):
        return NetStep(who, "dns", "warning", words, "Every question waits for it first: name another with --dns")
    here = [server for server in bad if not await probe.ask_dns(net, server)]
    text = f"no server answers ({words})" + (f"; {', '.join(here)} answers this host" if here else ", nor to this host")
    fix = "Look for rules that drop forwarded port 53" if here else "Name one that answers: --dns IP"
    return NetStep(who, "dns", "broken", text, fix)


async def _embedded(net: Net, box: Container, *, leads_out: bool) -> AsyncIterator[NetStep]:
    """Our own resolver: does it know the container's name, and does it get answers from outside?"""
    who = f"container {box.name}"
    why = await probe.ask_dns(net, ADDRESS, box.name, box.pid)
    if why:
        yield NetStep(who, "dns", "broken", f"{ADDRESS}, asked for {box.name}: {why}", f"wharf restart {box.name}")
        return
    yield NetStep(who, "dns", "ok", f"{ADDRESS} knows {box.name}")
    if not leads_out:
        yield NetStep(who, "dns outside", "skipped", "nothing outside is reached, so other names are not asked for")
    elif why := await probe.ask_dns(net, ADDRESS, "", box.pid):
        servers = list(box.spec.dns) or _nameservers(names.host_resolv_conf())
        whys = [f"{server}: {why or 'answers'}" for server in servers[:3] for why in [await probe.ask_dns(net, server)]]
        text = f"{why}; asked from this host, {'; '.join(whys) or 'there is no server'}"
        yield NetStep(who, "dns outside", "broken", text, "Name a server that answers: --dns IP, or /etc/resolv.conf")
    else:
        yield NetStep(who, "dns outside", "ok", "the servers behind it answer")
