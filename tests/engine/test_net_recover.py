"""Crashes and other people's hands: after recovery, kernel and database say the same again."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from core.errors import Unavailable
from core.kernel.netlink import Netlink
from core.model import PortMapping
from core.names import make_id
from core.net import Net
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

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]


def table(lab: Lab) -> str:
    """The instance's table as the nft binary prints it, elements in one order."""
    text = command("nft", "-s", "list", "table", "inet", lab.inst.nft_table)
    return "\n".join(sorted(line.strip(" \t,") for line in text.splitlines()))


def links(lab: Lab) -> list[str]:
    return [name for name in link_names() if name.startswith(lab.inst.link_prefix)]


async def test_watch_restores_within_two_seconds(lab: Lab) -> None:
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    before = table(lab)
    lab.net.watch()
    await asyncio.sleep(0.2)
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
        start = time.monotonic()
        while table(lab) != before:
            assert time.monotonic() - start < 2, damage
            await asyncio.sleep(0.02)
    assert run_inside(None, ask_tcp, "127.0.0.1", box.port(80))


async def test_watch_leaves_own_work_alone(lab: Lab) -> None:
    """What engines do to the table themselves does not make them rebuild it: its handle stays."""

    def handle() -> str:
        return command("nft", "-a", "list", "table", "inet", lab.inst.nft_table).splitlines()[0]

    lab.net.watch()
    await lab.box()
    first = handle()
    for _ in range(5):
        await lab.end(await lab.box(PortMapping(80)))
    await asyncio.sleep(0.3)
    assert handle() == first


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


_CRASH = """
import asyncio, os, sys
from pathlib import Path
from core.kernel.netlink import Netlink
from core.model import PortMapping
from core.names import make_id
from core.net import Net
from core.store.db import Store
from core.store.paths import Instance

inst = Instance(Path(sys.argv[1]), Path(sys.argv[2]))
inst.prepare()
left = int(sys.argv[3])

def counted(real):
    # Each conversation with the kernel is one step; the process is gone before the one with the given number.
    def talk(self, *args):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(self, *args)
    return talk

Netlink.talk = counted(Netlink.talk)
Netlink.transaction = counted(Netlink.transaction)

async def main():
    net = Net(inst, Store.open(inst))
    cid = make_id()
    made = await net.attach("bridge", cid)
    await net.publish(cid, made.endpoint.ip, [PortMapping(80, 0), PortMapping(53, 0, "udp", "127.0.0.1")])
    await net.detach(cid)
    await net.remove_network("bridge")
    print("done")
    os._exit(0)

asyncio.run(main())
"""


async def test_killed_at_every_step(lab: Lab) -> None:
    """attach, publish, detach, remove; the process dies before its N-th conversation with the kernel, N = 1, 2, …"""
    for step in range(200):
        argv = (sys.executable, "-c", _CRASH, str(lab.inst.root), str(lab.inst.run), str(step))
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
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
        if done.returncode == 0:
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

    monkeypatch.setattr(Netlink, "talk", failing(Netlink.talk))
    monkeypatch.setattr(Netlink, "transaction", failing(Netlink.transaction))
    for step in range(1, 100):
        left, cid = step, make_id()
        refusal: Unavailable | None = None
        try:
            made = await lab.net.attach("bridge", cid)
            os.close(made.netns_fd)
            published = await lab.net.publish(cid, made.endpoint.ip, [PortMapping(80), PortMapping(53, 0, "udp")])
            for reserved in published.sockets:
                reserved.close()
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
            assert step > 8
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
    lab.net.watch()
    await asyncio.sleep(0.2)
    rules = """
        table ip filter {
            chain DOCKER-USER { }
            chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
        }
    """
    subprocess.run(("nft", "-f", "-"), input=rules, text=True, check=True)
    for _ in range(2):
        end = time.monotonic() + 2
        while len(foreign_rules("DOCKER-USER")) != 2:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE
        subprocess.run(("nft", "flush", "chain", "ip", "filter", "DOCKER-USER"), check=True)
