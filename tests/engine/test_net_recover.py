"""Crashes and other people's hands: after recovery, kernel and database say the same again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from core.errors import InUse, NotFound, Unavailable
from core.kernel import nftables as nft
from core.kernel.netlink import NETLINK_NETFILTER, Netlink
from core.model import Network, NetworkSpec, PortMapping, Subnet
from core.names import make_id
from core.net import Net, firewall, networks
from core.net.host import Host
from core.net.links import Way
from tests.engine.netlab import (
    OUTSIDE,
    UPLINK,
    Lab,
    Server,
    ask_tcp,
    command,
    flows_of,
    lab,
    left_over,
    link_names,
    netinst,
    outside,
    ping,
    private_host,
    run_inside,
    soon,
)
from tests.engine.ranges import range4
from tests.patience import patience
from tests.victims import victims

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]


def table(lab: Lab) -> str:
    """The instance's table as the nft binary prints it, elements in one order."""
    text = command("nft", "-s", "list", "table", "inet", lab.inst.nft_table)
    return "\n".join(sorted(line.strip(" \t,") for line in text.splitlines()))


def links(lab: Lab) -> list[str]:
    return [name for name in link_names() if name.startswith(lab.inst.link_prefix)]


async def watched(lab: Lab) -> None:
    """Its table is watched, and the watcher has had its first look, with which it begins."""
    looks, real = list[bool](), lab.net.restore

    async def counted() -> bool:
        looks.append(await real())
        return looks[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab.net, "restore", counted)
        lab.net.watch()
        async with asyncio.timeout(patience(20)):
            while not looks:
                await asyncio.sleep(0.01)


async def test_watch_restores_what_others_damage(lab: Lab) -> None:
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    before = table(lab)
    await watched(lab)
    for damage in (
        ("flush", "ruleset"),
        ("delete", "table", "inet", lab.inst.nft_table),
        ("flush", "table", "inet", lab.inst.nft_table),
        ("flush", "chain", "inet", lab.inst.nft_table, "raw"),
        ("flush", "map", "inet", lab.inst.nft_table, "publish_any"),
        ("flush", "set", "inet", lab.inst.nft_table, "subnets"),
    ):
        subprocess.run(("nft", *damage), check=True)
        assert table(lab) != before
        end = time.monotonic() + patience(20)
        while table(lab) != before:
            assert time.monotonic() < end, damage
            await asyncio.sleep(0.02)
    assert run_inside(None, ask_tcp, "127.0.0.1", box.port(80))


