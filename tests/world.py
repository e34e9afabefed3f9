"""The oracle of every engine test: what the kernel holds for an instance equals what its database says.

``assert_world(inst)`` opens the two databases read-only, looks at the kernel with tools that the engine does not use
(``/proc``, ``ip``, ``nft``), and fails with every difference at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path

from core.net import spare
from core.store.paths import Instance
from tests.patience import patience


def _rows(path: Path, sql: str) -> list[sqlite3.Row]:
    if not path.exists():
        return []
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    con.row_factory = sqlite3.Row
    try:
        return con.execute(sql).fetchall()
    finally:
        con.close()


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def _mounts(inst: Instance) -> list[str]:
    """Mounts in the host's namespace below the instance's folders."""
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [place for place in places if place.startswith((f"{inst.root}/", f"{inst.run}/"))]


def _interfaces() -> list[str]:
    """Of the calling thread's namespace (which is not always the one that /sys/class/net shows)."""
    return [name for _, name in socket.if_nameindex()]


def _links(inst: Instance) -> list[str]:
    """The host's ends of veth pairs, without those that an engine that is open has made ahead: in a group of theirs."""
    found = {name for name in _interfaces() if name.startswith(inst.link_prefix)}
    if any(name.startswith(f"{inst.link_prefix}s") for name in found):
        found -= made_ahead(inst)
    return sorted(found)


def made_ahead(inst: Instance) -> set[str]:
    """The host's ends of veth pairs that wait for a container (:mod:`core.net.spare`), by another tool's eyes."""
    shown = json.loads(_run("ip", "-j", "link", "show", "group", str(spare.GROUP)) or "[]")
    return {name for link in shown if (name := link.get("ifname", "")).startswith(inst.link_prefix)}


def _bridges(inst: Instance) -> set[str]:
    """The ids by which bridges of further networks, and the host's own interfaces on them, are called."""
    return {name[-6:] for name in _interfaces() if name.startswith((inst.bridge_prefix, inst.shim_prefix))}


def _cgroups(inst: Instance) -> set[str]:
    """Container cgroups in any hierarchy."""
    specs = [json.loads(row["spec"]) for row in _rows(inst.root / "wharf.db", "SELECT spec FROM container")]
    parents = {spec["cgroup_parent"] for spec in specs if spec.get("cgroup_parent")}
    found = set()
    for base in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]:
        for parent in (inst.cgroup, *parents):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # not there, or not any more
                names = {path.name for path in (base / parent).iterdir() if path.is_dir()}
                # Others may have groups below a parent that a user has named; ours are those of ids.
                found |= names if parent == inst.cgroup else {name for name in names if len(name) == 64}
    return found


def processes(inst: Instance) -> dict[int, str]:
    """Pids of monitors and launchers of the instance, with their command lines."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(inst.run) in line and int(path.name) != os.getpid():
                found[int(path.name)] = line
    return found


def _monitors(inst: Instance) -> dict[int, str]:
    """Monitors that hold a file of the instance open, with the container's id from their title."""
    found = {}
    ours = (f"{inst.root}/", f"{inst.run}/")
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            title = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
            if title[0] == "wharf-monitor" and any(link.startswith(ours) for link in _links_of(path)):
                found[int(path.name)] = title[1]
        except (OSError, IndexError):  # gone; or a kernel thread, which has no title
            continue
    return found


def _links_of(process: Path) -> list[str]:
    links = []
    for fd in (process / "fd").iterdir():
        try:
            links.append(os.readlink(fd))
        except FileNotFoundError:
            continue
    return links


def open_files() -> Counter[str]:
    """What this process has open, by descriptor; the one used for looking left out."""
    return Counter(link for link in _links_of(Path("/proc/self")) if not link.startswith("/proc/"))


