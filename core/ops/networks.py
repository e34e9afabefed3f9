"""``network create``, ``rm`` and ``prune``."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import InUse, NotFound
from core.model import Network, NetworkSpec
from core.names import has_label
from core.ops import records
from core.ops.context import Context
from core.ops.wiring import wanted

_PREDEFINED = ("bridge", "host", "none")


async def create_network(ctx: Context, spec: NetworkSpec) -> Network:
    """Make a network; see :func:`core.net.networks.create` for what is refused."""
    network = await ctx.net.create_network(spec)
    ctx.tell("network", "create", network.id, name=network.name, type=network.driver)
    return network


async def remove_network(ctx: Context, ref: str) -> Network:
    """Remove a network that no container is on now.

    :raises NotFound: no such network
    :raises InUse: by which containers; or it is one of those that are always there
    """
    found = await find_network(ctx, ref)
    if found.name in _PREDEFINED:
        raise InUse(f"network {found.name} cannot be removed", "it is always there", "Remove its containers only")
    network = await ctx.net.remove_network(found.id)
    ctx.tell("network", "destroy", network.id, name=network.name, type=network.driver)
    return network


async def prune_networks(ctx: Context, labels: Sequence[str] = (), until: float | None = None) -> list[Network]:
    """Remove the networks that no container, running or not, is to be on.

    :param labels: only those with all of these labels; ``!KEY`` or ``!KEY=VALUE``: only those without it
    :param until: only those made before that moment, seconds since the epoch
    """
    used = {end.network for record in await records.every(ctx) for end in wanted(record.spec)}
    gone = []
    for network in await ctx.net.describe():
        if network.name in _PREDEFINED or network.name in used or network.containers:
            continue
        if until is not None and network.created >= until:
            continue
        if not all(has_label(network.labels, one.removeprefix("!")) != one.startswith("!") for one in labels):
            continue
        try:
            gone.append(await remove_network(ctx, network.id))
        except (InUse, NotFound):
            continue  # somebody has taken, or removed, it meanwhile
    return gone


async def find_network(ctx: Context, ref: str) -> Network:
    """By name, id or the beginning of an id.

    :raises NotFound: there is none; the error names those that there are
    """
    found = await ctx.net.describe()
    named = [one for one in found if one.name == ref] or [one for one in found if one.id == ref]
    named = named or [one for one in found if len(ref) >= 4 and one.id.startswith(ref)]
    if len(named) == 1:
        return named[0]
    raise no_such(ref, found)


def no_such(ref: str, there: Sequence[Network]) -> NotFound:
    names = ", ".join(network.name for network in there)
    return NotFound(f"no such network: {ref}", f"there are {names}", "`wharf network ls` lists them")
