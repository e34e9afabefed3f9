"""``network connections``: what containers are connected to now, by which processes, and how much has passed.

Sockets are read inside each container's namespace (inet_diag), translations and the bytes of UDP from connection
tracking on the host. Bytes of UDP, and of a connection whose socket has gone, are known only where the host counts
them: ``sysctl net.netfilter.nf_conntrack_acct=1``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.dns import ADDRESS
from core.errors import Unavailable
from core.kernel.flowcount import Tracked, tracked
from core.kernel.sockdiag import CLOSED, ESTABLISHED, LISTEN, STATES, TIME_WAIT, Socket
from core.model import Container
from core.model.netlook import Connection
from core.net import sockets
from core.ops import records

if TYPE_CHECKING:
    from core.net.host import Host
    from core.ops.context import Context

_Key = tuple[str, str, int, str, int]  # protocol, local end, remote end, as the container sees them


@dataclass
class Holders:
    """Which process has which socket: looked up anew only where a socket is not known. One for each engine."""

    known: dict[str, dict[int, tuple[int, str]]] = field(default_factory=dict)  # container id → inode → (pid, name)

    def of(self, box: Container, found: Iterable[Socket]) -> dict[int, tuple[int, str]]:
        wanted = {
            one.inode for one in found if one.inode and one.local_ip != ADDRESS
        }  # our resolver's are the monitor's
        have = self.known.get(box.id, {})
        if not wanted <= have.keys() or any(not os.path.exists(f"/proc/{pid}") for pid, _ in have.values()):
            have = self.known[box.id] = sockets.holders(_processes(box))
        return have

    def forget_all_but(self, ids: Iterable[str]) -> None:
        for cid in self.known.keys() - set(ids):
            del self.known[cid]


def _shares(box: Container) -> bool:
    """Whether others' sockets are in its network namespace as well."""
    return box.spec.network == "host" or box.spec.network.startswith("container:")


def _processes(box: Container) -> list[int]:
    """Those in its network namespace; where it has none of its own, those of its pid namespace, or of its cgroup."""
    kind = "pid" if _shares(box) else "net"
    try:
        found = sockets.processes_of(os.stat(f"/proc/{box.pid}/ns/{kind}").st_ino, kind)
    except OSError:
        return []  # it has ended
    if kind == "pid" and box.spec.pid != "private":
        found = [pid for pid in found if _in_cgroup(pid, box.id)]
    return found


def _in_cgroup(pid: int, cid: str) -> bool:
    try:
        return cid in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


async def connections(ctx: Context, refs: Sequence[str] | None, holders: Holders, *, all: bool) -> list[Connection]:
    """Of the named containers (default: all that run).

    :param all: sockets that only wait for callers, and connections that are over, too
    :raises NotFound: one of ``refs`` does not exist
    """
    every = [records.snapshot(ctx, record) for record in await records.every(ctx)]
    if refs is None:
        chosen = [box for box in every if box.pid and not box.spec.network.startswith("container:")]
    else:
        ids = [await records.find_id(ctx, ref) for ref in refs]
        chosen = [box for box in every if box.id in ids and box.pid]
    names = {address: box.name for box in every for end in box.endpoints for address in (end.ip, end.ip6) if address}
    own = {box.id: _addresses(box, every) for box in chosen}
    looked = [(box, found) for box in chosen if (found := await _sockets(ctx, box)) is not None]
    # After the sockets: a connection is tracked before there is a socket for it, and for a while after.
    flows = await ctx.net.look(
        "read the tracked connections", lambda host: _flows(host, {ip for ips in own.values() for ip in ips})
    )
    result = []
    for box, found in looked:
        result += _Reader(box, own[box.id], names, flows, _gateways(box)).read(found, holders.of(box, found), all=all)
    holders.forget_all_but(box.id for box in every if box.pid)
    return result


async def _sockets(ctx: Context, box: Container) -> list[Socket] | None:
    """Of its network namespace; None: it has ended this very moment."""
    try:
        return await ctx.net.look(f"look into {box.name}", lambda _: sockets.every(), box.pid)
    except Unavailable:
        if os.path.exists(f"/proc/{box.pid}"):
            raise
        return None


def _addresses(box: Container, every: Sequence[Container]) -> set[str]:
    """Its own; of a container that shares another's network, the other's."""
    owner = box.spec.network.removeprefix("container:")
    ends = box.endpoints or next((one.endpoints for one in every if one.id == owner), ())
    return {address for end in ends for address in (end.ip, end.ip6) if address}