async def test_watch_leaves_own_work_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What engines do to the table themselves does not make them rebuild it: its handle stays. Nor look at it
    again: everything else would have to wait meanwhile."""

    def handle() -> str:
        return command("nft", "-a", "list", "table", "inet", lab.inst.nft_table).splitlines()[0]

    await watched(lab)
    await lab.box()
    first = handle()
    await asyncio.sleep(0.3)
    looked: list[bool] = []
    monkeypatch.setattr(Host, "restore", lambda self: looked.append(True))
    for _ in range(5):
        await lab.end(await lab.box(PortMapping(80)))
    await asyncio.sleep(0.3)
    assert handle() == first
    assert not looked
    subprocess.run(("nft", "flush", "set", "inet", lab.inst.nft_table, "subnets"), check=True)
    async with asyncio.timeout(patience(20)):
        while not looked:
            await asyncio.sleep(0.01)
    monkeypatch.undo()


async def test_nft_can_load_what_it_lists(lab: Lab) -> None:
    """Administrators save and restore the ruleset as a whole: ours must survive that."""
    box = await lab.box(PortMapping(80), PortMapping(53, 0, "udp", "127.0.0.1"))
    box.serve("tcp", 80)
    before = table(lab)
    saved = "flush ruleset\n" + command("nft", "list", "ruleset")
    subprocess.run(("nft", "-f", "-"), input=saved, text=True, check=True)
    assert table(lab) == before
    assert run_inside(None, ask_tcp, "127.0.0.1", box.port(80))


async def test_attach_restores_without_a_watcher(lab: Lab) -> None:
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    before = table(lab)
    subprocess.run(("nft", "delete", "table", "inet", lab.inst.nft_table), check=True)
    await lab.box()
    assert table(lab) == before


async def test_recover_releases_the_dead(lab: Lab) -> None:
    dead, live = await lab.box(PortMapping(80)), await lab.box(PortMapping(80))
    for box in (dead, live):
        box.serve("tcp", 80)
        assert run_inside(None, ask_tcp, "127.0.0.1", box.port(80))
    lab.boxes.remove(dead)
    dead.die()
    done = await lab.net.recover({live.id})
    assert any(dead.id[:12] in line for line in done)
    assert {row["container"] for row in lab.store.run.read("SELECT container FROM endpoint")} == {live.id}
    assert not flows_of(dead.ip)
    assert links(lab) == [live.attachment.endpoint.interface] or soon(lambda: len(links(lab)) == 1)
    assert run_inside(None, ask_tcp, "127.0.0.1", live.port(80))
    assert await lab.net.recover({live.id}) == []


async def test_recover_mends_the_living(lab: Lab) -> None:
    """Bridge, table, membership and even the pair of a running container are made again."""
    one, two = await lab.box(PortMapping(80)), await lab.box()
    one.serve("tcp", 80)
    pids = {one.id: one.servers[0].pid}
    subprocess.run(("ip", "link", "del", lab.inst.bridge), check=True)
    subprocess.run(("nft", "delete", "table", "inet", lab.inst.nft_table), check=True)
    await lab.net.recover({one.id, two.id}, pids)
    assert run_inside(None, ask_tcp, "127.0.0.1", one.port(80))
    assert run_inside(two.fd, ping, two.attachment.endpoint.gateway) is True
    subprocess.run(("ip", "link", "set", two.attachment.endpoint.interface, "nomaster"), check=True)
    subprocess.run(("ip", "link", "set", two.attachment.endpoint.interface, "down"), check=True)
    subprocess.run(("ip", "link", "del", one.attachment.endpoint.interface), check=True)
    done = await lab.net.recover({one.id, two.id}, pids)
    assert len(done) == 2, done
    assert run_inside(two.fd, ping, two.attachment.endpoint.gateway) is True
    assert run_inside(None, ask_tcp, "127.0.0.1", one.port(80))
    assert await lab.net.recover({one.id, two.id}, pids) == []


async def test_the_table_of_a_newer_version_is_let_be(lab: Lab) -> None:
    """Two engines that each make it anew, after the other, would never end."""
    await lab.box()
    nl = Netlink(NETLINK_NETFILTER)
    try:
        for tag, kept in ((b"wharf 4", False), (b"wharf 99", True), (b"somebody's", False)):
            nft.commit(nl, [nft.del_table(lab.inst.nft_table), nft.new_table(lab.inst.nft_table, tag)])
            assert await lab.net.restore() is not kept
            assert (nft.table_tag(nl, lab.inst.nft_table) == tag) is kept
        nft.commit(nl, [nft.del_table(lab.inst.nft_table)])
    finally:
        nl.close()
    assert await lab.net.restore()


async def test_recover_deletes_strangers_of_our_name(lab: Lab) -> None:
    box = await lab.box()
    name = f"{lab.inst.link_prefix}abcdef0"
    subprocess.run(("ip", "link", "add", name, "type", "veth", "peer", "name", f"p{os.getpid() % 10000}"), check=True)
    argv = ("nft", "add", "element", "inet", lab.inst.nft_table, "publish_any", "{ tcp . 4 : 10.9.9.9 . 4 }")
    subprocess.run(argv, check=True)
    with lab.store.run.write() as con:
        con.execute("INSERT INTO lease VALUES (?, 99, ?)", ((await lab.net.ensure("bridge")).id, make_id()))
    done = await lab.net.recover({box.id})
    assert len(done) == 3, done
    assert links(lab) == [box.attachment.endpoint.interface]
    assert "10.9.9.9" not in table(lab)
    assert len(lab.store.run.read("SELECT * FROM lease")) == 1


async def test_killed_at_every_step(lab: Lab) -> None:
    """attach, publish, detach, remove; the process dies before its N-th conversation with the kernel, N = 1, 2, …"""
    with victims("tests.net_victim") as forked:
        for step in range(200):
            code = forked.run(lab.inst.root, lab.inst.run, step)
            assert code in (0, 9)
            net = Net(lab.inst, lab.store)
            await net.recover(set())
            for name in ("lease", "endpoint", "port"):
                assert not lab.store.run.read(f"SELECT * FROM {name}"), step
            assert links(lab) == [], step
            assert table(lab).count("concat") == 0, step
            if lab.store.disk.read("SELECT 1 FROM network"):
                await net.remove_network("bridge")
            await net.close()
            assert soon(lambda: not left_over(lab.inst)), (step, left_over(lab.inst))
            if code == 0:
                assert step > 20
                return
    raise AssertionError("it never came to the end")


async def test_kernel_refuses_at_every_step(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The N-th conversation fails (no memory): one clear error, and the database holds nothing of the attempt."""
    await lab.net.ensure("bridge")
    left = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def talk(self: Netlink, *args: object) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOBUFS, "no buffer space")
            return real(self, *args)

        return talk

    for name in ("talk", "change", "transaction"):
        monkeypatch.setattr(Netlink, name, failing(getattr(Netlink, name)))
    for step in range(1, 100):
        left, cid = step, make_id()
        refusal: Unavailable | None = None
        try:
            made = await lab.net.attach("bridge", cid)
            os.close(made.netns_fd)
            published = await lab.net.publish(cid, [made.endpoint], [PortMapping(80), PortMapping(53, 0, "udp")])
            published.close()
        except Unavailable as error:
            refusal = error
        finished, left = left > 0, 0
        assert finished == (refusal is None)
        assert refusal is None or (refusal.step and refusal.fix)
        await lab.net.detach(cid)
        for name in ("lease", "endpoint", "port"):
            assert not lab.store.run.read(f"SELECT * FROM {name}"), step
        assert table(lab).count("tcp .") == 0, step
        if finished:
            assert step > 4
            return
    raise AssertionError("it never came to the end")


