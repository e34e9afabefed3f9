"""Network rows (wharf.db), and the choice of a subnet that is free on this host."""

from __future__ import annotations

import ipaddress
import json
import sqlite3
import time
from collections.abc import Iterable, Sequence

from core.errors import Conflict, NotFound
from core.kernel.rtnetlink import Route
from core.model import Network
from core.names import make_id
from core.store.db import Database

DEFAULT = "bridge"  # the network that containers join unless told otherwise

# Private ranges, with the prefix length of the subnets cut from them. Docker's own defaults (172.17.0.0/16 and up,
# 192.168.0.0/16 cut in /20) come last, so that both live on one host whichever was there first.
POOLS: tuple[tuple[str, int], ...] = (
    ("172.28.0.0/14", 20),
    ("10.201.0.0/16", 20),
    ("10.89.0.0/16", 20),
    ("172.20.0.0/14", 20),
    ("192.168.128.0/17", 20),
)


def parse(row: sqlite3.Row) -> Network:
    return Network(
        id=row["id"],
        name=row["name"],
        driver=row["driver"],
        created=row["created"],
        subnet=row["subnet"],
        gateway=row["gateway"],
        bridge=row["bridge"],
        mtu=row["mtu"],
        internal=bool(row["internal"]),
        labels=json.loads(row["labels"]),
    )


def find(disk: Database, ref: str) -> Network | None:
    """The network with that name or full id."""
    rows = disk.read("SELECT * FROM network WHERE name = ? OR id = ?", (ref, ref))
    return parse(rows[0]) if rows else None


def get(disk: Database, ref: str) -> Network:
    """:func:`find`, or an error.

    :raises NotFound: no such network
    """
    found = find(disk, ref)
    if found is None:
        raise NotFound(
            f"no such network: {ref}", "neither a name nor an id matches", "List them with: wharf network ls"
        )
    return found


def every(disk: Database) -> list[Network]:
    return [parse(row) for row in disk.read("SELECT * FROM network ORDER BY created, id")]


def _taken(routes: Iterable[Route], ignore: int) -> list[ipaddress.IPv4Network]:
    """What the host can already reach, without default routes (and halves of the address space, as VPNs set them)."""
    return [
        ipaddress.IPv4Network(r.destination, strict=False)
        for r in routes
        if r.destination[1] > 1 and r.interface != ignore
    ]


def overlaps(subnet: str, routes: Iterable[Route], ignore: int = -1) -> bool:
    """True where a route, other than those of interface ``ignore``, leads into ``subnet``."""
    wanted = ipaddress.IPv4Network(subnet)
    return any(wanted.overlaps(taken) for taken in _taken(routes, ignore))


def choose(routes: Iterable[Route], used: Iterable[str], start: int, pools: Sequence[tuple[str, int]] = POOLS) -> str:
    """A subnet that overlaps no route and none of ``used``. ``start`` rotates the search within the first pools, so
    that instances whose bridges are down at the moment do not choose alike.

    :raises Conflict: everything is taken
    """
    taken = _taken(routes, -1) + [ipaddress.IPv4Network(u) for u in used]
    for pool, prefix in pools:
        subnets = list(ipaddress.IPv4Network(pool).subnets(new_prefix=prefix))
        shift = start % len(subnets)
        for subnet in subnets[shift:] + subnets[:shift]:
            if not any(subnet.overlaps(t) for t in taken):
                return str(subnet)
    names = ", ".join(pool for pool, _ in pools)
    raise Conflict("no free subnet for a network", f"the host's routes cover {names}", "Remove networks not in use")


def gateway(subnet: str) -> str:
    return str(ipaddress.IPv4Network(subnet)[1])


def create_default(con: sqlite3.Connection, *, bridge: str, subnet: str, mtu: int) -> None:
    """Insert the default network's row; the caller holds the write transaction in which it looked for one."""
    con.execute(
        "INSERT INTO network (id, name, driver, created, subnet, gateway, bridge, mtu, internal, labels)"
        " VALUES (?, ?, 'bridge', ?, ?, ?, ?, ?, 0, '{}')",
        (make_id(), DEFAULT, time.time(), subnet, gateway(subnet), bridge, mtu),
    )


def move(con: sqlite3.Connection, network_id: str, subnet: str) -> None:
    """Give a network that nobody uses another subnet."""
    con.execute("UPDATE network SET subnet = ?, gateway = ? WHERE id = ?", (subnet, gateway(subnet), network_id))
