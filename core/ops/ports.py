"""Ports of a container that is there already: published and closed, also while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from core.errors import Conflict, InvalidArgument, NotFound, Unavailable, Unsupported
from core.model import Container, EndpointInfo, PortMapping
from core.net import ports as words
from core.net.reserve import describe
from core.ops import records
from core.ops.check_networks import check_networks
from core.ops.context import Context
from core.ops.records import Record
from core.ops.settle import settle
from core.ops.validate import check_published
from core.store.journal import Journal
from core.store.lock import object_lock
from core.supervise import client

# From a monitor that is told to let go of reservations: it has ended, or is of a version that knows no such request.
# Then they stay until the container ends, and nothing else is wrong.
_DEAF = (Conflict, Unavailable, Unsupported)
_SHOWN = 6  # ports in a message: enough to see what was meant


async def publish_ports(ctx: Context, ref: str, ports: Sequence[PortMapping]) -> Container:
    """Publish more ports: now where it runs, and at every later start. All of them, or none.

    :raises PortTaken: by whom
    :raises Conflict: it publishes one of them already; no network of it has a way in
    :raises InvalidArgument: not a port, or not of this host
    :raises Unsupported: it runs, and was started by an earlier version of this program
    """
    new = tuple(words.check(ports))
    if not new:
        raise InvalidArgument("no port to publish", "none was named", "Write it like 8080:80")
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        if double := [port for port in new if port in words.check(record.spec.ports)]:
            raise Conflict(f"{record.name} publishes {_say(double[0])} already", "once is enough", object_id=cid)
        spec = replace(record.spec, ports=(*record.spec.ports, *new))
        check_published(spec)
        await check_networks(ctx, spec)
        saved = record.saved
        async with Journal(ctx.inst, "ports", cid, ctx.undos) as journal:
            journal.step("ports.undo", cid)
            if run is not None:
                made = await ctx.net.publish(cid, saved.endpoints, new)
                try:
                    await client.reserve(ctx.inst, cid, made.sockets, (), await ctx.net.serving(cid))
                finally:
                    made.close()
                saved = replace(saved, ports=(*saved.ports, *made.ports))
            # The row is the truth, and the last to be written: whatever breaks off before goes back to it.
            await records.save_networks(ctx, cid, spec, saved)
        record = replace(record, spec=spec, saved=saved)
    ctx.tell("container", "update", cid, name=record.name, image=spec.image)
    return records.snapshot(ctx, record)


async def unpublish_ports(ctx: Context, ref: str, ports: Sequence[PortMapping]) -> Container:
    """Close published ports, now and for every later start. Connections that came by them end.

    :param ports: what is 0 or empty in one of them fits every published port
    :raises NotFound: it publishes no such port
    """
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        bound = record.saved.ports if run is not None else ()
        gone, closed = _chosen(record, bound, ports)
        spec = replace(record.spec, ports=tuple(port for port in record.spec.ports if port not in gone))
        saved = replace(record.saved, ports=tuple(port for port in record.saved.ports if port not in closed))
        async with Journal(ctx.inst, "ports", cid, ctx.undos) as journal:
            journal.step("ports.undo", cid)
            # First: killed in the middle, what is open beyond the row is closed by whoever finds the journal.
            await records.save_networks(ctx, cid, spec, saved)
            if run is not None:
                names = await ctx.net.unpublish(cid, closed)
                with contextlib.suppress(*_DEAF):
                    await client.reserve(ctx.inst, cid, {}, names, await ctx.net.serving(cid))
        record = replace(record, spec=spec, saved=saved)
    ctx.tell("container", "update", cid, name=record.name, image=spec.image)
    return records.snapshot(ctx, record)


async def undo_ports(ctx: Context, cid: str) -> None:
    """Close what is open for a container that runs and not in its row. Idempotent."""
    record = await records.find_or_none(ctx, cid)
    if record is None or records.observe(ctx, record)[1] is None:
        return  # all of its ports go, or have gone, with it
    stray = [port for port in await ctx.net.published(cid) if port not in record.saved.ports]
    await ctx.net.unpublish(cid, stray)
    with contextlib.suppress(*_DEAF):
        held = [_held(port) for port in record.saved.ports]
        await client.reserve_only(ctx.inst, cid, held, await ctx.net.serving(cid))


async def follow(ctx: Context, record: Record, ends: Sequence[EndpointInfo]) -> tuple[PortMapping, ...]:
    """The networks of a container that runs have changed: its ports lead to the one by which it answers now.

    :returns: the ports that are open; none where no network has a way in any more
    """
    before = record.saved.ports
    if not before:
        return ()
    left = await ctx.net.move_ports(record.id, ends, before)
    lost = [port for port in before if port not in left]
    with contextlib.suppress(*_DEAF):
        serving = await ctx.net.serving(record.id)
        await client.reserve(ctx.inst, record.id, {}, [_held(port) for port in lost], serving)
    return tuple(left)


def _held(port: PortMapping) -> str:
    return words.held_name(port.protocol, port.host_ip, port.host_port)


def _chosen(
    record: Record, bound: Sequence[PortMapping], wanted: Sequence[PortMapping]
) -> tuple[set[PortMapping], set[PortMapping]]:
    """What is meant of the specification, and of what is open by it."""
    origins = {port: _origin(record.spec.ports, port) for port in bound}
    gone: set[PortMapping] = set()
    for want in wanted:
        found = {port for port in record.spec.ports if _fits(want, port)}
        found |= {origin for port, origin in origins.items() if origin is not None and _fits(want, port)}
        if not found:
            open_now = [_say(port) for port in bound or record.spec.ports]
            there = ", ".join(open_now[:_SHOWN]) + (f" and {len(open_now) - _SHOWN} more" if open_now[_SHOWN:] else "")
            raise NotFound(
                f"{record.name} does not publish {_say(want)}", f"it publishes {there or 'none'}",
                f"See: wharf port {record.name}", object_id=record.id,
            )  # fmt: skip
        gone |= found
    return gone, {port for port, origin in origins.items() if origin in gone}


def _fits(want: PortMapping, port: PortMapping) -> bool:
    same = {port.host_ip} if port.host_ip not in ("", words.ANY4) else {"", words.ANY4}
    return (
        want.protocol == port.protocol
        and want.container_port in (0, port.container_port)
        and (not want.host_port or _has(port, want.host_port))
        and (not want.host_ip or want.host_ip in same)
    )


def _has(port: PortMapping, number: int) -> bool:
    return port.host_port <= number <= (port.host_port_last or port.host_port)


def _origin(spec: Sequence[PortMapping], bound: PortMapping) -> PortMapping | None:
    """Of which mapping an open port is: the one that says most of it."""
    fitting = [
        port
        for port in spec
        if (port.protocol, port.container_port) == (bound.protocol, bound.container_port)
        and (not port.host_port or _has(port, bound.host_port))
        and (not port.host_ip or words.address(port.host_ip).replace(words.ANY4, "") == bound.host_ip)
    ]
    return max(fitting, key=lambda port: (bool(port.host_port), bool(port.host_ip)), default=None)


def _say(port: PortMapping) -> str:
    if not port.container_port:
        return (
            describe(port.host_ip, port.host_port, port.protocol)
            if port.host_ip
            else f"port {port.host_port}/{port.protocol}"
        )
    host = describe(port.host_ip, port.host_port, "").rstrip("/") + "->" if port.host_port else ""
    return f"{host}{port.container_port}/{port.protocol}"
