"""Ports that a proxy has to serve, because the kernel cannot translate their packets.

That is ``::1``, for it cannot be the way to another machine; and each port of an ordinary user, who may not touch the
host's tables.
"""

from __future__ import annotations

from collections.abc import Iterable

from core.model import PortMapping
from core.net.ports import ANY4, ANY6, LOCALHOST6, held_name
from core.net.ruleset import Port

_MOST = 512  # of ::1: as many as have reservations

Order = dict[str, object]  # of core.supervise.proxying


def on_localhost6(port: PortMapping, others: Iterable[PortMapping]) -> bool:
    """Is this port of a container, which is on all addresses of one version of IP, served on ``::1`` for it? If it has
    one on all of IPv6 as well, for that one."""
    if port.protocol == "sctp" or port.host_ip not in ("", ANY6):
        return False
    same = {one.host_ip for one in others if (one.protocol, one.host_port) == (port.protocol, port.host_port)}
    return port.host_ip == ANY6 or not same & {ANY6, LOCALHOST6}


def orders(rows: Iterable[Port], *, every: bool, ip: str = "") -> list[Order]:
    """What the proxy of one container is to listen on.

    :param rows: its published ports
    :param every: not only those of ``::1``
    :param ip: the container's IPv4 address where its ports lead to, if it has one: for servers that are not on IPv6
    """
    served = [row for row in rows if row.protocol != "sctp"]
    found = [_order(row, row.host_ip, ip) for row in served if every or row.host_ip in (ANY6, LOCALHOST6)]
    there = {(row.protocol, row.host_port) for row in served if row.host_ip in (ANY6, LOCALHOST6)}
    # One on all addresses is on those of the other version too, whatever the container has.
    rest = [row for row in served if not row.host_ip and (row.protocol, row.host_port) not in there]
    found += [_order(row, ANY6 if every else LOCALHOST6, own=True) for row in rest]
    return found if every else found[:_MOST]


def _order(row: Port, host_ip: str, ip: str = "", *, own: bool = False) -> Order:
    """:param own: there is no reservation of that address; where somebody else has it, it stays theirs"""
    name = held_name(row.protocol, host_ip, row.host_port)
    made: Order = {
        "name": f"own {name}" if own else name,
        "protocol": row.protocol,
        "bind": [host_ip or ANY4, row.host_port],
        "target": [row.container_ip, row.container_port],
    }
    if ip and ":" in row.container_ip:
        made["or"] = [[ip, row.container_port]]
    return made
