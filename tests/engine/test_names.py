"""Names between containers: who finds whom, by which name, from when on and until when."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from core.dns.zone import container_file, network_file
from core.engine import Engine
from core.kernel import netns
from core.local import LocalEngine
from core.model import ContainerSpec, EndpointSpec, NetworkSpec
from core.net import Net
from core.ops import etc
from core.store.db import Store
from core.store.paths import Instance
from tests.dnslab import PTR, Upstream, over_tcp, over_udp, question, told
from tests.engine.netlab import COMES, run_inside
from tests.engine.test_crash import state_of
from tests.engine.test_lifecycle import until
from tests.engine.test_networks import inside
from tests.world import assert_world

pytestmark = pytest.mark.real
NOERROR, SERVFAIL = 0, 2
FRONT = NetworkSpec("front")
BACK = NetworkSpec("back", internal=True, ipv6=True)  # nothing is asked of the world outside


async def up(engine: Engine, image: str, name: str, *networks: EndpointSpec | str, **fields: object) -> str:
    """A container that waits, on these networks; none: the default."""
    ends = tuple(EndpointSpec(each) if isinstance(each, str) else each for each in networks)
    spec = ContainerSpec(
        image,
        name=name,
        command=("sleep", "1000"),
        network=ends[0].network if ends else "",
        networks=ends,
        **fields,  # type: ignore[arg-type]
    )
    return (await engine.start((await engine.create(spec)).id)).id


def _ask(name: str, kind: int) -> tuple[int, list[str]]:
    found = over_udp(("127.0.0.11", 53), question(name, kind, edns=1232), COMES)
    assert over_tcp(("127.0.0.11", 53), question(name, kind), timeout=COMES)[0].code == found.code
    return found.code, sorted(found.values)


async def ask(inst: Instance, cid: str, name: str, kind: int = 1) -> tuple[int, list[str]]:
    """What the resolver of a container says."""
    fd = netns.of_process(state_of(inst, cid)["pid"])
    try:
        return tuple(await asyncio.to_thread(run_inside, fd, _ask, name, kind))  # type: ignore[return-value]
    finally:
        os.close(fd)


async def addresses(engine: Engine, cid: str) -> dict[str, str]:
    return {end.network: end.ip for end in (await engine.container(cid)).endpoints}


async def test_who_finds_whom(engine: Engine, busybox_image: str, inst: Instance) -> None:
    for spec in (FRONT, BACK):
        await engine.create_network(spec)
    web = await up(engine, busybox_image, "Web", "front", "back", hostname="webhost", links=("db:database",))
    db = await up(engine, busybox_image, "db", EndpointSpec("back", aliases=("store", "sql")))
    there, ours = await addresses(engine, db), await addresses(engine, web)
    for name in ("db", "store", "sql", db[:12], "db.back", "STORE.back", "database"):
        assert await ask(inst, web, name) == (NOERROR, [there["back"]]), name
    for name in ("web", "webhost", web[:12], "web.back"):
        assert await ask(inst, db, name) == (NOERROR, [ours["back"]]), name
    assert await ask(inst, web, "web") == (NOERROR, [ours["front"]])  # of its first network
    six = (await engine.container(db)).endpoints[0].ip6
    assert await ask(inst, web, "db", 28) == (NOERROR, [six])
    pointer = ".".join(reversed(there["back"].split("."))) + ".in-addr.arpa"
    assert await ask(inst, web, pointer, PTR) == (NOERROR, ["db.back"])
    # As a program in there does it: by resolv.conf, and with the answer it gets somewhere.
    assert "1 packets received" in await inside(engine, web, "ping", "-c1", "-W2", "db")
    assert there["back"] in await inside(engine, web, "nslookup", "db")
    resolv = await inside(engine, web, "cat", "/etc/resolv.conf")
    assert resolv.splitlines()[0] == "nameserver 127.0.0.11"
    assert "ndots:0" in resolv
    assert resolv.count("nameserver") == 1
    # One on an internal network alone asks nobody outside; nor does it hear of the others' networks.
    assert await ask(inst, db, "example.invalid") == (SERVFAIL, [])
    assert await ask(inst, db, "web.front") == (SERVFAIL, [])
    assert_world(inst)


async def test_names_come_and_go(engine: Engine, busybox_image: str, inst: Instance) -> None:
    for spec in (FRONT, BACK):
        await engine.create_network(spec)
    one, two = await up(engine, busybox_image, "one", "back"), await up(engine, busybox_image, "two", "back")
    first = (await addresses(engine, two))["back"]
    assert await ask(inst, one, "two") == (NOERROR, [first])
    await engine.restart(two, timeout=0)
    second = (await addresses(engine, two))["back"]
    assert second != first
    assert await ask(inst, one, "two") == (NOERROR, [second])
    await engine.stop(two, timeout=0)
    assert await ask(inst, one, "two") == (SERVFAIL, [])
    await engine.start(two)
    await engine.disconnect("back", two)
    assert await ask(inst, one, "two") == (SERVFAIL, [])
    await engine.connect(two, EndpointSpec("back", aliases=("second",)))
    assert await ask(inst, one, "second") == (NOERROR, [(await addresses(engine, two))["back"]])
    three = await up(engine, busybox_image, "three")  # on the default network, without names
    assert "127.0.0.11" not in await inside(engine, three, "cat", "/etc/resolv.conf")
    await engine.connect(three, EndpointSpec("back"))
    assert await ask(inst, three, "two") == (NOERROR, [(await addresses(engine, two))["back"]])
    assert await ask(inst, one, "three") == (NOERROR, [(await addresses(engine, three))["back"]])
    assert "nameserver 127.0.0.11" in await inside(engine, three, "cat", "/etc/resolv.conf")
    os.kill(state_of(inst, three)["monitor_pid"], signal.SIGKILL)
    assert await ask(inst, three, "two") == (NOERROR, [(await addresses(engine, two))["back"]])
    assert_world(inst)
    for cid in (one, two, three):
        await engine.remove(cid, force=True)
    assert list((inst.run / "dns").iterdir()) == []


async def test_several_with_one_alias(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await engine.create_network(BACK)
    ids = [await up(engine, busybox_image, f"w{n}", EndpointSpec("back", aliases=("pool",))) for n in range(3)]
    known = sorted([(await addresses(engine, cid))["back"] for cid in ids])
    assert await ask(inst, ids[0], "pool") == (NOERROR, known)
    await engine.remove(ids[2], force=True)
    assert len((await ask(inst, ids[0], "pool"))[1]) == 2


async def test_no_name_is_lost_in_a_crowd(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """Two engines start, stop and remove at once; afterwards everybody who runs is known, and nobody else."""
    await engine.create_network(BACK)
    other = await LocalEngine.open(inst.root, inst.run)
    try:

        async def life(number: int) -> None:
            own = (engine, other)[number % 2]
            cid = await up(own, busybox_image, f"c{number}", "back")
            if number % 3 == 0:
                await own.remove(cid, force=True)
            elif number % 3 == 1:
                await own.restart(cid, timeout=0)

        await asyncio.gather(*(life(number) for number in range(18)))
        boxes = [box for box in await engine.containers() if box.endpoints]
        assert len(boxes) == 12
        network = next(each for each in await engine.networks() if each.name == "back")
        names = json.loads(Path(network_file(str(inst.run), network.id)).read_text())["names"]
        for box in boxes:
            assert names[box.name] == [box.endpoints[0].ip, box.endpoints[0].ip6]
        assert len(names) == 2 * len(boxes)
        assert await ask(inst, boxes[0].id, boxes[-1].name) == (NOERROR, [boxes[-1].endpoints[0].ip])
    finally:
        await other.close()


async def test_files_are_made_again(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await engine.create_network(BACK)
    cid = await up(engine, busybox_image, "one", "back")
    path = Path(container_file(str(inst.run), cid))
    path.unlink()
    (path.parent / "stray.json").write_text("{}")
    assert await ask(inst, cid, "one") == (SERVFAIL, [])
    await engine.recover()
    assert await ask(inst, cid, "one") == (NOERROR, [(await addresses(engine, cid))["back"]])
    assert not (path.parent / "stray.json").exists()


async def test_another_name(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await engine.create_network(BACK)
    cid = await up(engine, busybox_image, "old", "back")
    store = Store.open(inst)
    net = Net(inst, store)
    try:
        with store.disk.write() as con:
            con.execute("UPDATE container SET name = 'new' WHERE id = ?", (cid,))
        await net.renamed(cid)
    finally:
        await net.close()
        store.close()
    assert await ask(inst, cid, "new") == (NOERROR, [(await addresses(engine, cid))["back"]])
    assert await ask(inst, cid, "old") == (SERVFAIL, [])


async def test_in_a_user_namespace(engine: Engine, busybox_image: str, inst: Instance, mappable: None) -> None:
    await engine.create_network(BACK)
    cid = await up(engine, busybox_image, "mapped", "back", userns="auto")
    assert await ask(inst, cid, "mapped") == (NOERROR, [(await addresses(engine, cid))["back"]])


async def test_who_shares_a_network_shares_its_names(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await engine.create_network(BACK)
    cid = await up(engine, busybox_image, "one", "back")
    spec = ContainerSpec(busybox_image, command=("sleep", "1000"), network=f"container:{cid}")
    guest = (await engine.start((await engine.create(spec)).id)).id
    assert (await addresses(engine, cid))["back"] in await inside(engine, guest, "nslookup", "one")


async def test_what_was_changed_inside_stays(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await engine.create_network(BACK)
    cid = await up(engine, busybox_image, "one", "back", extra_hosts=("printer:192.0.2.7",))
    before = (await addresses(engine, cid))["back"]
    script = "echo '192.0.2.9 scanner' >> /etc/hosts; grep -v printer /etc/hosts > /tmp/h; cat /tmp/h > /etc/hosts"
    await inside(engine, cid, "sh", "-c", f"{script}; echo nameserver 192.0.2.53 > /etc/resolv.conf")
    await engine.restart(cid, timeout=0)
    after = (await addresses(engine, cid))["back"]
    hosts = await inside(engine, cid, "cat", "/etc/hosts")
    assert "192.0.2.9 scanner" in hosts
    assert "printer" not in hosts
    assert after in hosts
    assert before not in hosts
    assert await inside(engine, cid, "cat", "/etc/resolv.conf") == "nameserver 192.0.2.53\n"


def test_a_file_without_its_copy_is_ours(tmp_path: Path) -> None:
    """Who was killed between the two has left the first of them."""
    path = tmp_path / "hosts"
    assert etc.begin(path, "127.0.0.1 localhost\n") == (path, "127.0.0.1 localhost\n")
    owed = etc.begin(path, "127.0.0.1 localhost\n10.0.0.2 me\n", merge=True)
    assert owed is None
    assert path.read_text() == (tmp_path / "hosts.ours").read_text() == "127.0.0.1 localhost\n10.0.0.2 me\n"
    path.unlink()
    owed = etc.begin(path, "127.0.0.1 localhost\n10.0.0.3 me\n")
    assert owed is not None
    etc.note(*owed)
    assert path.read_text() == (tmp_path / "hosts.ours").read_text() == "127.0.0.1 localhost\n10.0.0.3 me\n"


def test_a_file_that_is_mounted_before_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    for _ in range(2):  # who was killed between the two has left it empty
        etc.reserve(path)
        assert path.read_text() == ""
    mounted = path.stat().st_ino
    owed = etc.begin(path, "127.0.0.1 localhost\n", merge=True)
    assert owed is not None
    etc.note(*owed)
    assert (path.stat().st_ino, path.read_text()) == (mounted, "127.0.0.1 localhost\n")
    path.write_text("")  # somebody in the container wants it so
    etc.reserve(path)
    assert etc.begin(path, "127.0.0.1 localhost\n10.0.0.2 me\n", merge=True) is None
    assert path.read_text() == ""


def test_a_file_that_cannot_be_written_is_let_be(tmp_path: Path) -> None:
    """A link that somebody has put there, say: it may lead anywhere."""
    path = tmp_path / "resolv.conf"
    etc.renew(path, "nameserver 10.0.0.1\n")
    path.unlink()
    (tmp_path / "other").write_text("nameserver 10.0.0.2\n")
    path.symlink_to("other")
    etc.reserve(path)
    assert etc.begin(path, "nameserver 10.0.0.1\n") is None
    assert path.is_symlink()
    assert (tmp_path / "other").read_text() == "nameserver 10.0.0.2\n"


def test_large_and_strange_files(tmp_path: Path) -> None:
    """Whoever is in the container may have put anything there."""
    path = tmp_path / "hosts"
    etc.renew(path, "127.0.0.1 localhost\n10.0.0.2 me\n", merge=True)
    path.write_bytes(b"\xff\xfe odd\n10.0.0.2 me\n")
    etc.renew(path, "127.0.0.1 localhost\n10.0.0.3 me\n", merge=True)
    assert path.read_bytes() == b"\xff\xfe odd\n10.0.0.3 me\n"
    path.write_bytes(b"# a\x0b10.0.0.9 me\xc2\x85x\r\n10.0.0.3 me\n")
    etc.renew(path, "127.0.0.1 localhost\n10.0.0.5 me\n", merge=True)
    assert path.read_bytes() == b"# a\x0b10.0.0.9 me\xc2\x85x\r\n10.0.0.5 me\n"  # a comment stays one
    with path.open("wb") as file:
        file.truncate(1 << 32)
    etc.renew(path, "127.0.0.1 localhost\n10.0.0.4 me\n", merge=True)
    assert path.stat().st_size == 1 << 32
    path.write_bytes(b"")
    etc.renew(path, "127.0.0.1 localhost\n", merge=True)
    assert path.read_bytes() == b""  # emptied: that is a change too


@pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc")
async def test_under_another_runtime(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """Its monitor lives in a mount namespace of its own, and sees what engines write all the same."""
    await engine.create_network(BACK)
    cid = await up(engine, busybox_image, "one", "back", runtime="runc")
    address = (await addresses(engine, await up(engine, busybox_image, "two", "back")))["back"]
    assert await ask(inst, cid, "two") == (NOERROR, [address])
    assert address in await inside(engine, cid, "nslookup", "two")


async def test_the_hosts_own_resolver_is_asked(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """One on the host's loopback, as systemd-resolved is: no packet of a container could reach it."""
    await engine.create_network(NetworkSpec("front"))
    with Upstream(lambda data, stream: [told(data, "192.0.2.1")], address="127.0.0.77", port=53) as upstream:
        cid = await up(engine, busybox_image, "one", "front", dns=("127.0.0.77",))
        assert await ask(inst, cid, "example.com") == (NOERROR, ["192.0.2.1"])
        assert "192.0.2.1" in await inside(engine, cid, "nslookup", "example.com")
        assert {peer[0] for _, _, peer in upstream.seen} == {"127.0.0.1"}
        seen = len(upstream.seen)
        assert (await ask(inst, cid, "one"))[0] == NOERROR
        assert len(upstream.seen) == seen
        # On an internal network alone the same server is not asked.
        await engine.create_network(BACK)
        await engine.connect(cid, EndpointSpec("back"))
        await engine.disconnect("front", cid)
        assert await ask(inst, cid, "example.com") == (SERVFAIL, [])
        assert len(upstream.seen) == seen


async def test_an_end_that_no_engine_sees(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """The one-shot clean-up takes the name away."""
    await engine.create_network(BACK)
    one = await up(engine, busybox_image, "one", "back")
    spec = ContainerSpec(busybox_image, name="two", command=("sleep", "1"), network="back")
    await engine.start((await engine.create(spec)).id)
    assert (await ask(inst, one, "two"))[0] == NOERROR
    await engine.close()

    async def gone() -> bool:
        return await ask(inst, one, "two") == (SERVFAIL, [])

    await until(gone)
