"""``create`` refuses what could only fail later, with one typed error, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.engine import Engine
from core.local import LocalEngine
from core.model import (
    ContainerSpec,
    ExecSpec,
    Healthcheck,
    LogOptions,
    Mount,
    PortMapping,
    Resources,
    RestartPolicy,
)
from core.store.paths import Instance, find_instance
from tests.engine.netlab import soon
from tests.engine.test_attacks_image import base, load
from tests.instance import end_instance

MIB = 1024 * 1024
SHELL = ("CMD-SHELL", "true")


def tmpfs(target: str, *options: str) -> tuple[Mount, ...]:
    return (Mount("tmpfs", "", target, False, options),)


def limits(**fields: Any) -> dict[str, Any]:
    return {"resources": Resources(**fields)}


BAD: dict[str, dict[str, Any]] = {
    "user with a blank": {"user": "1 0"},
    "user that overflows": {"user": "4294967296"},
    "user without a group": {"user": "app:"},
    "capability": {"cap_add": ("NET_NOPE",)},
    "capability to drop": {"cap_drop": ("NOPE",)},
    "sysctl of the host": {"sysctls": {"vm.swappiness": "1"}},
    "sysctl that climbs": {"sysctls": {"net.x/../../kernel": "1"}},
    "sysctl of two lines": {"sysctls": {"net.ipv4.ip_forward": "1\n1"}},
    "sysctl of the host's network": {"network": "host", "sysctls": {"net.ipv4.ip_forward": "1"}},
    "relative folder": {"working_dir": "a/b"},
    "mount on proc": {"mounts": tmpfs("/proc")},
    "mount on two slashes": {"mounts": tmpfs("//proc")},
    "mount below proc": {"mounts": tmpfs("//proc/sys/")},
    "mount that climbs to proc": {"mounts": tmpfs("/a/../proc/1")},
    "mount on sys": {"mounts": tmpfs("/sys/.")},
    "mount on dev": {"mounts": tmpfs("//dev//")},
    "mount on the root": {"mounts": tmpfs("//")},
    "relative mount": {"mounts": tmpfs("a")},
    "mount with a long name": {"mounts": tmpfs("/" + "x" * 256)},
    "the same target twice": {"mounts": (*tmpfs("/a"), *tmpfs("//a/."))},
    "kind of mount": {"mounts": (Mount("nfs", "x", "/a"),)},
    "option of tmpfs": {"mounts": tmpfs("/a", "size=much")},
    "unknown option of tmpfs": {"mounts": tmpfs("/a", "lowerdir=/")},
    "option of a bind": {"mounts": (Mount("bind", "/tmp", "/a", False, ("wide",)),)},
    "source that is not there": {"mounts": (Mount("bind", "/nonexistent/x", "/a"),)},
    "relative source": {"mounts": (Mount("bind", "tmp", "/a"),)},
    "name of a volume": {"mounts": (Mount("volume", "../x", "/a"),)},
    "name of a volume with a line": {"mounts": (Mount("volume", "x\n", "/a"),)},
    "security option": {"security_opt": ("selinux=x",)},
    "value of a security option": {"security_opt": ("no-new-privileges:perhaps",)},
    "systempaths": {"security_opt": ("systempaths=confined",)},
    "seccomp profile that is not there": {"security_opt": ("seccomp=/nonexistent.json",)},
    "seccomp profile without a path": {"security_opt": ("seccomp=",)},
    "shm below 0": {"shm_size": -1},
    "no shm": {"shm_size": 0},
    "hostname with a line": {"hostname": "a\n1.2.3.4 registry.example.org"},
    "hostname with a line at its end": {"hostname": "a\n"},
    "hostname with a blank": {"hostname": "a b"},
    "long hostname": {"hostname": "a" * 65},
    "hostname that begins with a hyphen": {"hostname": "-a"},
    "domain name": {"domainname": "a b"},
    "zero byte in the environment": {"env": ("A=\0",)},
    "half a surrogate in the environment": {"env": ("A=\ud800",)},
    "variable without a value": {"env": ("PATH",)},
    "variable without a name": {"env": ("=x",)},
    "zero byte in the command": {"command": ("echo", "\0")},
    "empty command": {"command": ("",)},
    "zero byte in a label": {"labels": {"a": "\0"}},
    "label without a name": {"labels": {"": "x"}},
    "restart policy": {"restart": RestartPolicy("sometimes")},
    "tries of always": {"restart": RestartPolicy("always", 3)},
    "tries below 0": {"restart": RestartPolicy("on-failure", -1)},
    "restart and removal": {"restart": RestartPolicy("always"), "auto_remove": True},
    "interval below 0": {"healthcheck": Healthcheck(SHELL, interval=-1.0)},
    "interval of a microsecond": {"healthcheck": Healthcheck(SHELL, interval=1e-6)},
    "interval that is no number": {"healthcheck": Healthcheck(SHELL, interval=float("nan"))},
    "endless timeout": {"healthcheck": Healthcheck(SHELL, timeout=float("inf"))},
    "start period below 0": {"healthcheck": Healthcheck(SHELL, start_period=-1.0)},
    "retries below 0": {"healthcheck": Healthcheck(SHELL, retries=-1)},
    "check without a line": {"healthcheck": Healthcheck(("CMD-SHELL",))},
    "check of an unknown kind": {"healthcheck": Healthcheck(("HTTP", "/"))},
    "interval without a check": {"healthcheck": Healthcheck(interval=5.0)},
    "processes": limits(pids_limit=-2),
    "little memory": limits(memory=4096),
    "memory below 0": limits(memory=-1),
    "memory beyond numbers": limits(memory=1 << 70),
    "swap without memory": limits(memory_swap=64 * MIB),
    "swap below memory": limits(memory=64 * MIB, memory_swap=32 * MIB),
    "reservation above the limit": limits(memory=64 * MIB, memory_reservation=128 * MIB),
    "cpus below 0": limits(nano_cpus=-1),
    "too little of a cpu": limits(nano_cpus=1),
    "cpus and a quota": limits(nano_cpus=10**9, cpu_quota=50_000),
    "period": limits(cpu_period=10),
    "quota": limits(cpu_quota=-2),
    "shares": limits(cpu_shares=-1),
    "list of cpus": limits(cpuset_cpus="all"),
    "cpus that are not there": limits(cpuset_cpus="0,4000"),
    "nodes that are not there": limits(cpuset_mems="1000"),
    "ulimit": {"ulimits": ("nofile=much",)},
    "ulimit below 0": {"ulimits": ("nofile=-5",)},
    "ulimit beyond numbers": {"ulimits": (f"nofile={1 << 64}",)},
    "name server": {"dns": ("ns.example.org",)},
    "name server with a line": {"dns": ("fe80::1%a\nsearch x",)},
    "extra host": {"extra_hosts": ("db",)},
    "extra host with a line": {"extra_hosts": ("db\nx:192.0.2.7",)},
    "extra host with a line behind it": {"extra_hosts": ("db:fe80::1%a\n192.0.2.7 x",)},
    "gateway without a network": {"extra_hosts": ("db:host-gateway",), "network": "none"},
    "name": {"name": "a b"},
    "name with a line": {"name": "box\n"},
    "stop signal": {"stop_signal": "NOPE"},
    "stop timeout": {"stop_timeout": float("nan")},
    "stop timeout below 0": {"stop_timeout": -1.0},
    "log files": {"log": LogOptions(max_files=0)},
    "log size": {"log": LogOptions(max_size=-1)},
    "port out of range": {"ports": (PortMapping(70000),)},
    "protocol": {"ports": (PortMapping(80, protocol="icmp"),)},
    "address of a port": {"ports": (PortMapping(80, host_ip="everywhere"),)},
    "one host port for two": {"ports": (PortMapping(80, 8099), PortMapping(81, 8099))},
    "many ports": {"ports": tuple(PortMapping(number) for number in range(1, 10_500))},
    "ports without a network": {"ports": (PortMapping(80),), "network": "none"},
}


def leftovers(inst: Instance) -> list[str]:
    """What a creation could have left."""
    places = [inst.root / name for name in ("containers", "volumes", "trash")]
    places += [inst.run / name for name in ("journal", "c", "locks")]
    return [str(path) for place in places if place.exists() for path in place.iterdir()]


async def test_bad_input_is_refused_by_create(engine: Engine, busybox_image: str, inst: Instance) -> None:
    plain = ContainerSpec(busybox_image, command=("true",))
    before = leftovers(inst)
    wrong = []
    for kind, fields in BAD.items():
        try:
            await engine.create(replace(plain, **fields))
        except errors.InvalidArgument as error:
            if not (error.what and error.why):
                wrong.append(f"{kind}: not explained: {error}")
        except Exception as error:
            wrong.append(f"{kind}: {type(error).__name__}: {error}")
        else:
            wrong.append(f"{kind}: accepted")
    assert wrong == []
    assert await engine.containers() == []
    assert leftovers(inst) == before


async def test_a_taken_name_leaves_nothing(engine: Engine, busybox_image: str, inst: Instance) -> None:
    spec = ContainerSpec(busybox_image, name="box", command=("true",), mounts=(Mount("volume", "data", "/a"),))
    await engine.create(spec)
    before = leftovers(inst)
    with pytest.raises(errors.NameTaken):
        await engine.create(spec)
    assert leftovers(inst) == before


async def test_good_input_is_taken(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    """The edges of what is refused."""
    spec = ContainerSpec(
        busybox_image,
        command=("sh", "-c", "hostname; echo $A; cat /proc/sys/net/ipv4/ip_default_ttl; ulimit -n; pwd"),
        hostname="a_b." + "c" * 60,
        env=("A==\udcff",),
        working_dir="//tmp/./x/..",
        sysctls={"net.ipv4.ip_default_ttl": "65"},
        ulimits=("nofile=64:128", "core=-1"),
        mounts=(*tmpfs("//data", "size=1m", "mode=0700"), Mount("bind", str(tmp_path), "/b", False, ("rslave",))),
        healthcheck=Healthcheck(SHELL, interval=0.001),
        resources=Resources(memory=6 * MIB, memory_swap=-1, cpuset_cpus="0", nano_cpus=10_000_000, pids_limit=-1),
        security_opt=("no-new-privileges:true",),
        stop_timeout=0.0,
        dns=("192.0.2.53", "fe80::1%eth0"),
        extra_hosts=("db=host-gateway", "six:2001:db8::1"),
        ports=tuple(PortMapping(number) for number in range(1, 101)),
    )
    box = await engine.create(replace(spec, resources=replace(spec.resources, memory=64 * MIB, nano_cpus=10**9)))
    await engine.start(box.id)
    assert await engine.wait(box.id) == 0
    lines = [line.text async for line in engine.logs(box.id)]
    assert lines == [spec.hostname, "=\udcff", "65", "64", "/tmp"]
    await engine.create(spec)


async def test_commands_inside_are_checked(engine: Engine, busybox_image: str) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "60")))
    await engine.start(box.id)
    for fields in ({"env": ("PATH",)}, {"env": ("A=\0",)}, {"working_dir": "a"}, {"user": "1 0"}):
        with pytest.raises(errors.InvalidArgument):
            await engine.exec(box.id, ExecSpec(("true",), **fields))


IMAGES: dict[str, dict[str, Any]] = {
    "stop signal": {"StopSignal": "SIGNOPE"},
    "user": {"User": "0x0"},
    "folder": {"WorkingDir": "a/b"},
    "empty command": {"Cmd": [""]},
    "check without a line": {"Healthcheck": {"Test": ["CMD-SHELL"]}},
    "check all the time": {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1}},
    "retries": {"Healthcheck": {"Test": ["CMD", "true"], "Retries": -5}},
}


async def test_what_an_image_says_is_checked_too(engine: Engine, tmp_path: Path, inst: Instance) -> None:
    for config in IMAGES.values():
        ref = await load(engine, tmp_path, *base(), config={"Cmd": ["true"], **config})
        before = leftovers(inst)
        with pytest.raises(errors.InvalidArgument):
            await engine.create(ContainerSpec(ref))
        assert leftovers(inst) == before


async def test_a_users_word_stands_over_the_images_check(engine: Engine, tmp_path: Path) -> None:
    """Field by field, as in Docker."""
    check = {"Test": ["CMD", "true"], "Interval": 7_000_000_000, "Retries": 5}
    ref = await load(engine, tmp_path, *base(), config={"Cmd": ["sleep", "9"], "Healthcheck": check})
    box = await engine.create(ContainerSpec(ref, healthcheck=Healthcheck(timeout=2.0, retries=1)))
    config = (await engine.inspect(box.id))["Config"]
    assert isinstance(config, dict)
    found = {"Test": ["CMD", "true"], "Interval": 7 * 10**9, "Timeout": 2 * 10**9, "StartPeriod": 0, "Retries": 1}
    assert config["Healthcheck"] == found
    # One that no container could have can be switched off.
    ref = await load(engine, tmp_path, *base(), config={"Cmd": ["true"], "Healthcheck": {"Test": ["HTTP"]}})
    await engine.create(ContainerSpec(ref, healthcheck=Healthcheck(("NONE",))))


async def test_ports_that_an_image_exposes(engine: Engine, tmp_path: Path) -> None:
    ports: dict[str, Any] = {"80": {}, "80/TCP": {}, "8000-8002/udp": {}, "9000/tcp": {}, "81/sctp": {}}
    ref = await load(engine, tmp_path, *base(), config={"Cmd": ["true"], "ExposedPorts": ports})
    box = await engine.create(ContainerSpec(ref, publish_all=True, ports=(PortMapping(9000, 0),)))
    found = {(port.container_port, port.protocol) for port in box.spec.ports}
    assert found == {(80, "tcp"), (8000, "udp"), (8001, "udp"), (8002, "udp"), (9000, "tcp"), (81, "sctp")}
    assert len(box.spec.ports) == 6
    ref = await load(engine, tmp_path, *base(), config={"Cmd": ["true"], "ExposedPorts": {"1-65535/tcp": {}}})
    await engine.create(ContainerSpec(ref))
    with pytest.raises(errors.InvalidArgument):
        await engine.create(ContainerSpec(ref, publish_all=True))


REFUSED: dict[str, dict[str, Any]] = {
    "port that is a word": {"ExposedPorts": {"abc/tcp": {}}},
    "port 0": {"ExposedPorts": {"0/tcp": {}}},
    "port out of range": {"ExposedPorts": {"65536/tcp": {}}},
    "range the wrong way": {"ExposedPorts": {"9-8/tcp": {}}},
    "user 0 as a number": {"User": 0},
    "environment in one text": {"Env": "A=b"},
    "half a surrogate": {"Env": ["A=\ud800"]},
    "healthcheck of numbers": {"Healthcheck": {"Test": ["CMD", 1]}},
    "healthcheck in one text": {"Healthcheck": {"Test": "true"}},
    "healthcheck is a list": {"Healthcheck": ["CMD", "true"]},
    "interval is a text": {"Healthcheck": {"Test": ["CMD", "true"], "Interval": "30s"}},
    "interval is a fraction": {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1e300}},
    "retries are many": {"Healthcheck": {"Test": ["CMD", "true"], "Retries": 1 << 70}},
    "command is false": {"Cmd": False},
}


async def test_wrong_types_are_refused_when_the_image_comes(engine: Engine, tmp_path: Path) -> None:
    wrong = []
    for kind, config in REFUSED.items():
        try:
            await load(engine, tmp_path, *base(), config={"Cmd": ["true"], **config})
            wrong.append(kind)
        except errors.Corrupt:
            pass
    assert wrong == []
    assert await engine.images() == []


def unmount(place: Path) -> None:
    """What makes layers durable runs on for a moment after the engine is closed."""
    assert soon(lambda: not subprocess.run(["umount", place], check=False, capture_output=True).returncode, 60)


async def test_a_full_disk_is_said(tmp_path: Path, archive: Path) -> None:
    """What the operating system refuses is one of the engine's errors, with what to do."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True)
    inst = find_instance(disk / "root", tmp_path / "run")
    engine = await LocalEngine.open(inst.root, inst.run)
    try:
        async for _ in engine.load(archive):
            pass
        spec = ContainerSpec("busybox:test", command=("true",), env=("A=" + "x" * 100_000,))
        box = await engine.create(spec)
        with contextlib.suppress(OSError), open(disk / "fill", "wb", 0) as fill:
            while True:
                fill.write(bytes(4096))
        for attempt in (engine.create(spec), engine.start(box.id)):
            with pytest.raises(errors.NoSpace, match="the disk is full") as caught:
                await attempt
            assert caught.value.fix
        (disk / "fill").unlink()
        assert [each.id for each in await engine.containers()] == [box.id]
        assert [path.name for path in (inst.root / "containers").iterdir()] == [box.id]
    finally:
        await engine.close()
        await end_instance(inst)
        unmount(disk)
