"""``network check``: from the network's row to a published port, link by link, until the first broken one is named.

::

    diagnose_host.py     bridge, addresses, MTU, routes, our firewall, others' forward policies, forwarding
    diagnose_inside.py   the wire, the interface, the gateway, the way out, DNS
    diagnose_ports.py    published ports: who listens, the rule, a connection

Links that rest on a broken one are left out: they could only tell the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from core.errors import NotFound
from core.model import Container, EndpointInfo, Network, State
from core.model.netlook import NetStep
from core.ops import diagnose_host, diagnose_inside, records
from core.ops.context import Context
from core.ops.diagnose_host import HostSide

_VITAL = ("bridge", "bridge address", "parent")  # without them nothing of the container's side can work
_AT_ONCE = 16  # containers
_MOST = 1 << 16  # bytes of a resolv.conf that are read
_OUTWARD = ("firewall", "forward policy", "forwarding", "route")  # without them nothing gets out


async def check_network(ctx: Context, ref: str) -> AsyncIterator[NetStep]:
    """The steps for a network with all its containers, or for one container with all its networks.

    :raises NotFound: neither has that name
    """
    networks = await ctx.net.describe()
    chosen = _network(networks, ref)
    if chosen is None:
        try:
            box = records.snapshot(ctx, await records.find(ctx, ref))
        except NotFound:
            raise NotFound(
                f"no such network or container: {ref}",
                "networks are " + ", ".join(one.name for one in networks),
                "`wharf network ls` and `wharf ps -a` list them",
            ) from None
        async for step in _check_container(ctx, networks, box):
            yield step
    else:
        async for step in _check_whole(ctx, chosen):
            yield step


def _network(networks: list[Network], ref: str) -> Network | None:
    named = [one for one in networks if ref in (one.name, one.id)]
    named = named or [one for one in networks if len(ref) >= 4 and one.id.startswith(ref)]
    return named[0] if len(named) == 1 else None


async def _check_whole(ctx: Context, network: Network) -> AsyncIterator[NetStep]:
    if network.driver in ("host", "null"):
        text = (
            "its containers use the interfaces of this host itself: there is nothing between that could be broken"
            if network.driver == "host"
            else "its containers have lo and nothing else: that nothing gets out is right"
        )
        yield NetStep(f"network {network.name}", "network", "skipped", text)
        return
    side = await ctx.net.look("look at the network", lambda host: diagnose_host.look(host, network))
    steps = list(diagnose_host.links_of(network, side))
    for step in steps:
        yield step
    if _broken(steps, _VITAL):
        return
    boxes = [records.snapshot(ctx, record) for record in reversed(await records.every(ctx))]
    places = [(box, end) for box in boxes if box.pid for end in box.endpoints if end.network == network.name]
    walks = [_check_end(ctx, network, side, steps, box, end) for box, end in places]
    async with contextlib.aclosing(_side_by_side(walks, _AT_ONCE)) as found:
        async for step in found:
            yield step


async def _side_by_side(walks: Sequence[AsyncIterator[NetStep]], most: int) -> AsyncGenerator[NetStep]:
    """What each of them finds, in their order and as soon as it may be told, while up to ``most`` are under way: they
    wait for answers, most of the time."""
    room = asyncio.Semaphore(most)
    found: list[asyncio.Queue[NetStep | None]] = [asyncio.Queue() for _ in walks]

    async def walk(number: int) -> None:
        try:
            async with room:
                async for step in walks[number]:
                    found[number].put_nowait(step)
        finally:
            found[number].put_nowait(None)

    tasks = [asyncio.create_task(walk(number)) for number in range(len(walks))]
    try:
        for task, queue in zip(tasks, found, strict=True):
            while (step := await queue.get()) is not None:
                yield step
            await task  # what it has met, if it came to no end
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _check_container(ctx: Context, networks: list[Network], box: Container) -> AsyncIterator[NetStep]:
    who = f"container {box.name}"
    mode, _, other = box.spec.network.partition(":")
    if mode in ("host", "none"):
        words = {
            "host": "it uses the interfaces of this host itself: what this host reaches, it reaches",
            "none": "it has lo and nothing else: that nothing gets out is right",
        }
        yield NetStep(who, "network", "skipped", words[mode])
        return
    if mode == "container":
        shared = records.snapshot(ctx, await records.find(ctx, other))
        yield NetStep(who, "network", "skipped", f"it uses the network of {shared.name}, which is looked at instead")
        async for step in _check_container(ctx, networks, shared):
            yield step
        return
    if not box.pid:
        yield NetStep(who, "container", "skipped", "it does not run, and has no network", f"wharf start {box.name}")
        return
    for end in box.endpoints:
        network = next((one for one in networks if end.network in (one.name, one.id)), None)
        if network is None:
            yield NetStep(who, "network", "broken", f"the network {end.network} is gone", "wharf network ls")
            continue
        side = await ctx.net.look("look at the network", lambda host, n=network: diagnose_host.look(host, n))  # type: ignore[misc]
        steps = list(diagnose_host.links_of(network, side))
        for step in steps:
            yield step
        if not _broken(steps, _VITAL):
            async for step in _check_end(ctx, network, side, steps, box, end):
                yield step


def _broken(steps: list[NetStep], names: tuple[str, ...] = ()) -> bool:
    return any(step.status == "broken" and (not names or step.name in names) for step in steps)


def _resolv_conf(ctx: Context, box: Container) -> str:
    """As it is now: the container sees this very file, and may have written anything into it."""
    try:
        with open(ctx.inst.container_dir(box.id) / "resolv.conf", "rb") as file:
            return file.read(_MOST).decode(errors="replace")
    except OSError:
        return ""


async def _check_end(
    ctx: Context, network: Network, side: HostSide, before: list[NetStep], box: Container, end: EndpointInfo
) -> AsyncIterator[NetStep]:
    """A container's place on a network, from its wire on.

    :param before: what was found on the host
    """
    if box.state is State.PAUSED:
        fix = f"wharf unpause {box.name}"
        yield NetStep(f"container {box.name}", "container", "warning", "it is paused: its programs answer nobody", fix)
    steps: list[NetStep] = list(diagnose_inside.wire(box, end, network, side.view))
    for step in steps:
        yield step
    if _broken(steps):
        return
    inside = await ctx.net.look(f"look into {box.name}", diagnose_inside.look, box.pid)
    for step in diagnose_inside.interface(box, end, network, inside.view):
        steps.append(step)
        yield step
    if _broken(steps):
        return
    async for step in diagnose_inside.gateway(ctx.net, box, end, network):
        steps.append(step)
        yield step
    if _broken(steps):
        return
    leads_out = not network.internal and not _broken(before, _OUTWARD)
    if leads_out and end.interface:
        suspects = [step for step in before if step.name == "forward policy" and step.status == "warning"]
        for version in (4, 6):
            if diagnose_inside.is_way_out(box, end, version):
                step = await diagnose_inside.outside(ctx.net, box, side.view, version, suspects)
                leads_out &= step.status != "broken"
                yield step
        leads_out &= bool(side.view.ways)
    if box.endpoints[0] == end:
        for step in await diagnose_inside.resolving(ctx.net, box, _resolv_conf(ctx, box), leads_out=leads_out):
            yield step
        from core.ops.diagnose_ports import published  # late: few have any

        async for step in published(ctx.net, box, inside.sockets, reached=not _broken(before, ("firewall", "route"))):
            yield step
