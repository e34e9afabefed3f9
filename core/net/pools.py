"""Network rows (wharf.db), and the choice of a subnet that is free on this host."""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence

from core.errors import Conflict, NotFound
from core.kernel.rtnetlink import Route
from core.model import Network, Subnet
from core.names import make_id
from core.net.ipam import Range
from core.store.codec import from_plain, to_plain
from core.store.db import Database

_ID = re.compile("[0-9a-f]{4,63}")
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
    return _parse(row["id"], row["name"], row["driver"], row["created"], row["config"])


@functools.lru_cache(256)  # each attach looks at its network twice, mostly at the same one
def _parse(id_: str, name: str, driver: str, created: float, config: str) -> Network:
    rest = json.loads(config)
    return from_plain(Network, {**rest, "id": id_, "name": name, "driver": driver, "created": created})


def find(disk: Database, ref: str) -> Network | None:
    """The network with that name, id, or unambiguous beginning of an id (4 digits at least)."""
    rows = disk.read("SELECT * FROM network WHERE name = ? OR id = ?", (ref, ref))
    if not rows and _ID.fullmatch(ref):
        rows = disk.read("SELECT * FROM network WHERE id GLOB ?", (ref + "*",))
    return parse(rows[0]) if len(rows) == 1 else None


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


def default(bridge: str, subnet: str, mtu: int) -> Network:
    """The network that containers join unless told otherwise."""
    return Network(
        make_id(), DEFAULT, "bridge", time.time(), (Subnet(subnet, gateway(subnet)),), bridge=bridge, mtu=mtu
    )


def insert(con: sqlite3.Connection, network: Network) -> None:
    """Add the row; the caller holds the write transaction in which it saw that the name is free."""
    con.execute(
        "INSERT INTO network (id, name, driver, created, config) VALUES (?, ?, ?, ?, ?)",
        (network.id, network.name, network.driver, network.created, _config(network)),
    )


def update(con: sqlite3.Connection, network: Network) -> None:
    """Replace what may change of a network: all but id and name."""
    con.execute("UPDATE network SET config = ? WHERE id = ?", (_config(network), network.id))


def _config(network: Network) -> str:
    rest = to_plain(network)
    for key in ("id", "name", "driver", "created", "containers"):
        rest.pop(key, None)
    return json.dumps(rest, separators=(",", ":"))


# ─ which subnet ─


def taken_by(routes: Iterable[Route], ignore: int) -> list[tuple[Range, int]]:
    """What the host can already reach, with the index of the interface; without default routes (and halves of the
    address space, as VPNs set them), and without link-local and multicast addresses, which every interface has."""
    found = []
    for route in routes:
        address, length = route.destination
        if length <= 1 or route.interface == ignore:
            continue
        kind = ipaddress.IPv6Network if route.version == 6 else ipaddress.IPv4Network
        network = kind((address, length), strict=False)
        if not (network.is_link_local or network.is_multicast):
            found.append((network, route.interface))
    return found


def overlap(subnet: str, routes: Iterable[Route], ignore: int = -1) -> tuple[Range, int] | None:
    """A route, other than those of interface ``ignore``, that leads into ``subnet``, as (destination, interface)."""
    wanted = ipaddress.ip_network(subnet)
    return next((pair for pair in taken_by(routes, ignore) if _meet(wanted, pair[0])), None)


def _meet(one: Range, other: Range) -> bool:
    return one.version == other.version and one.overlaps(other)


def choose(routes: Iterable[Route], used: Iterable[str], start: int, pools: Sequence[tuple[str, int]] = POOLS) -> str:
    """A subnet that overlaps no route and none of ``used``. ``start`` rotates the search within the first pools, so
    that instances whose bridges are down at the moment do not choose alike.

    :raises Conflict: everything is taken
    """
    taken = [range_ for range_, _ in taken_by(routes, -1)] + [ipaddress.ip_network(u) for u in used]
    for pool, prefix in pools:
        subnets = list(ipaddress.IPv4Network(pool).subnets(new_prefix=prefix))
        shift = start % len(subnets)
        for subnet in subnets[shift:] + subnets[:shift]:
            if not any(_meet(subnet, t) for t in taken):
                return str(subnet)
    names = ", ".join(pool for pool, _ in pools)
    raise Conflict(
        "no free subnet for a network",
        f"the host's routes and the other networks cover {names}",
        "Remove networks not in use (wharf network prune), or name one with --subnet",
    )


def choose6(used: Iterable[str]) -> str:
    """A /64 of a random unique local prefix (RFC 4193): its 40 random bits make a meeting with any other unlikely."""
    taken = {ipaddress.ip_network(u) for u in used}
    while True:
        prefix = 0xFD << 120 | secrets.randbits(40) << 80
        subnet = ipaddress.IPv6Network((prefix, 64))
        if subnet not in taken:
            return str(subnet)


def gateway(subnet: str) -> str:
    """The first address of a subnet."""
    return str(ipaddress.ip_network(subnet)[1])
