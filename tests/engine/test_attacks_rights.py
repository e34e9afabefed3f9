"""Whose rights has a process of the runtime while others can see it already, and what does it hold?

Attacks on those that come in: on a joining process, on one that waits for its start, by hooks of an image, by the
program that the runtime is itself. Through the engine and through ``wharf runtime``.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, Mount
from tests import attacks
from tests.conftest import needs_root
from tests.engine.test_attacks import DEFAULT_CAPABILITIES, execute, fingerprint
from tests.engine.test_attacks_image import base, load
from tests.engine.test_lifecycle import output, run, sleeper
from tests.engine.test_oci_config import mounting, namespaced
from tests.images import member, symlink
from tests.oci import Config, Runtime, save
from tests.patience import patience
from tests.seccomp_lab import Agent, profile

pytestmark = needs_root
SYS_PTRACE = 1 << 19
TEMPLATE_CAPS = 1 << 5 | 1 << 10 | 1 << 29  # KILL, NET_BIND_SERVICE, AUDIT_WRITE
FILTER = profile("SCMP_ACT_ALLOW", {"names": ["acct"], "action": "SCMP_ACT_ERRNO"})


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``attack_spy`` and ``attack_loader``."""
    folder = tmp_path_factory.mktemp("programs")
    attacks.compiled(folder, "attack_spy")
    attacks.compiled(folder, "attack_loader", attacks.LOADER)
    return folder


@pytest.fixture
def spy(programs: Path) -> Mount:
    return Mount("bind", str(programs), "/x", read_only=True)


def detached(runtime: Runtime, cid: str, config: Config, verb: str = "run") -> None:
    """A container in the background; with ``create`` it waits for its start."""
    save(runtime.base / cid, config)
    words = ["--detach"] if verb == "run" else []
    runtime.good(verb, *words, "--bundle", runtime.base / cid, cid, stdout=subprocess.DEVNULL)


def tracing(config: Config) -> Config:
    """With CAP_SYS_PTRACE."""
    for names in config["process"]["capabilities"].values():
        names.append("CAP_SYS_PTRACE")
    return config


def no_findings(lines: list[str]) -> None:
    """The spy has seen something before it was the command, and has found nothing."""
    assert int(lines[-1].split()[3]) > 0, lines
    assert [line for line in lines if line.startswith(("power", "stolen"))] == []


@pytest.mark.parametrize("options", [(), ("no-new-privileges",)])
async def test_a_joining_process_has_no_more_rights_than_the_command(
    engine: Engine, busybox_image: str, spy: Mount, options: tuple[str, ...]
) -> None:
    """CVE-2016-9962: who has CAP_SYS_PTRACE can take it, so nothing may be had by that. Neither rights nor files."""
    watch = ("/x/attack_spy", "spy", "2", f"{DEFAULT_CAPABILITIES | SYS_PTRACE:x}", "2")
    box = await engine.create(
        ContainerSpec(busybox_image, command=watch, mounts=(spy,), cap_add=("SYS_PTRACE",), security_opt=options)
    )
    await engine.start(box.id)
    waiting = asyncio.create_task(engine.wait(box.id))
    while not waiting.done():
        try:
            await execute(engine, box.id, "true")
        except (errors.WharfError, OSError):
            break  # it has just ended
    await waiting
    no_findings(await output(engine, box.id))


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_the_same_through_the_command_line(runtime: Runtime, programs: Path, no_new_privs: bool) -> None:
    allowed = f"{TEMPLATE_CAPS | SYS_PTRACE:x}"
    folder, config = runtime.bundle("box", "/x/attack_spy", "spy", "3", allowed, "2", noNewPrivileges=no_new_privs)
    mounting("/x", "bind", programs, "bind")(tracing(config))
    config["linux"]["seccomp"] = FILTER
    save(folder, config)
    with (runtime.base / "out").open("w") as file:
        box = subprocess.Popen(runtime.argv("run", "--bundle", folder, "box"), stdout=file)
    while box.poll() is None:
        runtime.call("exec", "box", "true")
    no_findings((runtime.base / "out").read_text().splitlines())


