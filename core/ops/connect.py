"""``network connect`` and ``disconnect``: a container's networks changed, also while it runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from core.errors import Conflict, InvalidArgument, NotFound
from core.kernel import netns
from core.model import Container, ContainerSpec, EndpointInfo, EndpointSpec, Network
from core.net import ways_out
from core.ops import bundle, ports, records, wiring
from core.ops.check_networks import check_endpoint, check_words
from core.ops.context import Context
from core.ops.links import linked
from core.ops.networks import find_network
from core.ops.records import Record
from core.ops.settle import settle
from core.options import parse_link
from core.store.journal import Journal
from core.store.lock import object_lock
from core.supervise import client


async def connect(ctx: Context, ref: str, want: EndpointSpec) -> Container:
    """Put a container on one more network: now where it runs, and at every later start.

    :raises NotFound: no such container or network
    :raises Conflict: it is on it already; it uses the host's or another container's network; the address is taken
    :raises InvalidArgument: an address that the network has not, or an interface that it has already
    :raises Unsupported: it runs, and was started by an earlier version of this program
    """
    network = await find_network(ctx, want.network)
    want = replace(want, network=network.name)
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        _check_mode(record, network)
        before = wiring.wanted(record.spec)
        if any(end.network == network.name for end in before):
            raise Conflict(f"{record.name} is on network {network.name} already", "once is enough", object_id=cid)
        check_endpoint(network, want)
        for word in want.links:
            parse_link(word)
        spec = _with_networks(record.spec, (*before, want))
        check_words(spec)
        if run is None or not client.alive(run):
            record = await _save(ctx, record, spec, record.saved)
        else:
            async with Journal(ctx.inst, "connect", cid, ctx.undos) as journal:
                name = _free_name(want, record)
                journal.step("connect.undo", cid, network.id, name)
                record = await _attach(ctx, record, spec, want, name, run)
    ctx.tell("network", "connect", network.id, container=cid, name=network.name, type=network.driver)
    return records.snapshot(ctx, record)


async def disconnect(ctx: Context, network: str, ref: str, *, force: bool = False) -> Container:
    """Take a container from a network, now and for every later start.

    :param force: also where the network itself is gone
    :raises NotFound: no such container, or it is not on that network
    """
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        try:
            name = (await find_network(ctx, network)).name
        except NotFound:
            if not force:
                raise
            name = network
        left = tuple(end for end in wiring.wanted(record.spec) if end.network != name)
        if len(left) == len(wiring.wanted(record.spec)):
            raise NotFound(f"{record.name} is not on network {name}", "there is nothing to disconnect", object_id=cid)
        spec = _with_networks(record.spec, left)
        ends = tuple(end for end in record.saved.endpoints if end.network != name)
        gone = [end for end in record.saved.endpoints if end.network == name]
        async with Journal(ctx.inst, "disconnect", cid, ctx.undos) as journal:
            # The row first: whatever breaks off later goes on to what the row says.
            journal.step("connect.undo", cid, *((gone[0].network_id, gone[0].name) if gone else ("", "")))
            record = await _save(ctx, record, spec, replace(record.saved, endpoints=ends))
            if run is not None and client.alive(run) and gone:
                record = await _leave(ctx, record, gone[0], run)
    ctx.tell("network", "disconnect", gone[0].network_id if gone else name, container=cid, name=name)
    return records.snapshot(ctx, record)


async def _leave(ctx: Context, record: Record, end: EndpointInfo, run: client.RunState) -> Record:
    """Take the interface away; its ports go over to another network."""
    ends = record.saved.endpoints
    with _namespace(run) as namespace:
        record = await _move_ports(ctx, record)
        await ctx.net.unplug(namespace, end.name)
        await ctx.net.detach(record.id, end.network_id)
        await ctx.net.set_default(namespace, ways_out(ends))
    others: list[str] = []
    with suppress(Conflict, NotFound):  # a link to one that has ended is none
        others = await linked(ctx, record)
    await asyncio.to_thread(bundle.write_hosts, ctx, record, ends, others)
    return record


async def _move_ports(ctx: Context, record: Record) -> Record:
    """Have the ports lead to the places that the row names, and the row name those that do."""
    open_ports = await ports.follow(ctx, record, record.saved.endpoints)
    if open_ports == record.saved.ports:
        return record
    return await _save(ctx, record, record.spec, replace(record.saved, ports=open_ports))


def _free_name(want: EndpointSpec, record: Record) -> str:
    """Of the new interface. :raises InvalidArgument: the one asked for is there already"""
    used = [end.name for end in record.saved.endpoints]
    if want.interface in used:
        raise InvalidArgument(
            f"interface {want.interface} cannot be used", f"{record.name} has one of that name", "Choose another"
        )
    return wiring.names((want,), used)[0]


def _check_mode(record: Record, network: Network) -> None:
    if network.driver in ("host", "null"):
        raise Conflict(
            f"cannot connect {record.name} to network {network.name}",
            "it stands alone, and only from a container's creation on",
            f"Create it anew with --network {network.name}",
            object_id=record.id,
        )
    mode = record.spec.network
    if mode == "host" or mode.startswith("container:"):
        whose = "the host's" if mode == "host" else "another container's"
        raise Conflict(
            f"cannot connect {record.name} to a network",
            f"it uses {whose} network (--network {mode})",
            "Create it anew with a network of its own",
            object_id=record.id,
        )


def _with_networks(spec: ContainerSpec, ends: tuple[EndpointSpec, ...]) -> ContainerSpec:
    """``network`` names the first; ``none`` where none is left."""
    return replace(spec, network=ends[0].network if ends else "none", networks=ends)


async def _save(ctx: Context, record: Record, spec: ContainerSpec, saved: records.Saved) -> Record:
    await records.save_networks(ctx, record.id, spec, saved)
    return replace(record, spec=spec, saved=saved)


async def _attach(
    ctx: Context, record: Record, spec: ContainerSpec, want: EndpointSpec, name: str, run: client.RunState
) -> Record:
    with _namespace(run) as namespace:
        there = record.saved.endpoints
        made = await ctx.net.attach(want.network, record.id, want, name=name, namespace=namespace, default=False)
        os.close(made.netns_fd)
        ends = (*there, made.endpoint)
        await ctx.net.set_default(namespace, ways_out(ends))
    open_ports = await ports.follow(ctx, record, ends)
    if wiring.has_resolver(spec):
        with suppress(Conflict):  # it has ended meanwhile: the next start has all of this
            await client.resolve(ctx.inst, record.id)  # before resolv.conf says that there is one
        await asyncio.to_thread(bundle.write_resolv_conf, ctx, replace(record, spec=spec))
    record = await _save(ctx, record, spec, replace(record.saved, endpoints=ends, ports=open_ports))
    if want.links:
        await ctx.net.renamed(record.id)  # its resolver reads them from the row
    await asyncio.to_thread(bundle.write_hosts, ctx, record, ends)
    return record


@contextmanager
def _namespace(run: client.RunState) -> Iterator[int]:
    """:raises Conflict: it has just ended"""
    ended = Conflict("the container has ended meanwhile", "its network is gone with it", "Try again")
    try:
        fd = netns.of_process(run.pid)
    except (FileNotFoundError, ProcessLookupError):
        raise ended from None
    try:
        if not client.alive(run):
            raise ended  # the number may be another process's by now, of the host perhaps
        yield fd
    finally:
        os.close(fd)


async def undo_connect(ctx: Context, cid: str, network_id: str, name: str) -> None:
    """Make a container's places what its row says, after a connection or its end was broken off. Idempotent.

    :param name: of the interface that was to come or to go
    """
    record = await records.find_or_none(ctx, cid)
    if record is not None and any(end.network_id == network_id for end in record.saved.endpoints):
        return  # it is to be there, and is
    run = client.read_state(ctx.inst, cid)
    await ctx.net.detach(cid, network_id)
    if record is not None and run is not None and client.alive(run):
        with suppress(Conflict), _namespace(run) as namespace:  # it may have ended meanwhile
            await ctx.net.unplug(namespace, name)
            await ctx.net.set_default(namespace, ways_out(record.saved.endpoints))
            await _move_ports(ctx, record)
