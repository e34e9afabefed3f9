"""Kernel and database made equal again, after a crash, a reboot or somebody else's hand."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from core.errors import WharfError
from core.kernel import netns
from core.kernel import rtnetlink as rt
from core.model import EndpointInfo
from core.net import links, pools
from core.net.host import Host


def recover(host: Host, live: Collection[str] | None, pids: Mapping[str, int]) -> list[str]:
    """See :meth:`core.net.net.Net.recover`. Goes on after a failure; the last line then tells of it."""
    done: list[str] = []
    if live is not None:
        _release_dead(host, live, done)
    _delete_orphans(host, done)
    for network_id in host.attached():
        try:
            network, _ = host.ensure(network_id)
        except WharfError as error:
            done.append(f"failed: {error}")
            continue
        _replug(host, network.id, pids, done)
    if host.restore():
        done.append("restored the firewall")
    return done


def _release_dead(host: Host, live: Collection[str], done: list[str]) -> None:
    rows = host.store.run.read(
        "SELECT container FROM endpoint UNION SELECT container FROM lease UNION SELECT container FROM port"
    )
    for row in rows:
        cid = row["container"]
        if cid not in live:
            host.detach(cid)
            done.append(f"released the network of container {cid[:12]}")


def _delete_orphans(host: Host, done: list[str]) -> None:
    """Links that bear our names and that no row knows: a process died between the two, or somebody holds a dead
    container's namespace."""
    # Links first, rows second: whoever attaches meanwhile writes its row before it makes the link.
    found = rt.links(host.rtnl)
    ends = {row["interface"] for row in host.store.run.read("SELECT interface FROM endpoint")}
    bridges = {network.bridge for network in pools.every(host.store.disk)}
    lost = [link.name for link in found if _is_ours(host, link) and link.name not in ends | bridges]
    if lost:
        links.unplug(host.rtnl, lost, delete=True)
        done += [f"deleted the interface {name}" for name in lost]


def _is_ours(host: Host, link: rt.Link) -> bool:
    if link.kind == "bridge":
        return link.name == host.inst.bridge
    return link.kind == "veth" and link.name.startswith(host.inst.link_prefix)


def _replug(host: Host, network_id: str, pids: Mapping[str, int], done: list[str]) -> None:
    """Live containers whose wire was pulled: back on the bridge, or a new pair."""
    network = pools.get(host.store.disk, network_id)
    bridge = links.find(host.rtnl, network.bridge)
    if bridge is None:
        return
    rows = host.store.run.read("SELECT * FROM endpoint WHERE network = ?", (network_id,))
    for row in rows:
        info = EndpointInfo(network.name, row["ip"], row["prefix_len"], row["gateway"], row["mac"], row["interface"])
        link = links.find(host.rtnl, info.interface)
        if link is None:
            if _new_pair(host, info, pids.get(row["container"], 0), bridge.number, network.mtu):
                done.append(f"connected container {row['container'][:12]} again")
        elif link.master != bridge.number or not link.up:
            host.rtnl.talk([rt.set_master(link.name, bridge.number)])[0].check()
            host.rtnl.talk([rt.port_up(link.name)])[0].check()
            done.append(f"put {link.name} back on {network.bridge}")


def _new_pair(host: Host, info: EndpointInfo, pid: int, bridge: int, mtu: int) -> bool:
    if not pid:
        return False
    try:
        namespace = netns.of_process(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False  # it ended meanwhile
    try:
        links.plug(host.rtnl, namespace, info, bridge=bridge, mtu=mtu)
    finally:
        os.close(namespace)
    return True
