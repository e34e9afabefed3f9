"""Networks made and removed: what is asked for is checked against the host and the other networks.

Nothing is made in the kernel before a container is attached, so that a network costs nothing until then, and one that
was made before a reboot is there after it.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import replace

from core.errors import Conflict, InUse, InvalidArgument, NameTaken, NoPrivilege, NotFound
from core.kernel import rtnetlink as rt
from core.model import Network, NetworkSpec, Subnet
from core.model.network import (
    BRIDGE_NAME,
    HOST_SHIM,
    ICC,
    IPVLAN_FLAG,
    IPVLAN_MODE,
    MACVLAN_MODE,
    MASQUERADE,
    MTU,
    PARENT,
    PUBLISH_ADDRESS,
)
from core.names import check_name, is_interface_name, make_id
from core.net import ipam, links, pools, ports, siblings, vlans
from core.net.host import Host
from core.net.step import step

_OPTIONS = {
    "bridge": (BRIDGE_NAME, ICC, MASQUERADE, PUBLISH_ADDRESS, MTU),
    "macvlan": (PARENT, MACVLAN_MODE, HOST_SHIM, MTU),
    "ipvlan": (PARENT, IPVLAN_MODE, IPVLAN_FLAG, MTU),
}
_RESERVED = ("bridge", "host", "none", "default", "container")
_LEAST_MTU, _LEAST_MTU6, _MOST_MTU = 68, 1280, 65535  # RFC 791, RFC 8200


def create(host: Host, spec: NetworkSpec) -> Network:
    """Check and record a network.

    :raises NameTaken: there is one of that name
    :raises InvalidArgument: a driver, an option or an address that is none
    :raises Conflict: a subnet overlaps a route of the host or another network; the error says which
    :raises NotFound: the parent interface does not exist
    :raises Unsupported: the kernel has no such driver
    :raises NoPrivilege: it is not for ordinary users
    """
    _check_words(spec)
    if spec.driver in vlans.KINDS:
        if not host.is_outside:
            raise NoPrivilege(
                f"an ordinary user cannot make a {spec.driver} network",
                "it is on an interface of the host, which is not theirs",
                "Use a bridge (the default), or run wharf as root",
            )
        vlans.check(spec.driver, spec.options)
        vlans.probe(spec.driver)
    with step("make the network"), host.store.disk.write() as con:
        # Under the write lock: nobody takes the name or the subnet between our look and our row.
        if con.execute("SELECT 1 FROM network WHERE name = ?", (spec.name,)).fetchone():
            raise NameTaken(
                f"network {spec.name} exists already", "names of networks are unique", "See: wharf network ls"
            )
        network = Network(
            make_id(), spec.name, spec.driver, time.time(),
            internal=spec.internal, options=dict(spec.options), labels=dict(spec.labels),
        )  # fmt: skip
        network = _place(host, network)
        network = _with_shim(replace(network, subnets=_subnets(host, spec, network)))
        pools.insert(con, network)
    return network


def _check_words(spec: NetworkSpec) -> None:
    check_name(spec.name)
    if spec.name in _RESERVED:
        raise InvalidArgument(
            f"a network cannot be called {spec.name}", "that word means something else", "Choose another"
        )
    if spec.driver not in ("bridge", *vlans.KINDS):
        raise InvalidArgument(
            f"unknown network driver {spec.driver!r}", "there are bridge, macvlan and ipvlan", "Say --driver bridge"
        )
    if not spec.ipv4 and not spec.ipv6:
        raise InvalidArgument("a network needs addresses", "both IPv4 and IPv6 are switched off", "Leave one on")
    if "" in spec.labels:
        raise InvalidArgument("invalid label", "its name is empty", "Write it like key=value")
    for key in spec.options:
        # Those by Docker's names that mean nothing here are let be: descriptions of services are full of them.
        if key not in _OPTIONS[spec.driver] and not key.startswith("com.docker.network."):
            known = ", ".join(_OPTIONS[spec.driver])
            raise InvalidArgument(f"unknown option {key!r} of driver {spec.driver}", f"there are {known}", "Drop it")
    if text := spec.options.get(PUBLISH_ADDRESS):
        ports.address(text)
    mtu = spec.options.get(MTU, "")
    least = _LEAST_MTU6 if spec.ipv6 else _LEAST_MTU
    if mtu and not (mtu.isdecimal() and least <= int(mtu) <= _MOST_MTU):
        raise InvalidArgument(f"invalid MTU {mtu!r}", f"it is not between {least} and {_MOST_MTU}", "Say 1500")


def _place(host: Host, network: Network) -> Network:
    """With the interface it will be on, and its MTU."""
    mtu = int(network.options.get(MTU, "0"))
    if network.driver in vlans.KINDS:
        name = network.options.get(PARENT, "")
        if not name:
            raise InvalidArgument(
                f"a {network.driver} network needs an interface of this host",
                "none was named",
                f"Say -o parent=NAME; there are {', '.join(_parents(host))}",
            )
        parent = links.find(host.rtnl, name)
        if parent is None:
            raise NotFound(f"no such interface: {name}", f"there are {', '.join(_parents(host))}", "Say -o parent=NAME")
        return replace(network, bridge=name, mtu=mtu or parent.mtu)
    bridge = network.options.get(BRIDGE_NAME) or f"{host.inst.bridge_prefix}{network.id[:6]}"
    if not is_interface_name(bridge):
        raise InvalidArgument(f"invalid bridge name {bridge!r}", "1 to 15 bytes, and not lo or all", "Choose another")
    # The default network's may not be there yet.
    if (
        bridge == host.inst.bridge
        or any(other.bridge == bridge for other in host.bridged())
        or links.find(host.rtnl, bridge)
    ):
        raise Conflict(f"bridge {bridge} is in use", "an interface or a network has that name", "Choose another")
    return replace(network, bridge=bridge, mtu=mtu or host.default_mtu())


def _parents(host: Host) -> list[str]:
    return [link.name for link in rt.links(host.rtnl) if link.kind not in ("veth", "macvlan") and link.name != "lo"]


# ─ subnets ─


def _subnets(host: Host, spec: NetworkSpec, network: Network) -> tuple[Subnet, ...]:
    """Those asked for, whole; chosen ones where none of a version was."""
    routes = host.routes(4, 6)
    others = pools.every(host.store.disk)
    found: list[Subnet] = []
    for wanted in spec.subnets:
        one = _complete(wanted)
        if (one.version == 4 and not spec.ipv4) or (one.version == 6 and not spec.ipv6):
            raise InvalidArgument(
                f"subnet {one.subnet} cannot be used", f"IPv{one.version} is not enabled", f"Add --ipv{one.version}"
            )
        _check_free(host, network, one, found, others, routes)
        found.append(one)
    versions = {one.version for one in found}
    used = [one.subnet for other in others for one in other.subnets] + [one.subnet for one in found]
    if spec.ipv4 and 4 not in versions:
        if network.driver in vlans.KINDS:
            raise _needs_subnet(network)
        used += siblings.subnets(host)
        subnet = pools.choose(routes, used, host.first_choice())
        found.append(Subnet(subnet, pools.gateway(subnet)))
    if spec.ipv6 and 6 not in versions:
        subnet = pools.choose6(used)
        found.append(Subnet(subnet, pools.gateway(subnet)))
    return tuple(found)


def _needs_subnet(network: Network) -> InvalidArgument:
    return InvalidArgument(
        f"a {network.driver} network needs a subnet",
        f"its containers are hosts of the network that {network.bridge} is on",
        "Say --subnet, and --ip-range with the part of it that nobody else gives out",
    )


def _no_subnet(text: str) -> InvalidArgument:
    try:
        meant = str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return InvalidArgument(f"invalid subnet {text!r}", "it is no range of addresses", "Write it like 10.7.0.0/24")
    return InvalidArgument(f"invalid subnet {text!r}", "that is a host in it", f"Did you mean {meant}?")


# Not a part of a subnet either: this host's own addresses and those of groups would be its containers'.
_NO_HOSTS = [ipaddress.ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "::/127", "ff00::/8")]


def _complete(wanted: Subnet) -> Subnet:
    """Checked, and with a gateway. :raises InvalidArgument:"""
    try:
        whole = ipaddress.ip_network(wanted.subnet)
    except ValueError:
        raise _no_subnet(wanted.subnet) from None
    if whole.num_addresses < 4:
        raise InvalidArgument(f"subnet {whole} is too small", "it has no address for a container", "Use a larger one")
    if any(whole.version == never.version and whole.overlaps(never) for never in _NO_HOSTS):
        raise InvalidArgument(f"subnet {whole} cannot be used", "hosts cannot have its addresses", "Use 10.7.0.0/24")
    found = replace(
        wanted, subnet=str(whole), gateway=_inside(wanted.gateway or str(whole[1]), whole, "gateway"),
        reserved={name: _inside(text, whole, f"address of {name}") for name, text in wanted.reserved.items()},
    )  # fmt: skip
    if not wanted.ip_range:
        return found
    try:
        part = ipaddress.ip_network(wanted.ip_range, strict=False)
        fits = part.version == whole.version and part.subnet_of(whole)  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidArgument(f"invalid range {wanted.ip_range!r}", str(error), "Write it like 10.7.0.128/25") from None
    if not fits:
        raise InvalidArgument(
            f"range {part} cannot be used", f"it is not within {whole}", "Choose a part of the subnet"
        )
    return replace(found, ip_range=str(part))


def _inside(text: str, whole: ipam.Range, what: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid {what} {text!r}", "it is not an IP address", f"Use one of {whole}") from None
    if address not in whole or address == whole.network_address:
        raise InvalidArgument(f"invalid {what} {text}", f"no host of {whole} has that address", "Choose another")
    return str(address)


def _check_free(
    host: Host, network: Network, one: Subnet, mine: list[Subnet], others: list[Network], routes: list[rt.Route]
) -> None:
    """:raises Conflict: it says with what it overlaps"""
    whole = ipaddress.ip_network(one.subnet)
    names = [(other, f"network {net.name}") for net in others if not _share(network, net) for other in net.subnets]
    for other, what in [*names, *((own, "another subnet of this network") for own in mine)]:
        that = ipaddress.ip_network(other.subnet)
        if that.version == whole.version and that.overlaps(whole):
            raise Conflict(
                f"subnet {one.subnet} cannot be used", f"it overlaps {other.subnet} of {what}", "Choose another subnet"
            )
    if network.driver in vlans.KINDS:
        return  # the host is on that network by the parent, or reaches it by a route
    if (claim := siblings.claimed(host, [one])) is not None:
        raise Conflict(f"subnet {one.subnet} cannot be used", f"it overlaps {claim}", claim.way_out)
    if (taken := pools.overlap(one.subnet, routes)) is not None:
        raise Conflict(
            f"subnet {one.subnet} cannot be used",
            f"it overlaps {taken[0]}, which the host reaches by {host.link_name(taken[1])}",
            "Choose another subnet",
        )


def _share(one: Network, other: Network) -> bool:
    """Two networks of a macvlan kind may lie on the same wire, each with its part of the addresses... if their parents
    differ; on one parent they would give out the same ones."""
    return one.driver in vlans.KINDS and other.driver in vlans.KINDS and one.bridge != other.bridge


def _with_shim(network: Network) -> Network:
    """The address of the host itself, if it is to have one there, is kept from containers."""
    text = network.options.get(HOST_SHIM)
    if text is None:
        return network
    if network.driver != "macvlan":
        raise InvalidArgument(f"option {HOST_SHIM} cannot be used", f"{network.driver} needs none", "Drop it")
    mine = network.of_version(6 if ":" in text else 4)
    for one in mine[:1]:
        address = _inside(text, ipaddress.ip_network(one.subnet), HOST_SHIM)
        if int(ipaddress.ip_address(address)) in ipam.reserved(one):
            raise InvalidArgument(f"invalid {HOST_SHIM} {text}", "another host has that address", "Choose another")
        kept = replace(one, reserved={**one.reserved, HOST_SHIM: address})
        return replace(network, subnets=tuple(kept if each is one else each for each in network.subnets))
    raise InvalidArgument(f"invalid {HOST_SHIM} {text!r}", "it is no address of the network", "Choose one of its own")


# ─ removal ─


def remove(host: Host, ref: str) -> Network:
    """Delete a network that no container uses: accepts, table entries, interfaces, row.

    :raises NotFound: no such network
    :raises InUse: containers are attached
    """
    network = pools.get(host.store.disk, ref)
    with step("remove the network", network.id):
        # Under the lock: whoever attaches a container has its row there by now, or will find no network.
        with host.store.run.write() as con:
            users = con.execute("SELECT container FROM endpoint WHERE network = ?", (network.id,)).fetchall()
            if users:
                raise InUse(
                    f"network {network.name} is in use",
                    "attached: " + ", ".join(sorted(host.name_of(u["container"]) for u in users)),
                    "Stop those containers first, or disconnect them: wharf network disconnect",
                )
            # The bridge while the row is there: killed in between, recovery sees a network whose bridge is made again
            # on its next use, and not a bridge that nobody knows.
            if network.driver == "bridge":
                links.unplug(host.rtnl, [network.bridge], delete=True)
            else:
                vlans.remove(host.rtnl, host.shim(network))
            with host.store.disk.write() as disk:
                disk.execute("DELETE FROM network WHERE id = ?", (network.id,))
            con.execute("DELETE FROM cursor WHERE network = ?", (network.id,))
            host.zones.forget(network.id)
        host.restore()
    return network
