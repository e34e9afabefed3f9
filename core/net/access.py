"""What an engine may have of networks: everything, or, an ordinary user's, what pasta or slirp4netns makes possible."""

from __future__ import annotations

from collections.abc import Collection

from core.errors import NoPrivilege
from core.kernel import netns
from core.model import PortMapping
from core.model.network import is_network
from core.net import pools
from core.net.shared import Shared


class Access:
    """:param shared: where an ordinary user's networks are; None: in the host's own network namespace"""

    def __init__(self, shared: Shared | None) -> None:
        self._shared = shared
        # Without a way out of it, and out of the host's: there are `none` and `host`, and nothing else is made.
        self._allowed = netns.administered() if shared is None else shared.refusal is None

    @property
    def refusal(self) -> tuple[str, str] | None:
        """Why containers can have no network here, and what helps; None where they can."""
        if self._allowed:
            return None
        return (self._shared and self._shared.refusal) or ("it needs CAP_NET_ADMIN", "Run wharf as root")

    def default_for(self, ports: Collection[PortMapping]) -> str:
        """The network of a container that names none.

        :raises NoPrivilege: it has ports to publish, and an ordinary user cannot
        """
        if ports:
            self.check(pools.DEFAULT)
        return pools.DEFAULT if self._allowed else "none"

    def check(self, network: str) -> None:
        """:raises NoPrivilege: containers of an ordinary user cannot be on it"""
        if self.refusal and is_network(network):
            why, fix = self.refusal
            raise NoPrivilege(
                f"an ordinary user's container can have no address and no published ports, so not network {network}",
                why,
                f"{fix}. Or use --network none, or host for the network (and the ports) of this machine itself",
            )

    def way_out(self, network: str) -> str:
        """Where the monitor of a container on ``network`` finds what connects it to the outside (see
        :mod:`core.supervise.uplink`); empty where the host does."""
        shared = self._shared
        return "" if shared is None or not self._allowed or network in ("none", "host") else shared.folder

    @property
    def forwarded_dns(self) -> str:
        """The address at which containers reach the host's own DNS servers, whatever these are; empty where there is
        none, and they ask the servers themselves."""
        return self._shared.dns if self._shared is not None and self._allowed else ""
