"""The part of the engine's protocol that is about networks; :mod:`core.engine` has the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Protocol

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


class NetworkEngine(Protocol):
    """Networks, and who is on them."""

    async def networks(self) -> list[Network]: ...

    async def create_network(self, spec: NetworkSpec) -> Network:
        """:raises Conflict: a subnet overlaps a route of this host or another network; it says which

        :raises NameTaken: :raises InvalidArgument: :raises Unsupported: the kernel has no such driver
        """
        ...

    async def remove_network(self, ref: str) -> Network:
        """:raises InUse: containers are on it; it says which :raises NotFound:"""
        ...

    async def prune_networks(self, labels: tuple[str, ...] = (), until: float | None = None) -> list[Network]:
        """Remove those that no container, running or not, is to be on. Returns them.

        :param labels: only those with all of these labels (``KEY`` or ``KEY=VALUE``; ``!KEY…``: without it)
        :param until: only those made before that moment, seconds since the epoch
        """
        ...

    async def reach(self, refs: Sequence[str] | None = None) -> list[Reach]:
        """Who can reach each published port, of the named containers or of all that run, and which rule says so."""
        ...

    async def publish_ports(self, ref: str, ports: Sequence[PortMapping]) -> Container:
        """Publish more ports of a container: now where it runs, and at every later start. All of them, or none.

        :raises PortTaken: a container or a process has one; it says which
        :raises Conflict: it publishes one already; no network of it has a way in
        """
        ...

    async def unpublish_ports(self, ref: str, ports: Sequence[PortMapping]) -> Container:
        """Close published ports, now and for every later start; connections that came by them end.

        :param ports: what is 0 or empty in one of them fits every published port
        :raises NotFound: it publishes no such port
        """
        ...

    async def connect(self, ref: str, want: EndpointSpec) -> Container:
        """Put a container on one more network: now where it runs, and at every later start.

        :raises Conflict: it is on it already, or uses another's namespace; the address is taken
        """
        ...

    async def disconnect(self, network: str, ref: str, *, force: bool = False) -> Container:
        """Take a container from a network. :raises NotFound: it is not on it"""
        ...

    def check_network(self, ref: str) -> AsyncIterator[NetStep]:
        """Look at every link of a network (and its containers) or of a container (and its networks), one after the
        other, by real packets where that is the only way to know. The first that is ``broken`` is what to mend.

        Packets go to the container, to its gateway, to the host's next router and to the name servers; nothing is
        changed.

        :raises NotFound: neither a network nor a container
        """
        ...

    async def connections(self, refs: Sequence[str] | None = None, *, all: bool = False) -> list[Connection]:
        """TCP and UDP connections of the named (default: all running) containers, with process, real far end and bytes.

        :param all: sockets that only wait for callers, too
        """
        ...

    async def interfaces(self, refs: Sequence[str] | None = None) -> list[InterfaceSample]:
        """Counters of every interface of the named (default: all running) containers, as the containers see them."""
        ...

    async def network_map(self) -> list[NetworkMap]:
        """Networks, the containers on them, and the ports that lead there."""
        ...
