"""The map: networks, the containers on each, the ports that lead there. A tree as rows; pure, no Textual."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from core.model import Container, EndpointInfo, Network, Reach
from core.model.netlook import port_ranges
from tui import networking, text
from tui.panes.containers import sign
from tui.snapshot import Flow, Snapshot
from tui.widgets.columns import Cell, Column, Row

COLUMNS = (
    Column("name", "NETWORK / CONTAINER / PORT", minimum=26, weight=2),
    Column("address", "ADDRESS", minimum=18, weight=4, cut="words"),
    Column("who", "REACHED BY", 18, priority=1),
    Column("where", "CALLED AT", minimum=18, weight=4, priority=3),
    Column("traffic", "IN      OUT", 16, align="right", priority=4),
    Column("via", "INTERFACE", minimum=20, weight=1, priority=5),
)


def tree(snapshot: Snapshot, reach: Iterable[Reach], shut: AbstractSet[str]) -> Iterator[Row]:
    """A line for each network, each container on it and each port that leads to it.

    :param shut: ids of networks whose containers are not shown
    """
    ports: dict[str, list[Reach]] = {}
    for found in reach:
        ports.setdefault(found.container, []).append(found)
    for network in sorted(snapshot.networks, key=networking.by_name):
        members = sorted(_members(network, snapshot.containers), key=lambda pair: (pair[0].name.lower(), pair[1]))
        closed = network.id in shut
        yield _network_row(network, len(members), closed, snapshot.flow_of(network.name))
        if closed:
            continue
        for container, owner in members:
            end = networking.leads_to(container, snapshot.networks)
            yield _container_row(network, container, owner, snapshot.traffic.get((container.id, network.name)))
            if end is not None and end.network == network.name and not owner:
                leading = ports.get(container.name, ())
                for group in port_ranges(leading, lambda one: one.port, _told):
                    yield _port_row(network, container, group)


def _members(network: Network, containers: Sequence[Container]) -> Iterator[tuple[Container, str]]:
    """Those on it; with the name of the container whose network they share, "" where it is their own."""
    on = networking.users(network, containers)
    for container in on:
        yield container, ""
    for container in containers:
        owner = container.spec.network.removeprefix("container:")
        if owner != container.spec.network:
            yield from ((container, box.name) for box in on if owner in (box.id, box.name))


def _network_row(network: Network, members: int, closed: bool, flow: Flow | None) -> Row:
    fold = ("▸ " if closed else "▾ ") if text.glyphs().unicode else ("> " if closed else "v ")
    count = f"  {members}" if closed and members else ""
    driver = "" if network.driver in ("bridge", "host", "null") else network.driver
    words = " ".join(word for word in (driver, networking.flags(network)) if word)
    quiet = "text-muted"
    return Row(
        f"n {network.id}",
        (
            Cell((fold if members else "  ") + network.name + count, "bold"),
            networking.subnets(network),
            Cell(words, quiet),
            "",
            networking.traffic(flow),
            Cell(network.bridge, quiet),
        ),
    )


def _container_row(network: Network, container: Container, owner: str, flow: Flow | None) -> Row:
    end = next((end for end in container.endpoints if end.network == network.name), None)
    ill = container.state.live and container.health == "unhealthy"
    mark = Cell(text.glyphs().running, "warning") if ill else sign(container)  # ``!`` means a warning here
    quiet = "" if container.state.live else "text-muted"
    shares = (f"  with {owner}" if owner else "") + ("  unhealthy" if ill else "")
    aliases = ", ".join(end.aliases) if end is not None else ""
    return Row(
        f"c {network.id} {container.id}",
        (
            Cell(f"    {mark.text} {container.name}{shares}", quiet or mark.style),
            addresses(end) if end is not None or container.state.live else Cell("not running", quiet),
            "",
            Cell(f"also {aliases}" if aliases else "", "text-muted"),
            networking.traffic(flow),
            Cell(f"{end.name} {end.interface}".strip() if end is not None else "", "text-muted"),
        ),
        quiet,
    )


def _told(one: Reach) -> object:
    """What is said of a port beside its numbers: those of one range have it in common."""
    return one.scope, one.addresses, one.warnings


def _port_row(network: Network, container: Container, group: Sequence[Reach]) -> Row:
    """Of a range of ports; its key names the first."""
    first = group[0]
    where = Cell(", ".join(first.addresses), "text-muted")
    words = networking.port_words(*(one.port for one in group))
    cells = (f"        {words}", "", networking.scope_cell(first), where, "", "")
    return Row(f"p {network.id} {container.id} {networking.port_words(first.port)}", cells)


def addresses(end: EndpointInfo | None) -> str:
    return " ".join(address for address in (end.ip, end.ip6) if address) if end is not None else ""
