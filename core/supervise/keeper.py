"""Keeps the firewall while no engine is open: the launcher hears of every change to nftables, and has the one-shot
clean-up put right what somebody has flushed (``nft flush ruleset``, a reload, ``iptables -F``).

Engines that stay open do the same by themselves, and sooner; then nothing is left to do here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re

from core.kernel import nftables as nft
from core.kernel.netlink import NETLINK_NETFILTER, Netlink, attr_map, split, string
from core.supervise.loop import Loop, Timer
from core.supervise.protocol import Launch

_QUIET = 0.15  # seconds: a flush comes as a burst, and an engine that is open may be at it
_AGAIN = 2.0  # seconds until we look whether it has helped
_TRIES = 5
_TORN = frozenset({nft.DELCHAIN, nft.DELRULE, nft.DELSET})
_FOREIGN = {"filter": ("DOCKER-USER", "FORWARD"), "firewalld": ("filter_FORWARD",)}  # see core.net.foreign
_FAMILIES = ((nft.IPV4, "filter"), (nft.IPV6, "filter"), (nft.INET, "firewalld"))
_NEIGHBOURS = nft.SetSpec("neighbours", (nft.TYPE_IFNAME,))  # see core.net.ruleset, and core.net.links for its names
_DOCKER = re.compile(r"docker(\d+|_gwbridge)|br-[0-9a-f]{12}")
FIREWALL = "firewall"  # what the clean-up is told in place of a container's id


class Keeper:
    """Begins with the first container that it is told of."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._events: Netlink | None = None
        self._launch: Launch | None = None
        self._torn = False
        self._due: Timer | None = None
        self._tries = 0

    def attend(self, launch: Launch) -> None:
        """A container runs. Where this process may not hear of changes (an ordinary user's) it keeps nothing."""
        self._launch = launch
        if self._events is not None or not launch.firewall:
            return
        try:
            self._events = Netlink(NETLINK_NETFILTER, [nft.EVENTS_GROUP])
        except OSError:
            return
        self._events.socket.setblocking(False)
        self._loop.watch(self._events.socket.fileno(), lambda events: self._hear())

    def _hear(self) -> None:
        assert self._events is not None
        assert self._launch is not None
        concerned = False
        while True:
            try:
                data = self._events.socket.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return
                concerned = True  # events were lost: look
                continue
            for kind, _, _, body in split(data):
                concerned |= self._concerns(kind, body, self._launch.firewall)
        if concerned:
            self._tries = 0
            self._look_in(_QUIET)

    def _concerns(self, kind: int, body: bytes, table: str) -> bool:
        name = string(attr_map(body, 4).get(1, b""))
        if name == table:
            # Whoever makes it anew makes it whole: that comes after the old one's end, in one transaction.
            self._torn = kind in _TORN or (self._torn and kind != nft.NEWTABLE)
            return kind in _TORN or kind == nft.DELTABLE
        return name in _FOREIGN and kind in (nft.DELTABLE, nft.DELCHAIN, nft.DELRULE, nft.NEWCHAIN, nft.NEWRULE)

    def _look_in(self, seconds: float) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = self._loop.after(seconds, self._look)

    def _look(self) -> None:
        launch = self._launch
        if launch is None or not self._harmed(launch.firewall) or self._tries == _TRIES:
            return
        self._tries += 1
        self._torn = False
        argv = [*launch.cleanup, FIREWALL]
        # It outlives us if need be, and is reaped with the monitors.
        with contextlib.suppress(OSError):  # no process to be had now; or removed, as with an update half done
            os.posix_spawn(argv[0], argv, {"PATH": os.defpath, "LANG": "C.UTF-8"}, setsid=True)
        self._look_in(_AGAIN)

    def _harmed(self, table: str) -> bool:
        try:
            nl = Netlink(NETLINK_NETFILTER)
        except OSError:
            return False
        try:
            if self._torn or not nft.table_tag(nl, table):
                return True
            return any(_shut(nl, table, *at) for at in _FAMILIES) or _has_new_neighbour(nl, table)
        except OSError:
            return True  # it changes right now
        finally:
            nl.close()


def _has_new_neighbour(nl: Netlink, table: str) -> bool:
    """Has Docker made a network of which our table does not know yet?"""
    with open("/proc/self/net/dev", encoding="ascii", errors="replace") as file:
        names = {line.partition(":")[0].strip() for line in file}
    known = {string(element.key) for element in nft.elements(nl, table, _NEIGHBOURS)}
    return any(_DOCKER.fullmatch(name) for name in names - known)


def _shut(nl: Netlink, owner: str, family: int, table: str) -> bool:
    """Does a chain of somebody else refuse what is routed, with no accept of ours in it?"""
    chains = _FOREIGN[table]
    policy = nft.chain_policy(nl, family, table, chains[-1])
    if policy is None:
        return False
    rules = [rule for chain in chains for rule in nft.rules(nl, family, table, chain)]
    if any(rule.comment.startswith(f"{owner} ") for rule in rules):
        return False
    last = [rule for rule in rules if rule.chain == chains[-1]][-1:]
    return policy == nft.DROP or bool(last and last[0].refuses)
