"""The part of :class:`core.local.LocalEngine` that is about networks."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from core.border import verb

if TYPE_CHECKING:
    from core.model import (
        Connection,
        Container,
        EndpointSpec,
        InterfaceSample,
        NetStep,
        Network,
        NetworkMap,
        NetworkSpec,
        PortMapping,
        Reach,
    )
    from core.ops.connections import Holders
    from core.ops.context import Context


class NetworkVerbs:
    """Implements :class:`core.engine_networks.NetworkEngine`. Each method is one verb of ``ops/``."""

    _ctx: Context

    @verb("list the networks")
    async def networks(self) -> list[Network]:
        return await self._ctx.net.describe()

    @verb("make the network")
    async def create_network(self, spec: NetworkSpec) -> Network:
        from core.ops.networks import create_network

        return await create_network(self._ctx, spec)

    @verb("remove the network")
    async def remove_network(self, ref: str) -> Network:
        from core.ops.networks import remove_network

        return await remove_network(self._ctx, ref)

    @verb("remove the networks that nobody needs")
    async def prune_networks(self, labels: tuple[str, ...] = (), until: float | None = None) -> list[Network]:
        from core.ops.networks import prune_networks

        return await prune_networks(self._ctx, labels, until)

    @verb("look at the firewall")
    async def reach(self, refs: Sequence[str] | None = None) -> list[Reach]:
        from core.ops.reach import reach

        return await reach(self._ctx, refs)

    @verb("publish the ports")
    async def publish_ports(self, ref: str, ports: Sequence[PortMapping]) -> Container:
        from core.ops.ports import publish_ports

        return await publish_ports(self._ctx, ref, ports)

    @verb("close the ports")
    async def unpublish_ports(self, ref: str, ports: Sequence[PortMapping]) -> Container:
        from core.ops.ports import unpublish_ports

        return await unpublish_ports(self._ctx, ref, ports)

    @verb("connect the container")
    async def connect(self, ref: str, want: EndpointSpec) -> Container:
        from core.ops.connect import connect

        return await connect(self._ctx, ref, want)

    @verb("disconnect the container")
    async def disconnect(self, network: str, ref: str, *, force: bool = False) -> Container:
        from core.ops.connect import disconnect

        return await disconnect(self._ctx, network, ref, force=force)

    def check_network(self, ref: str) -> AsyncIterator[NetStep]:
        from core.ops.diagnose import check_network

        return check_network(self._ctx, ref)

    @functools.cached_property
    def _holders(self) -> Holders:
        from core.ops.connections import Holders

        return Holders()

    @verb("list the connections")
    async def connections(self, refs: Sequence[str] | None = None, *, all: bool = False) -> list[Connection]:
        from core.ops.connections import connections

        return await connections(self._ctx, refs, self._holders, all=all)

    @verb("read the interface counters")
    async def interfaces(self, refs: Sequence[str] | None = None) -> list[InterfaceSample]:
        from core.ops.interfaces import interfaces

        return await interfaces(self._ctx, refs)

    @verb("draw the networks")
    async def network_map(self) -> list[NetworkMap]:
        from core.ops.network_map import network_map

        return await network_map(self._ctx)
