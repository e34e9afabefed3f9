"""``network map``: networks, who is on them, and the ports that lead there."""

from __future__ import annotations

from core.model import Container, EndpointInfo, Network, PortMapping, Reach
from core.model.netlook import MapPlace, MapPort, NetworkMap
from core.ops import records
from core.ops.context import Context
from core.ops.reach import reach
from core.ops.wiring import wanted

_Who = dict[tuple[str, PortMapping], Reach]  # by the container's name and the port


async def network_map(ctx: Context) -> list[NetworkMap]:
    """All networks, with running containers and those that will be on them when they are started, oldest first."""
    networks = await ctx.net.describe()
    who = {(one.container, one.port): one for one in await reach(ctx)}
    boxes = [records.snapshot(ctx, record) for record in reversed(await records.every(ctx))]
    owners = {box.id: box for box in boxes}
    return [NetworkMap(network, tuple(_places(network, boxes, owners, who))) for network in networks]


def _places(network: Network, boxes: list[Container], owners: dict[str, Container], who: _Who) -> list[MapPlace]:
    found = []
    for box in boxes:
        owner = owners.get(box.spec.network.removeprefix("container:"))
        if owner is not None:
            if _is_on(owner, network):
                found.append(MapPlace(box.id, box.name, box.state, None, owner.name))
        elif _is_on(box, network):
            end = _end(box, network)
            found.append(MapPlace(box.id, box.name, box.state, end, "", _ports(box, end, who)))
    return found


def _end(box: Container, network: Network) -> EndpointInfo | None:
    return next((end for end in box.endpoints if end.network == network.name), None)


def _is_on(box: Container, network: Network) -> bool:
    if network.driver in ("host", "null"):
        return box.spec.network == network.name
    return _end(box, network) is not None or (
        not box.endpoints and network.name in [end.network for end in wanted(box.spec)]
    )


def _ports(box: Container, end: EndpointInfo | None, who: _Who) -> tuple[MapPort, ...]:
    """At its first place, to whose address they lead; of one that does not run, those that it asks for."""
    if end is not None:
        first = box.endpoints[0] == end
        return tuple(MapPort(port, who.get((box.name, port))) for port in box.ports) if first else ()
    return tuple(map(MapPort, box.spec.ports)) if not box.endpoints else ()