def inner_pid(pid: int) -> int:
    """Of a process in its own pid namespace."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


@pytest.mark.parametrize(("no_new_privs", "uid"), [(True, 0), (False, 1000)])
def test_who_waits_at_the_gate_has_no_more_rights_than_the_command(
    runtime: Runtime, programs: Path, no_new_privs: bool, uid: int
) -> None:
    """A created container may wait for days in a pid namespace that it shares with one that may trace."""
    _, config = runtime.bundle("spy", "sleep", "100")
    mounting("/x", "bind", programs, "bind")(tracing(config))
    detached(runtime, "spy", config)
    shared = namespaced({"type": "pid", "path": f"/proc/{runtime.state('spy')['pid']}/ns/pid"}, without=("pid",))
    for cid in ("box", "empty"):
        _, config = runtime.bundle(cid, "true", noNewPrivileges=no_new_privs, user={"uid": uid, "gid": uid})
        shared(config)
        config["linux"]["seccomp"] = FILTER
        if cid == "empty":
            del config["process"]  # it can be created, though never started
        detached(runtime, cid, config, "create")
        pid = inner_pid(runtime.state(cid)["pid"])
        lines = runtime.good("exec", "spy", "/x/attack_spy", "victim", str(pid)).splitlines()
        found = dict(line.split(" ", 1) for line in lines)
        assert found["name"] == "wharf-runtime"
        assert int(found["held"], 16) == (TEMPLATE_CAPS if cid == "box" else 0)
        assert found["seccomp"] == "2"
        assert [line for line in lines if line.startswith("stolen")] == [f"stolen {fd} of {pid}" for fd in range(3)]
        assert "socket" in found  # the gate: it could really look
        assert found["cwd"] == "/"
        assert found["exe"] in ("Read-only file system", "Text file busy")
    runtime.good("start", "box")


def test_hooks_of_the_image_have_no_more_rights_than_the_command(runtime: Runtime) -> None:
    """``startContainer`` hooks are programs of the image (config.md): with all rights they could do anything."""
    look = "grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status; env; ls /proc/self/fd"
    notes = runtime.base / "notes"
    notes.mkdir(mode=0o777)
    notes.chmod(0o777)

    def change(config: Config) -> None:
        mounting("/data", "bind", notes, "bind")(config)
        hook = {"path": "/bin/sh", "args": ["sh", "-c", f"({look}) >/data/hook"], "env": ["PATH=/bin", "A=hook"]}
        config["hooks"] = {"startContainer": [hook]}
        config["linux"]["seccomp"] = FILTER
        config["process"]["env"] = ["PATH=/bin", "A=command"]

    done = runtime.run("box", "sh", "-c", look, change=change, user={"uid": 1000, "gid": 1000})
    command, hook = done.stdout.splitlines(), (notes / "hook").read_text().splitlines()
    assert command[:3] == ["Uid:\t1000\t1000\t1000\t1000", "Gid:\t1000\t1000\t1000\t1000", "Groups:\t "]
    rights = [line for line in command if "\t" in line]
    assert rights == [line for line in hook if "\t" in line]
    assert "Seccomp:\t2" in rights
    assert {line for line in hook if "=" in line and not line.startswith(("PWD", "SHLVL"))} == {"PATH=/bin", "A=hook"}
    assert [line for line in hook if line.isdigit()] == ["0", "1", "2", "3"]  # 3 is the folder that ls opens


# -- the runtime's own program
EVIL = {"link": symlink("evil", "/proc/self/exe"), "script": member("evil", data=b"#!/proc/self/exe\n", mode=0o755)}


def overwritten(text: str) -> bool:
    """Has the loader of the image been run for the host's program, and could it write that?"""
    lines = text.split("\n")
    assert lines[0].startswith("exe "), text
    assert "again" in lines, text
    return "WRITABLE" in text


