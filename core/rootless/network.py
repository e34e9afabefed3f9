"""The network that all containers of an ordinary user are on: where it is, and what keeps them from having one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from core.kernel import mount, netns
from core.net.shared import Shared
from core.rootless.namespace import MARK
from core.supervise import uplink

_NOT_OURS = (
    "bridges, addresses and published ports need CAP_NET_ADMIN in the host's network namespace",
    "Run wharf as root, or as an ordinary user without `unshare` or the like",
)


def shared_network() -> Shared | None:
    """None for who may use the host's own network."""
    if netns.administered():
        return None
    folder = _folder()
    refusal = _NOT_OURS if folder is None else uplink.why_not()
    return Shared((folder or Path("/nonexistent")) / uplink.NAMESPACE, uplink.MTU, uplink.DNS, refusal)


def _folder() -> Path | None:
    """Where the mark of the user's namespace is (see :mod:`core.rootless.namespace`): by that and not by environment
    variables, which a monitor and its clean-up have not got. None for a stranger's user namespace."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith(f"tmpfs {MARK}"):
            return Path(before.split()[4].encode().decode("unicode_escape")).parent
    return None


def try_way_out(network: Shared) -> str:
    """Start pasta or slirp4netns once, on a namespace that is thrown away.

    :returns: what is wrong; empty where one of them works
    """
    # By a name: what this process has open, nobody may look at, for it has changed its user namespace.
    place = network.place.with_name(f"wharf-try-{os.getpid()}")
    os.close(replace(network, place=place).open())
    try:
        return uplink.try_out(str(place))
    finally:
        mount.umount(str(place))
        place.unlink()
