"""Who can reach a published port: this host, its neighbours, or everyone; and which rule says so.

A published port is translated before the host's own firewall sees it as something for this host: rules for input (what
``ufw deny`` and the like write) never meet it (moby#22054). So what is told here is what the kernel will do, read from
it: the host's addresses, forwarding, our table, and the policies of everybody's base chains. Single rules of other
tables are not interpreted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.kernel import nftchains
from core.kernel import rtnetlink as rt
from core.model import PortMapping, Reach
from core.net import firewall
from core.net.host import Host

_MANAGERS = {"ufw-": "ufw", "firewalld": "firewalld", "DOCKER": "Docker"}


@dataclass(frozen=True)
class Address:
    """One address of this host."""

    text: str
    interface: str
    scope: str  # host, lan or everyone

    @property
    def version(self) -> int:
        return 6 if ":" in self.text else 4

    def __str__(self) -> str:
        return f"{self.text} ({self.interface})"


@dataclass(frozen=True)
class Scene:
    """What decides, read once for all ports."""

    addresses: tuple[Address, ...]
    forwards: dict[int, bool]  # by version: does the host route?
    table: str  # ours
    whole: bool
    chains: tuple[nftchains.BaseChain, ...]
    managers: frozenset[str]  # of the host's firewall


def look(host: Host) -> Scene:
    """Read the scene; for the worker thread. :raises OSError: the kernel refused"""
    found = rt.links(host.rtnl)
    inner = _inward({link.number: link for link in found})
    names = {link.number: link.name for link in found if link.up}
    addresses = [
        Address(text, names[index], _scope(text))
        for index, text, _ in rt.addresses(host.rtnl)
        if index in names and index not in inner
    ]
    chains = tuple(nftchains.base_chains(host.netfilter))
    return Scene(
        tuple(addresses),
        {4: _is_on("ipv4/ip_forward"), 6: _is_on("ipv6/conf/all/forwarding")},
        host.inst.nft_table,
        firewall.present(host.netfilter, host.inst.nft_table),
        chains,
        frozenset(_managers(host)),
    )


def _inward(links: dict[int, rt.Link]) -> set[int]:
    """Bridges without a way out: only containers and virtual machines are behind them."""
    ports: dict[int, list[rt.Link]] = {}
    for link in links.values():
        if link.master:
            ports.setdefault(link.master, []).append(link)
    return {
        number
        for number, link in links.items()
        if link.kind == "bridge" and all(port.kind in ("veth", "tun") for port in ports.get(number, ()))
    }


def _scope(text: str) -> str:
    address = ipaddress.ip_address(text)
    if address.is_loopback:
        return "host"
    return "everyone" if address.is_global else "lan"


def _is_on(path: str) -> bool:
    try:
        return Path("/proc/sys/net", path).read_text().strip() != "0"
    except OSError:
        return False


def _managers(host: Host) -> Iterable[str]:
    words = nftchains.names(host.netfilter)
    for mark, name in _MANAGERS.items():
        if any(word.startswith(mark) for word in words):
            yield name


def reach(scene: Scene, container: str, port: PortMapping, to: str, *, proxied: bool = False) -> Reach:
    """Who can reach one port, as it is bound.

    :param to: where it leads, for the words
    :param proxied: it is on all addresses, and the container's proxy serves it on ``::1`` (:mod:`core.net.serving`)
    """
    version = 6 if ":" in port.host_ip else 4
    at = [one for one in scene.addresses if _answers(one, port.host_ip, version) or (proxied and one.text == "::1")]
    if not scene.whole:
        rule = f"table inet {scene.table} is missing or of another version: nothing is translated"
        fix = f"Restore it with: wharf network check --repair {container}"
        return Reach(container, port, "nobody", (), rule, (fix,))
    if port.host_ip == "::1":
        rule = "the container's monitor listens on ::1, which the kernel does not translate"
        return Reach(container, port, "host", ("::1 (lo)",), rule)
    rule = f"table inet {scene.table}, {_element(port, version)} leads to {to}"
    if port.host_ip.startswith("127."):
        rule += "; chain raw drops what comes for it by other interfaces than lo"
        return Reach(container, port, "host", tuple(map(str, at)), rule)
    scope = max((one.scope for one in at), key=["host", "lan", "everyone"].index, default="nobody")
    if scope == "nobody":
        return Reach(container, port, scope, (), f"{rule}, but no interface that is up has that address")
    if scope != "host" and (stop := _stopped(scene, version)):
        near = tuple(str(one) for one in at)
        return Reach(container, port, "host", near, f"{rule}; but {stop}", ("From outside it cannot be reached",))
    return Reach(container, port, scope, tuple(map(str, at)), rule, tuple(_warnings(scene, version, scope)))


def _answers(one: Address, host_ip: str, version: int) -> bool:
    if one.version != version:
        return False
    if host_ip in ("", "::"):
        return not (version == 6 and one.scope == "host")  # ::1 is not translated
    return ipaddress.ip_address(one.text) == ipaddress.ip_address(host_ip)


def _element(port: PortMapping, version: int) -> str:
    suffix = "6" if version == 6 else ""
    if port.host_ip in ("", "::"):
        return f"element {port.protocol} . {port.host_port} of map publish_any{suffix}"
    return f"element {port.host_ip} . {port.protocol} . {port.host_port} of map publish_ip{suffix}"


def _stopped(scene: Scene, version: int) -> str:
    """Why nothing from outside gets to a container; "" where it does."""
    if not scene.forwards[version]:
        key = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
        return f"this host does not route ({key} is 0)"
    for chain in _droppers(scene, version, nftchains.FORWARD):
        if (chain.table, chain.name) != ("filter", "FORWARD"):  # there our own rules let it pass
            return f"chain {chain} drops by policy what is routed"
    return ""


def _droppers(scene: Scene, version: int, hook: int) -> list[nftchains.BaseChain]:
    return [
        chain
        for chain in scene.chains
        if chain.hook == hook and chain.drops and chain.holds(version) and chain.table != scene.table
    ]


def _warnings(scene: Scene, version: int, scope: str) -> Iterable[str]:
    """What an admin may believe to be closed."""
    if scope == "host":
        return
    dropping = [str(chain) for chain in _droppers(scene, version, nftchains.INPUT)]
    managers = sorted(scene.managers - {"Docker"})
    if dropping or managers:
        who = " and ".join(managers) or f"chain {dropping[0]}"
        yield (
            f"{who} would not let it in, but a published port passes by rules for input: publish it on 127.0.0.1, or "
            "on one address, if it is not meant for them"
        )
    if routed := [str(chain) for chain in _droppers(scene, version, nftchains.FORWARD)]:
        yield f"chain {routed[0]} drops what is routed; wharf's own rules there let this port pass"
    if scope == "everyone":
        yield "one of this host's addresses is public"


def widest(found: Sequence[Reach]) -> str:
    """The widest scope of several, "" for none."""
    order = ["nobody", "host", "lan", "everyone"]
    return max((one.scope for one in found), key=order.index, default="")
