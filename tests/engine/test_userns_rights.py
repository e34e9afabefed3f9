"""What the root of a user namespace may do: all in its container's network and other namespaces, nothing on the host
(CVE-2022-0185, CVE-2022-0492)."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, Mount, PortMapping
from tests.engine.test_lifecycle import output, run, sleeper, until
from tests.engine.test_options import inside, shell

pytestmark = pytest.mark.usefixtures("mappable")


# -- networks
async def test_network_is_its_own(engine: Engine, busybox_image: str) -> None:
    spec = ContainerSpec(
        busybox_image,
        command=("sh", "-c", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ip addr add 10.9.9.9/32 dev lo; "
                 "ls /sys/class/net; while :; do echo hello | nc -l -p 80; done"),
        userns="auto",
        cap_add=("NET_ADMIN",),
        ports=(PortMapping(80),),
        sysctls={"net.ipv4.ip_unprivileged_port_start": "1024", "net.ipv4.ip_forward": "1", "kernel.shmmni": "77"},
    )  # fmt: skip
    box = await engine.create(spec)
    await engine.start(box.id)
    found = await engine.container(box.id)
    # The network namespace belongs to the container's user namespace: else its root could bind no low port.
    port = found.ports[0].host_port

    async def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as sock:
                return sock.recv(100) == b"hello\n"
        except OSError:
            return False

    async def told() -> bool:
        return (await output(engine, box.id))[:3] == ["1024", "eth0", "lo"]

    await until(answers)
    await until(told)
    text = (await inside(engine, box.id, "cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmni"))[1]
    assert text.split() == ["1", "77"]
    assert (await inside(engine, box.id, "ip", "addr", "show", "dev", "lo"))[1].count("10.9.9.9") == 1
    await engine.kill(box.id)


@pytest.mark.parametrize("network", ["none", "host"])
async def test_without_a_wire(engine: Engine, busybox_image: str, network: str) -> None:
    script = "ls /sys/class/net; ping -c 1 -w 2 127.0.0.1 >/dev/null 2>&1 && echo up; mount | grep -c ' /sys '"
    lines = await shell(engine, busybox_image, script, userns="auto", network=network)
    assert "lo" in lines
    assert lines[-1] == "1"
    if network == "none":
        assert lines[0] == "lo"
        assert "up" in lines
        return
    # The host's network is the host's root's.
    code, lines = await run(
        engine, busybox_image, "sh", "-c",
        "ip link set lo down 2>/dev/null && echo DOWN; mount -o remount,rw /sys 2>/dev/null && echo REMOUNTED; "
        "for file in /sys/kernel/uevent_seqnum /sys/kernel/mm/ksm/run; do "
        "test -e $file && echo 0 2>/dev/null > $file && echo WROTE; done; true",
        userns="auto", network="host", cap_add=("ALL",), security_opt=("seccomp=unconfined",),
    )  # fmt: skip
    assert (code, lines) == (0, [])


async def test_joining_needs_the_same_user_namespace(engine: Engine, busybox_image: str) -> None:
    one = await sleeper(engine, busybox_image, userns="remap", ipc="shareable", name="one")
    fields = {"network": "container:one", "ipc": "container:one", "pid": "container:one"}
    two = await sleeper(engine, busybox_image, userns="remap", **fields)
    pids = [(await engine.container(cid)).pid for cid in (one, two)]
    for kind in ("user", "net", "ipc", "pid"):
        assert len({os.readlink(f"/proc/{pid}/ns/{kind}") for pid in pids}) == 1
    assert (await inside(engine, two, "sh", "-c", "kill -0 1 && ls /sys/class/net"))[1].split() == ["eth0", "lo"]
    for word in ("auto", "auto:size=100"):
        for kind, value in fields.items():
            with pytest.raises(errors.InvalidArgument, match="another user namespace"):
                await engine.create(ContainerSpec(busybox_image, userns=word, **{kind: value}))  # type: ignore[arg-type]
    for cid in (two, one):
        await engine.remove(cid, force=True)


# -- what it may not
async def test_no_rights_on_the_host(engine: Engine, busybox_image: str) -> None:
    """All capabilities and no filter: still only those of the user namespace count."""
    box = await engine.create(
        ContainerSpec(
            busybox_image, command=("sh", "-c", "sleep 1000"), userns="auto", cap_add=("ALL",),
            security_opt=("seccomp=unconfined", "systempaths=unconfined"),
        )
    )  # fmt: skip
    await engine.start(box.id)
    disk = Path("/proc/self/mountinfo").read_text().splitlines()[0].split(" - ")[1].split()[1]
    for attack in (
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo b > /proc/sysrq-trigger",
        "echo -1000 > /proc/1/oom_score_adj",
        f"mkdir /d; mount -t ext4 {disk} /d",
        "mkdir /1; mount -t cgroup -o memory x /1 && echo /x > /1/release_agent",  # CVE-2022-0492
        "test -e /1/cgroup.procs && echo -1 > /1/memory.limit_in_bytes",
        "test -e /1/cgroup.procs && echo 1 > /1/cgroup.procs",
        "mkdir /2; mount -t cgroup2 x /2 && echo max > /2/memory.max",
        "test -e /2/cgroup.procs && echo 1 > /2/cgroup.procs",
        "mknod /disk b 8 0",
        "date -s 2001-01-01; test $(date +%Y) = 2001",
        "mount -o remount,rw /sys",
    ):
        code, text = await inside(engine, box.id, "sh", "-c", attack)
        assert code != 0, (attack, text)
    # What its own namespaces allow is allowed.
    assert (await inside(engine, box.id, "sh", "-c", "mkdir /m; mount -t tmpfs x /m; hostname new; hostname"))[
        1
    ] == "new"
    await engine.kill(box.id)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"privileged": True}, "--privileged contradicts"),
        ({"pid": "host"}, "--pid host contradicts"),
        ({"ipc": "host"}, "--ipc host contradicts"),
        ({"uts": "host"}, "--uts host contradicts"),
        ({"userns": "auto:size=0"}, "invalid --userns"),
        ({"userns": "remap:size=5"}, "invalid --userns"),
        ({"userns": "private"}, "invalid --userns"),
        ({"userns": "auto:size=1073741825"}, "invalid --userns"),
    ],
)
async def test_refused(engine: Engine, busybox_image: str, fields: dict[str, object], word: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=word):
        await engine.create(ContainerSpec(busybox_image, **{"userns": "auto", **fields}))  # type: ignore[arg-type]


async def test_a_file_system_that_cannot_map_is_named(engine: Engine, busybox_image: str) -> None:
    mount = Mount("bind", "/sys/kernel", "/k", options=("idmap",))
    box = await engine.create(ContainerSpec(busybox_image, command=("true",), userns="auto", mounts=(mount,)))
    with pytest.raises(errors.Unsupported, match="cannot map the ids") as caught:
        await engine.start(box.id)
    assert "sysfs" in caught.value.why