def foreign_rules(chain: str) -> list[str]:
    lines = command("nft", "list", "chain", "ip", "filter", chain).splitlines()
    return [line.strip() for line in lines if "comment" in line]


async def test_foreign_drop_policy_is_accepted(lab: Lab, outside: int) -> None:
    """A chain as ufw leaves it. (Docker's is the next test.)"""
    subprocess.run(("nft", "add table ip filter"), check=True)
    chain = "{ type filter hook forward priority 0; policy drop; }"
    subprocess.run(("nft", f"add chain ip filter FORWARD {chain}"), check=True)
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    assert len(foreign_rules("FORWARD")) == 2
    assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE
    server = Server(outside, "tcp", 8000)
    try:
        assert run_inside(box.fd, ask_tcp, OUTSIDE, 8000) == UPLINK
    finally:
        server.close()
    # Our own table still decides: unpublished stays unreachable.
    box.serve("tcp", 81)
    assert run_inside(outside, ask_tcp, box.ip, 81, 0.5) == "error:TimeoutError"
    await lab.end(box)
    await lab.net.remove_network("bridge")
    assert foreign_rules("FORWARD") == []


async def test_docker_comes_later(lab: Lab, outside: int) -> None:
    """The policy turns to DROP under a running container; DOCKER-USER is preferred when it appears."""
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    await watched(lab)
    rules = """
        table ip filter {
            chain DOCKER-USER { }
            chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
        }
    """
    subprocess.run(("nft", "-f", "-"), input=rules, text=True, check=True)
    for _ in range(2):
        end = time.monotonic() + patience(20)
        while len(foreign_rules("DOCKER-USER")) != 2:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE
        subprocess.run(("nft", "flush", "chain", "ip", "filter", "DOCKER-USER"), check=True)


async def test_a_port_that_leads_to_a_killed_ones_address(lab: Lab) -> None:
    """Elements come before the commit: of a process that is killed in between they stay, and no row knows them."""
    first = await lab.box()
    stale = firewall.Port("tcp", "", 24680, first.ip, 81)
    with contextlib.closing(Netlink(NETLINK_NETFILTER)) as nl:
        firewall.publish(nl, lab.inst.nft_table, [stale])
    second = await lab.box(PortMapping(80, 24680))
    second.serve("tcp", 80)
    assert await asyncio.to_thread(run_inside, None, ask_tcp, "127.0.0.1", 24680)
    assert not await lab.net.restore()  # it is whole


async def test_a_network_is_removed_while_somebody_joins_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the network and the row nothing keeps another engine from removing it."""
    spec = NetworkSpec("short", subnets=(Subnet(f"{range4(9)}.0/24"),))
    await lab.net.create_network(spec)
    other = Lab(lab.inst)
    ensure = Host.ensure

    def removed_then(host: Host, ref: str) -> tuple[Network, Way]:
        found = ensure(host, ref)
        if ref == "short":
            networks.remove(other.net._host, ref)
        return found

    with monkeypatch.context() as late:
        late.setattr(Host, "ensure", removed_then)
        with pytest.raises(NotFound, match="no such network"):
            await lab.box(network="short")
    assert lab.store.run.read("SELECT * FROM endpoint") == []
    assert lab.store.run.read("SELECT * FROM lease") == []
    assert links(lab) == []
    # The other way round: who has its row there keeps the network.
    await lab.net.create_network(spec)
    box = await lab.box(network="short")
    with pytest.raises(InUse, match="short"):
        await other.net.remove_network("short")
    await lab.end(box)
    await other.net.close()
    other.store.close()
