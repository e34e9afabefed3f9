"""Kernel and database made equal again, after a crash, a reboot or somebody else's hand."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from core.errors import WharfError
from core.kernel import netns
from core.kernel import rtnetlink as rt
from core.kernel.netlink import NetlinkError
from core.model import EndpointInfo, Network
from core.net import ipam, links, pools, spare
from core.net.host import Host

FAILED = "failed: "  # how lines of what could not be done begin


def recover(host: Host, live: Collection[str] | None, pids: Mapping[str, int]) -> list[str]:
    """See :meth:`core.net.net.Net.recover`. Goes on after a failure; a line tells of it."""
    host.look_again()
    done: list[str] = []
    if live is not None:
        _release_dead(host, live, done)
    _delete_orphans(host, done)
    for network_id in host.attached():
        try:
            network, way = host.ensure(network_id)
            if isinstance(way, links.Bridged):
                given = links.give_addresses(host.rtnl, network, way.bridge)
                done += [f"gave {network.bridge} the address {address} again" for address in given]
        except (WharfError, NetlinkError) as error:
            done.append(f"{FAILED}{error}")
            continue
        _replug(host, network, way, pids, done)
    if host.restore():
        done.append("restored the firewall")
    try:
        with host.store.run.write() as con:
            host.zones.restore(con)
    except OSError as error:  # no room left in the run folder
        done.append(f"{FAILED}the names of containers cannot be told: {error.strerror}")
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
    networks = pools.every(host.store.disk)
    known = ends | {network.bridge for network in networks} | {host.shim(network) for network in networks}
    lost = [
        link.name
        for link in found
        # A spare goes by itself with whoever holds it.
        if _is_ours(host, link) and link.name not in known and link.group != spare.GROUP
    ]
    if lost:
        links.unplug(host.rtnl, lost, delete=True)
        done += [f"deleted the interface {name}" for name in lost]


def _is_ours(host: Host, link: rt.Link) -> bool:
    inst = host.inst
    return link.name == inst.bridge or link.name.startswith((inst.link_prefix, inst.bridge_prefix, inst.shim_prefix))


def _replug(host: Host, network: Network, way: links.Way, pids: Mapping[str, int], done: list[str]) -> None:
    """Live containers whose wire was pulled: back on the bridge, or a new pair."""
    if not isinstance(way, links.Bridged):
        return  # nothing on the host can be pulled: the interface is in the container's namespace alone
    for row in host.store.run.read("SELECT * FROM endpoint WHERE network = ?", (network.id,)):
        try:
            _replug_one(host, row["container"], ipam.parse(row), way, pids.get(row["container"], 0), done)
        except (WharfError, OSError) as error:  # it may end meanwhile, and its interface with it
            done.append(f"{FAILED}container {row['container'][:12]} on {network.name}: {error}")


def _replug_one(host: Host, cid: str, info: EndpointInfo, way: links.Bridged, pid: int, done: list[str]) -> None:
    link = links.find(host.rtnl, info.interface)
    if link is None:
        if _new_pair(host, cid, info, way, pid):
            done.append(f"connected container {cid[:12]} again")
    elif link.group != spare.GROUP and (link.master != way.bridge or not link.up):  # it is being connected just now
        host.rtnl.talk([rt.set_master(link.name, way.bridge)])[0].check()
        host.rtnl.talk([rt.port_up(link.name, isolated=way.isolated, mtu=way.mtu)])[0].check()
        done.append(f"put {link.name} back on {info.network}")


def _new_pair(host: Host, cid: str, info: EndpointInfo, way: links.Bridged, pid: int) -> bool:
    if not pid:
        return False
    try:
        namespace = netns.of_process(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False  # it ended meanwhile
    try:
        if netns.is_here(namespace):
            return False  # it ended, and its number is another process's by now
        links.plug(host.rtnl, namespace, info, way, default=False)
        rows = host.store.run.read("SELECT * FROM endpoint WHERE container = ?", (cid,))
        links.set_default(namespace, ipam.ways_out(ipam.parse(row) for row in rows))
    finally:
        os.close(namespace)
    return True