def _gateways(box: Container) -> set[str]:
    return {address for end in box.endpoints for address in (end.gateway, end.gateway6) if address}


def _flows(host: Host, addresses: set[str]) -> list[Tracked]:
    return tracked(host.netfilter, addresses)


class _Reader:
    """One container's sockets and tracked connections put together."""

    def __init__(
        self, box: Container, own: set[str], names: dict[str, str], flows: Sequence[Tracked], gateways: set[str]
    ) -> None:
        self._box, self._names, self._gateways = box, names, gateways
        self._now = time.monotonic()
        self._flows: dict[_Key, Tracked] = {}
        for flow in flows:
            if flow.source.ip in own:
                self._flows[flow.protocol, *flow.source, *flow.destination] = flow
            if flow.answers_from.ip in own:
                self._flows[flow.protocol, *flow.answers_from, *flow.answers_to] = flow
        self._own = own

    def read(self, found: Sequence[Socket], holders: dict[int, tuple[int, str]], *, all: bool) -> list[Connection]:
        connected: list[Socket] = []
        waiting: list[Socket] = []
        for one in found:
            if _shares(self._box) and not holders.get(one.inode, (0, ""))[0]:
                continue  # another program's
            if one.local_ip == ADDRESS and not holders.get(one.inode, (0, ""))[0]:
                continue  # our resolver's
            if all or one.state != TIME_WAIT:
                (waiting if _waits(one) else connected).append(one)
        result = [self._of_socket(one, holders) for one in connected]
        seen = {row.key[1:] for row in result}
        by_port = {(one.protocol, one.local_port): holders.get(one.inode, (0, "")) for one in waiting}
        for key, flow in self._flows.items():
            if key[0] == "udp":
                row = self._of_flow(key, flow, by_port.get((key[0], key[2]), (0, "")))
                result += [row] if row.key[1:] not in seen else []
        if all:
            result += [self._of_socket(one, holders) for one in waiting]
        return sorted(result, key=lambda row: (row.protocol, row.state == "listen", row.local_port, row.remote_port))

    def _of_socket(self, one: Socket, holders: dict[int, tuple[int, str]]) -> Connection:
        key = (one.protocol, one.local_ip, one.local_port, one.remote_ip, one.remote_port)
        flow = self._flows.get(key)
        state = STATES[one.state] if one.state < len(STATES) else str(one.state)
        if one.protocol == "udp":
            state = "connected" if one.state == ESTABLISHED else "open"
        sent, received = one.sent, one.received
        if sent is None and flow is not None:
            sent, received = self._counted(flow)
        return self._row(key, flow, state, holders.get(one.inode, (0, "")), (sent, received))

    def _of_flow(self, key: _Key, flow: Tracked, holder: tuple[int, str]) -> Connection:
        state = "assured" if flow.assured else "answered" if flow.answered else "new"
        return self._row(key, flow, state, holder, self._counted(flow))

    def _counted(self, flow: Tracked) -> tuple[int | None, int | None]:
        """(sent, received) by the container: as tracked, headers of IP and above with it."""
        pair = (flow.sent, flow.received)
        return pair if flow.source.ip in self._own else (pair[1], pair[0])

    def _row(
        self,
        key: _Key,
        flow: Tracked | None,
        state: str,
        holder: tuple[int, str],
        counted: tuple[int | None, int | None],
    ) -> Connection:
        protocol, local_ip, local_port, remote_ip, remote_port = key
        via, from_host = "", False
        if flow is not None:
            began = (flow.source.ip, flow.source.port) == (local_ip, local_port)
            if not began:  # the real caller, also where the host put its own address in the way
                remote_ip, remote_port = flow.source
                from_host = remote_ip.startswith("127.") or remote_ip == "::1"
                via = _text(*flow.destination) if flow.destination != flow.answers_from else ""
            elif flow.answers_to != flow.source:
                via = _text(*flow.answers_to)
        return Connection(
            self._box.id, protocol, local_ip, local_port, remote_ip, remote_port, state, self._now,
            self._name(remote_ip, from_host=from_host), via, *holder, *counted,
        )  # fmt: skip

    def _name(self, ip: str, *, from_host: bool) -> str:
        if ip in self._own:
            return "itself"
        if ip == ADDRESS:
            return "resolver"
        if ip in self._names:
            return self._names[ip]
        if ip in self._gateways or from_host:
            return "host"
        return ""


def _text(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _waits(one: Socket) -> bool:
    return one.state == (LISTEN if one.protocol == "tcp" else CLOSED)
