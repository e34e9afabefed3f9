"""A host that routes for its containers, and for nobody else.

Containers need the host to route (``ip_forward``), and a host that routes does so for every machine that asks: one that
was no router becomes one for its LAN. So it is remembered that it was we who switched it on, as long as the host is up;
and then our table drops what is forwarded neither from nor to a bridge (:mod:`core.net.ruleset`). A host that was a
router before is let be, as is one whose admin says ``forward_guard = false``.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InvalidArgument
from core.net import siblings
from core.store import config

if TYPE_CHECKING:
    from core.net.host import Host

_SETTINGS = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}


def note(host: Host, upto: int) -> None:
    """Before routing is switched on, and before the table is made: what is not routed yet, we shall have switched on;
    what another instance has, that one may leave to us.

    :param upto: 4, or 6 for both versions of IP
    """
    if not host.is_outside:
        return  # an ordinary user's networks have a namespace of their own, with nobody else in it
    wanted = [version for version in _SETTINGS if version <= upto and version not in _noted(host)]
    theirs = siblings.guarded(host.netfilter, host.inst.nft_table) if wanted else frozenset()
    new = [version for version in wanted if version in theirs or _is_off(version)]
    if new:
        with host.store.run.write() as con:
            con.executemany("INSERT OR IGNORE INTO forwarding VALUES (?)", [(version,) for version in new])


def versions(host: Host) -> frozenset[int]:
    """Those of IP that are routed to and from bridges only."""
    noted = _noted(host)
    if noted:
        try:
            return noted if config.load().forward_guard else frozenset()
        except InvalidArgument:
            pass  # every verb tells of it; the firewall is whole meanwhile
    return noted


def _noted(host: Host) -> frozenset[int]:
    return frozenset(row["version"] for row in host.store.run.read("SELECT version FROM forwarding"))


def differs(host: Host) -> bool:
    """Does the table in the kernel guard otherwise than it should, since the setting was changed?"""
    return siblings.guarded_by(host.netfilter, host.inst.nft_table) != versions(host)


def _is_off(version: int) -> bool:
    try:
        if Path("/proc/sys/net", _SETTINGS[version]).read_text().strip() != "0":
            return False
    except OSError:
        return False  # no such version here
    # A host may route between some of its interfaces alone (systemd.network(5), IPv4Forwarding=; since Linux 6.17
    # force_forwarding in IPv6).
    key, conf = ("forwarding", "ipv4/conf") if version == 4 else ("force_forwarding", "ipv6/conf")
    for file in Path("/proc/sys/net", conf).glob(f"*/{key}"):
        with contextlib.suppress(OSError):  # the interface has gone meanwhile
            if file.parent.name not in ("all", "default", "lo") and file.read_text().strip() != "0":
                return False
    return True