def _alive(pid: int, start: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and int(fields[19]) == start


def _live(inst: Instance) -> tuple[set[str], set[str]]:
    """Ids of containers that run or will run again, and of those that run now, by what their monitors wrote."""
    live, running = set(), set()
    for path in (inst.run / "c").glob("*/state.json") if inst.run.exists() else ():
        try:
            state = json.loads(path.read_text())
        except FileNotFoundError:  # it has just ended
            continue
        if _alive(state["pid"], state["pid_start"]):
            running.add(path.parent.name)
        elif not _alive(state["monitor_pid"], state["monitor_start"]):
            continue
        live.add(path.parent.name)
    return live, running


def _nft_ports(inst: Instance) -> set[tuple[str, int]]:
    """(protocol, host port) of every element of the instance's port maps."""
    text = _run("nft", "-j", "list", "table", "inet", inst.nft_table)
    found = set()
    for item in json.loads(text or '{"nftables": []}')["nftables"]:
        for key, _ in item.get("map", {}).get("elem", []):
            parts = key.get("concat", []) if isinstance(key, dict) else []
            if len(parts) >= 2 and isinstance(parts[-1], int):
                found.add((str(parts[-2]), parts[-1]))
    return found


def _overlaps(inst: Instance) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges of ids that two containers have, other than those that have agreed to share one (``--userns remap``)."""
    rows = _rows(inst.root / "wharf.db", "SELECT spec, config FROM container")
    held = [(json.loads(row["spec"]).get("userns"), json.loads(row["config"]).get("ids")) for row in rows]
    shared = {tuple(ids) for word, ids in held if ids and word == "remap"}
    spans = sorted([*shared, *(tuple(ids) for word, ids in held if ids and word != "remap")])
    return [(one, two) for one, two in itertools.pairwise(spans) if one[0] + one[1] > two[0]]


def _names(inst: Instance) -> list[str]:
    """What resolvers say that is not so: addresses in the files of networks, and who has a file of his own."""
    wrong = []
    ends = [json.loads(row["info"]) for row in _rows(inst.run / "run.db", "SELECT info FROM endpoint")]
    for network in {end["network_id"] for end in ends if end["network"] != "bridge"}:
        path = inst.run / "dns" / f"{network}.json"
        names = json.loads(path.read_text())["names"] if path.exists() else {}
        told = {address for addresses in names.values() for address in addresses}
        known = {end[key] for end in ends if end["network_id"] == network for key in ("ip", "ip6") if end.get(key)}
        if told != known:
            wrong.append(f"network {network[:12]}: addresses {sorted(known)}, but names for {sorted(told)}")
    owners = {row["container"] for row in _rows(inst.run / "run.db", "SELECT container FROM endpoint")}
    files = {path.name[2:-5] for path in (inst.run / "dns").glob("c-*.json")}
    if files - owners:
        wrong.append(f"names for containers without a network: {files - owners}")
    return wrong


def differences(inst: Instance) -> list[str]:
    """What the kernel holds and the database does not know, and the other way round."""
    wrong = []
    live, running = _live(inst)
    known = {row["id"] for row in _rows(inst.root / "wharf.db", "SELECT id FROM container")}
    folders = {path.name for path in (inst.root / "containers").iterdir()} if inst.root.exists() else set()
    if folders != known:
        wrong.append(f"container folders without a row: {folders - known}; rows without a folder: {known - folders}")
    if overlaps := _overlaps(inst):
        wrong.append(f"containers with the same ids: {overlaps}")
    if live - known:
        wrong.append(f"running but unknown: {live - known}")
    runs = {path.name for path in (inst.run / "c").iterdir()} if inst.run.exists() else set()
    if runs != live:
        wrong.append(f"run folders {runs} but live {live}")
    if mounts := _mounts(inst):
        wrong.append(f"mounts in the host's namespace: {mounts}")
    if (groups := _cgroups(inst)) - live:
        wrong.append(f"cgroups left: {groups - live}")
    if running - groups:
        wrong.append(f"running without a cgroup: {running - groups}")
    ends = {row["interface"] for row in _rows(inst.run / "run.db", "SELECT interface FROM endpoint")}
    if set(_links(inst)) != {end for end in ends if end}:
        wrong.append(f"links {_links(inst)} but endpoints {sorted(ends)}")
    networks = {row["id"][:6] for row in _rows(inst.root / "wharf.db", "SELECT id FROM network")}
    if lost := _bridges(inst) - networks:
        wrong.append(f"bridges of networks that there are not: {lost}")
    for table in ("lease", "endpoint", "port"):
        holders = {row["container"] for row in _rows(inst.run / "run.db", f"SELECT container FROM {table}")}
        if holders - live:
            wrong.append(f"{table} rows of containers that do not run: {holders - live}")
    ports = {
        (row["protocol"], row["host_port"])
        for row in _rows(inst.run / "run.db", "SELECT protocol, host_port FROM port WHERE host_ip != '::1'")
    }
    if _nft_ports(inst) != ports:
        wrong.append(f"nft port elements {_nft_ports(inst)} but port rows {ports}")
    wrong += _names(inst)
    if strays := {pid: cid for pid, cid in _monitors(inst).items() if cid not in live}:
        wrong.append(f"monitors of containers that do not run: {strays}")
    journals = list((inst.run / "journal").iterdir()) if inst.run.exists() else []
    if journals:
        wrong.append(f"journals left: {[path.name for path in journals]}")
    return wrong


def assert_world(inst: Instance, seconds: float = 20.0) -> None:
    """Fail with every difference between kernel and database that does not go away within ``seconds``.

    Some must be given a moment: the kernel takes a network namespace apart in the background, and monitors of
    containers that have just ended are on their way out.
    """
    end = time.monotonic() + patience(seconds)
    while wrong := differences(inst):
        assert time.monotonic() < end, "\n".join(wrong)
        time.sleep(0.05)


def carriers(uid: int) -> dict[int, str]:
    """Pids of what carries the traffic of an ordinary user's containers, with their command lines: the uplink, pasta
    or slirp4netns, proxies."""
    found = {}
    for path in Path("/proc").iterdir():
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            owner = (path / "status").read_text().split("\nUid:\t")[1].split()[0]
        except (OSError, IndexError):
            continue
        name = line.split(" ")[0].rpartition("/")[2]
        if int(owner) == uid and (
            name in ("pasta", "pasta.avx2", "slirp4netns") or line.startswith(("wharf-uplink", "wharf-proxy"))
        ):
            found[int(path.name)] = line
    return found
