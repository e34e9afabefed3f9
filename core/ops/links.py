"""Links of the old kind: a name that one container has for another.

On networks of one's own the resolver knows them; on the default bridge, where there is none, they are lines in
/etc/hosts, as the other container is when this one starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import Conflict, InvalidArgument
from core.ops import records, wiring
from core.options import parse_link

if TYPE_CHECKING:
    from core.model import ContainerSpec
    from core.ops.context import Context
    from core.ops.records import Record


async def check_links(ctx: Context, spec: ContainerSpec) -> None:
    """:raises NotFound: no such container, on the default bridge

    :raises InvalidArgument: there is no network to share
    """
    words = [*spec.links, *(word for end in spec.networks for word in end.links)]
    if words and not wiring.wanted(spec):
        raise InvalidArgument(f"links need a network, and this is --network {spec.network}", "no address is shared")
    for word in words:
        name, _ = parse_link(word)
        if not wiring.has_resolver(spec):  # that one answers once the other is there
            await records.find(ctx, name)


async def linked(ctx: Context, record: Record) -> list[str]:
    """``NAME:ADDRESS`` for /etc/hosts; none where a resolver answers for them.

    :raises NotFound: no such container
    :raises Conflict: it does not run, or is on none of this one's networks
    """
    if not record.spec.links or wiring.has_resolver(record.spec):
        return []
    ours = {end.network for end in wiring.wanted(record.spec)}
    found = []
    for word in record.spec.links:
        name, alias = parse_link(word)
        other = records.snapshot(ctx, await records.find(ctx, name))
        end = next((end for end in other.endpoints if end.network in ours), None)
        if end is None:
            why = f"it is not on {', '.join(sorted(ours))}" if other.state.live else "it does not run"
            raise Conflict(f"cannot link to {name}", why, f"Start it first: wharf start {name}", object_id=record.id)
        for known in dict.fromkeys((alias or name, other.name, other.short_id)):
            found.append(f"{known}:{end.ip}")
    return found
