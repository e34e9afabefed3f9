"""A container's published ports, one by one: see :mod:`core.ops.diagnose`."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import AsyncIterator, Sequence

from core.kernel import nftables as nft
from core.kernel.netlink import NetlinkError
from core.kernel.sockdiag import CLOSED, LISTEN, PROTOCOLS, Socket
from core.model import Container, PortMapping
from core.model.netlook import NetStep
from core.net import firewall, probe
from core.net.firewall import Port
from core.net.host import Host
from core.net.net import Net
from core.net.ports import LOCALHOST6
from core.ops.diagnose_host import REPAIR
from core.store.paths import rootless_user

_ANY = ("0.0.0.0", "::")


async def published(net: Net, box: Container, found: Sequence[Socket], *, reached: bool) -> AsyncIterator[NetStep]:
    """Each port: somebody listens, the rule is there, a connection is accepted.

    :param found: sockets in the container
    :param reached: whether the host reaches the container at all
    """
    who = f"container {box.name}"
    missing = await net.look("read the port rules", lambda host: _missing(host, box))
    for port in box.ports:
        host = f"[{port.host_ip}]:" if ":" in port.host_ip else f"{port.host_ip}:" if port.host_ip else ""
        name = f"port {host}{port.host_port}/{port.protocol}"
        broken = False
        for step in (_listens(who, name, box, port, found), _rule(who, name, box, port, missing)):
            broken |= step.status == "broken"
            yield step
            if broken:
                break
        if not broken and reached:
            yield await _accepted(net, who, name, box, port)


def _listens(who: str, name: str, box: Container, port: PortMapping, found: Sequence[Socket]) -> NetStep:
    inside = f"{port.container_port}/{port.protocol}"
    if port.protocol not in PROTOCOLS:
        return NetStep(who, name, "skipped", f"{port.protocol}: who listens on {inside} cannot be seen")
    waiting = [one for one in found if one.protocol == port.protocol and one.state == _waits(port.protocol)]
    there = sorted({one.local_ip for one in waiting if one.local_port == port.container_port})
    own6 = [end.ip6 for end in box.endpoints if end.ip6]
    # What comes by IPv6 arrives by it, where the container has it; but by a proxy, which tries both.
    proxied = port.host_ip == LOCALHOST6 or rootless_user() is not None
    by6 = ":" in port.host_ip and not proxied and bool(own6)
    own = ("::", *own6) if by6 else (*_ANY, *(end.ip for end in box.endpoints if end.ip))
    full = [one for one in waiting if one.local_port == port.container_port and one.room and one.waiting > one.room]
    if full:
        text = f"what listens on {inside} in the container accepts nobody: {full[0].waiting} callers wait"
        return NetStep(who, name, "broken", text, f"Does the program hang? wharf logs {box.name}")
    if any(address in own for address in there):
        return NetStep(who, name, "ok", f"something listens on {inside} in the container")
    if by6 and any(":" not in one and not ipaddress.ip_address(one).is_loopback for one in there):
        text = f"in the container {inside} listens on {', '.join(there)}: not on IPv6, by which these callers come"
        alone = f"-p 0.0.0.0:{port.host_port}:{port.container_port}"
        fix = f"Let the program listen on [::] too, or publish IPv4 alone: {alone}"
        return NetStep(who, name, "broken", text, fix)
    if there:
        only = "only for itself" if all(ipaddress.ip_address(one).is_loopback for one in there) else "only there"
        text = f"in the container {inside} listens on {', '.join(there)}: {only}"
        return NetStep(who, name, "broken", text, "Let the program listen on 0.0.0.0 (all addresses)")
    others = sorted({one.local_port for one in waiting if one.local_ip in own})[:6]
    text = f"nothing listens on {inside} in the container"
    if others:
        text += f", but on {', '.join(map(str, others))}"
        return NetStep(who, name, "broken", text, f"Publish that one: -p {port.host_port}:{others[0]}")
    return NetStep(who, name, "broken", text, f"Is the program up? wharf logs {box.name}")


def _waits(protocol: str) -> int:
    return LISTEN if protocol == "tcp" else CLOSED


def _missing(host: Host, box: Container) -> set[tuple[str, str, int]]:
    """Those of its ports whose elements are not in the table. In the worker thread."""
    from core.net import ports

    rows = host.store.run.read("SELECT * FROM port WHERE container = ?", (box.id,))
    return {(port.protocol, port.host_ip, port.host_port) for port in ports.parse(rows) if not _is_there(host, port)}


def _is_there(host: Host, port: Port) -> bool:
    try:
        for spec, wanted in firewall.contents((), [port]).items():
            if wanted and not wanted <= nft.elements(host.netfilter, host.inst.nft_table, spec):
                return False
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _rule(who: str, name: str, box: Container, port: PortMapping, missing: set[tuple[str, str, int]]) -> NetStep:
    if (port.protocol, port.host_ip, port.host_port) in missing:
        return NetStep(who, name, "broken", "the rule that leads it there is gone", f"{REPAIR} {box.name}")
    return NetStep(who, name, "ok", "the rule that leads it there is in the firewall")


async def _accepted(net: Net, who: str, name: str, box: Container, port: PortMapping) -> NetStep:
    address = "127.0.0.1" if port.host_ip in ("", "0.0.0.0") else port.host_ip
    if address == "::":  # any address of the host but ::1, which is no matter of the firewall
        address = next((end.gateway6 for end in box.endpoints if end.gateway6), "::1")
    if port.protocol != "tcp":
        return NetStep(who, name, "skipped", f"{port.protocol}: only its user can tell whether it answers")
    at = f"[{address}]:{port.host_port}" if ":" in address else f"{address}:{port.host_port}"
    why = await probe.connect(net, address, port.host_port)
    if why:
        fix = "Look for rules that drop what this host sends: nft list ruleset"
        return NetStep(who, name, "broken", f"{at} does not accept: {why}", fix)
    return NetStep(who, name, "ok", f"{at} accepts connections from this host")