@pytest.mark.parametrize("kind", EVIL)
async def test_the_loader_of_the_image_runs_for_the_hosts_program(
    engine: Engine, tmp_path: Path, programs: Path, kind: str
) -> None:
    """CVE-2019-5736, whole: the image's loader gets control in a process whose /proc/self/exe is the host's."""
    before, place = fingerprint(), attacks.loader_of_python()
    loader = member(place.lstrip("/"), data=(programs / "attack_loader").read_bytes(), mode=0o755)
    ref = await load(engine, tmp_path, *base(), EVIL[kind], loader)
    code, lines = await run(engine, ref, "/evil")
    assert code == 0
    assert not overwritten("\n".join(lines))
    cid = await sleeper(engine, ref)
    assert not overwritten((await execute(engine, cid, "/evil"))[1])
    assert fingerprint() == before


def test_the_loader_through_the_command_line(runtime: Runtime, programs: Path) -> None:
    before, place = fingerprint(), attacks.loader_of_python()
    _, config = runtime.bundle("box", "sleep", "100")
    rootfs = runtime.base / "box/rootfs"
    (rootfs / place.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    (rootfs / place.lstrip("/")).write_bytes((programs / "attack_loader").read_bytes())
    (rootfs / place.lstrip("/")).chmod(0o755)
    (rootfs / "evil").symlink_to("/proc/self/exe")
    assert overwritten(subprocess.run([programs / "attack_loader"], capture_output=True, text=True, check=True).stdout)
    detached(runtime, "box", tracing(config))
    assert not overwritten(runtime.good("exec", "box", "/evil"))
    runtime.good("delete", "--force", "box")
    assert not overwritten(runtime.run("box", "/evil").stdout)
    assert fingerprint() == before


# -- an agent's listener
@pytest.mark.parametrize("no_new_privs", [True, False])
def test_the_listener_goes_to_the_agent_alone(runtime: Runtime, no_new_privs: bool) -> None:
    """Who holds it may let every call pass: it must not be in the container, nor be lost on the way."""
    notify = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}
    agent = Agent(str(runtime.base / "agent"))
    agent.server.settimeout(patience(20))

    def bundle(path: Path, *argv: str) -> Config:
        _, config = runtime.bundle("box", *argv, noNewPrivileges=no_new_privs)
        config["linux"]["seccomp"] = profile("SCMP_ACT_ALLOW", notify, listenerPath=str(path))
        return config

    detached(runtime, "box", bundle(runtime.base / "agent", "sleep", "100"), "create")
    pid = runtime.state("box")["pid"]
    message = agent.take()
    assert (message["pid"], message["state"]["status"], message["state"]["id"]) == (pid, "creating", "box")
    runtime.good("start", "box")
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert [link for link in links if "seccomp" in link] == []
    runtime.good("delete", "--force", "box")
    os.close(agent.listener)
    agent.server.close()
    done = runtime.call("create", "--bundle", save(runtime.base / "box", bundle(runtime.base / "none", "true")), "box")
    assert done.returncode == 1
    assert "cannot hand the seccomp listener" in done.stderr


def test_the_image_does_not_choose_the_user(runtime: Runtime) -> None:
    """CVE-2026-53488: engines hand an image's annotations on; ours for words that are no numbers must not count."""
    words: dict[str, Any] = {"io.wharfinger.user": "root", "io.wharfinger.groups": "root,5"}

    def change(config: Config) -> None:
        config["annotations"] = words

    line = "id -u; id -G"
    assert runtime.run("box", "sh", "-c", line, change=change, user={"uid": 1000, "gid": 1000}).stdout == "1000\n1000\n"
    _, config = runtime.bundle("box", "sleep", "100", user={"uid": 1000, "gid": 1000}, annotations=words)
    change(config)
    detached(runtime, "box", config)
    assert runtime.state("box")["annotations"] == words
    assert runtime.good("exec", "box", "sh", "-c", line) == "1000\n1000\n"
