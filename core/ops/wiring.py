"""What a container gets of networks when it starts: the namespace, its places on networks, published ports."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from core.errors import Conflict, InvalidArgument, PortTaken
from core.model import ContainerSpec, EndpointInfo, EndpointSpec, PortMapping
from core.model.network import is_network
from core.net import Attachment, Published, has_names, ways_out
from core.ops.context import Context
from core.ops.records import Record
from core.runtime import spaces


@dataclass(frozen=True)
class Wiring:
    """What the network gives to one start."""

    netns: int | None  # descriptor; None: the host's namespace, or one that is made with the container
    endpoints: tuple[EndpointInfo, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    reservations: Mapping[str, socket.socket] = field(default_factory=dict)  # host ports held against others, by name
    proxied: tuple[dict[str, object], ...] = ()  # ports for the proxy: see core.supervise.launching
    resolver: tuple[socket.socket, ...] = ()  # UDP and TCP, where the container's monitor is to answer for names


@dataclass(frozen=True)
class Resume:
    """Not from the beginning, but from a checkpoint.

    :param descriptors: the checkpoint's, for :func:`core.supervise.client.launch`
    :param addresses: by network, those that it had (IPv4, IPv6; empty: none); others will do
    :param same_address: no others will do
    :param hold: see :func:`core.supervise.criu.hold_connections`
    """

    descriptors: Mapping[str, int]
    addresses: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    same_address: bool = False
    hold: bool = False


def wanted(spec: ContainerSpec) -> tuple[EndpointSpec, ...]:
    """The networks that a container is to be on; none where it shares another's namespace, or has only lo."""
    if not is_network(spec.network):
        return ()
    return spec.networks or (EndpointSpec(spec.network),)


def is_isolated(spec: ContainerSpec) -> bool:
    """Does it get a network namespace with nothing but lo, which our own runtime makes with the container?"""
    return spaces.mode(spec, "network")[0] == "none" and not spec.runtime and not spaces.ids(spec)[1]


def has_resolver(spec: ContainerSpec) -> bool:
    """Is it on a network whose containers know each other by name? Then its monitor answers for names."""
    return any(has_names(end.network) for end in wanted(spec))


def names(ends: Sequence[EndpointSpec], used: Sequence[str] = ()) -> list[str]:
    """What each interface is called in the container: as asked for, else the first of eth0, eth1 … that is free."""
    taken = {end.interface for end in ends} | set(used)
    found = []
    for end in ends:
        name = end.interface or next(n for n in (f"eth{i}" for i in range(len(taken) + 1)) if n not in taken)
        taken.add(name)
        found.append(name)
    return found


async def wire(
    ctx: Context,
    record: Record,
    others: int | None,
    own: int | None,
    held: ExitStack,
    resume: Resume | None = None,
    home: Callable[[int], None] | None = None,
) -> Wiring:
    """The network namespace that the container's ``--network`` asks for.

    :param others: that of the container whose network it shares
    :param own: one that has been made for it already; None: this makes one
    :param home: see :meth:`core.net.Net.attach`; not called where this makes none
    """
    mode, _ = spaces.mode(record.spec, "network")
    if mode == "host":
        return Wiring(None)
    if mode == "container":
        return Wiring(others)
    if mode == "none":
        if own is not None:
            await ctx.net.set_loopback_up(own)
            return Wiring(own)
        if is_isolated(record.spec) and resume is None:
            return Wiring(None)
        fd = await ctx.net.new_netns()
        held.callback(os.close, fd)
        return Wiring(fd)
    namespace, ends = await _join(ctx, record, own, held, resume, home)
    wiring = Wiring(namespace, ends)
    if has_resolver(record.spec):
        wiring = replace(wiring, resolver=_owned(held, await ctx.net.open_resolver(namespace)))
    if record.spec.ports:
        published = await publish(ctx, record, ends)
        held.callback(published.close)
        serving = tuple(await ctx.net.serving(record.id))
        wiring = replace(wiring, ports=published.ports, reservations=published.sockets, proxied=serving)
    return wiring


def _owned(held: ExitStack, sockets: Iterable[socket.socket]) -> tuple[socket.socket, ...]:
    return tuple(held.enter_context(sock) for sock in sockets)


async def _join(
    ctx: Context,
    record: Record,
    own: int | None,
    held: ExitStack,
    resume: Resume | None,
    home: Callable[[int], None] | None,
) -> tuple[int, tuple[EndpointInfo, ...]]:
    """All networks, one after the other: the first one makes the namespace, where there is none yet."""
    wishes = wanted(record.spec)
    namespace = own
    if own is not None and home is not None:
        home(os.dup(own))
    ends: list[EndpointInfo] = []
    for want, name in zip(wishes, names(wishes), strict=True):
        attachment = await _attach(ctx, record.id, want, name, namespace, resume, home, first=not ends)
        held.callback(os.close, attachment.netns_fd)
        namespace = attachment.netns_fd
        ends.append(attachment.endpoint)
    assert namespace is not None
    if len(ends) > 1:
        await ctx.net.set_default(namespace, ways_out(ends))
    return namespace, tuple(ends)


async def _attach(
    ctx: Context,
    cid: str,
    want: EndpointSpec,
    name: str,
    own: int | None,
    resume: Resume | None,
    home: Callable[[int], None] | None,
    *,
    first: bool,
) -> Attachment:
    if resume is None or want.network not in resume.addresses:
        return await ctx.net.attach(want.network, cid, want, name=name, namespace=own, default=first, home=home)
    ip, ip6 = resume.addresses[want.network]
    same = replace(want, ip=ip or want.ip, ip6=ip6 or want.ip6)
    if resume.same_address:
        if first:
            return await _attach_held(ctx, cid, same, name, own, resume)
        return await ctx.net.attach(want.network, cid, same, name=name, namespace=own, default=False)
    try:
        return await ctx.net.attach(want.network, cid, same, name=name, namespace=own, default=first)
    except (Conflict, InvalidArgument):  # taken, or of another network by now
        return await ctx.net.attach(want.network, cid, want, name=name, namespace=own, default=first)


async def _attach_held(
    ctx: Context, cid: str, want: EndpointSpec, name: str, own: int | None, resume: Resume
) -> Attachment:
    """Attached as it was, but deaf until its connections are restored."""
    from core.supervise.criu import hold_connections  # late: a restore is rare

    namespace = await ctx.net.new_netns() if own is None else own
    try:
        if resume.hold:
            await asyncio.to_thread(hold_connections, namespace)
        return await ctx.net.attach(want.network, cid, want, name=name, namespace=namespace)
    finally:
        if own is None:
            os.close(namespace)


async def publish(ctx: Context, record: Record, ends: Sequence[EndpointInfo]) -> Published:
    """Publish the ports; those of its own last run may be reserved for a moment after its end.

    :raises PortTaken: by somebody else
    """
    patience = time.monotonic() + 2.0
    while True:
        try:
            return await ctx.net.publish(record.id, ends, record.spec.ports)
        except PortTaken:
            # The monitor of that run and the launcher hold copies until they have heard of the end.
            if time.time() - record.saved.finished > 15.0 or time.monotonic() > patience:
                raise
            await asyncio.sleep(0.02)
