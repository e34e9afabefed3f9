"""The files from which resolvers answer (:mod:`core.dns.zone`), derived from the database: who is on which network, and
what it is called there.

They are written inside a write transaction of run.db, like the firewall: no two processes write at once, and each sees
what the others have put into the database, so that no name is lost. A process killed before its commit leaves a file
that is ahead of its rows; :func:`restore` makes it right.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.dns import zone
from core.dns.zone import Names
from core.model import EndpointInfo
from core.net import ipam, names, pools
from core.options import parse_link
from core.store.db import Database

_SHORT = 12  # digits of an id that are a name
_SPEC = """SELECT id, name, json_extract(config, '$.hostname') AS hostname, json_extract(spec, '$.dns') AS dns,
    json_extract(spec, '$.links') AS links, json_extract(spec, '$.extra_hosts') AS hosts,
    json_extract(spec, '$.networks') AS networks FROM container"""


def has_names(network: str) -> bool:
    """Do its containers know each other by name? Not on the default network, as in Docker."""
    return network != pools.DEFAULT


class Zones:
    """Of one instance.

    :param run: its run folder
    :param disk: wharf.db
    """

    def __init__(self, run: Path, disk: Database) -> None:
        self._run = str(run)
        self._disk = disk

    def concerns(self, cid: str, networks: Iterable[str]) -> bool:
        """Is a change of these endpoints (names of networks) one of names? Not of a container that has none."""
        return any(has_names(name) for name in networks) or os.path.exists(zone.container_file(self._run, cid))

    def update(self, con: sqlite3.Connection, cid: str, networks: Iterable[str] = ()) -> None:
        """After a change of a container's endpoints, or of its name: its own file, and those of its networks.

        :param con: run.db, in a write transaction
        :param networks: ids of those that it was on
        :raises OSError: no room in the run folder
        """
        for network in {*networks, *(end.network_id for end in _ends(con, cid))}:
            self._network(con, network)
        self._container(con, cid)

    def forget(self, network: str) -> None:
        """The network (its id) is gone."""
        Path(zone.network_file(self._run, network)).unlink(missing_ok=True)

    def restore(self, con: sqlite3.Connection) -> None:
        """All files, and no others. The same transaction."""
        ends: dict[str, list[EndpointInfo]] = {}
        for row in con.execute("SELECT * FROM endpoint").fetchall():
            ends.setdefault(row["container"], []).append(ipam.parse(row))
        served = {cid: own for cid, own in ends.items() if self.concerns(cid, [end.network for end in own])}
        networks = {end.network_id for own in served.values() for end in own}
        for network in networks:
            self._network(con, network)
        for cid in served:
            self._container(con, cid)
        wanted = {os.path.basename(zone.network_file(self._run, each)) for each in networks}
        wanted |= {os.path.basename(zone.container_file(self._run, cid)) for cid in served}
        folder = zone.folder(self._run)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name not in wanted:
                os.unlink(os.path.join(folder, name))

    def _network(self, con: sqlite3.Connection, network_id: str) -> None:
        network = pools.find(self._disk, network_id)
        rows = con.execute("SELECT * FROM endpoint WHERE network = ?", (network_id,)).fetchall()
        if network is None or not rows:
            self.forget(network_id)
            return
        found = self._names(rows) if has_names(network.name) else {}
        path = zone.network_file(self._run, network_id)
        _put(path, {"name": network.name, "internal": network.internal, "names": found})

    def _names(self, rows: list[sqlite3.Row]) -> Names:
        """Each container's own name stands first: that is what is told for its address."""
        specs = self._specs([row["container"] for row in rows])
        own: Names = {}
        others: Names = {}
        for row in rows:
            # Read as it is: to make an EndpointInfo of each takes fifty times as long, on every start.
            end, spec, short = json.loads(row["info"]), specs.get(row["container"]), row["container"][:_SHORT]
            called = str(spec["name"]) if spec else short
            also = {short, *end.get("aliases", ())} | ({str(spec["hostname"])} if spec and spec["hostname"] else set())
            also.discard(called)
            for table, words in ((own, [called]), (others, sorted(also))):
                for word in words:
                    table.setdefault(word.lower(), []).extend(end[key] for key in ("ip", "ip6") if end.get(key))
        for name, addresses in others.items():
            there = own.setdefault(name, [])
            there += [address for address in addresses if address not in there]
        return own

    def _specs(self, ids: list[str]) -> dict[str, sqlite3.Row]:
        marks = ",".join("?" * len(ids))
        return {row["id"]: row for row in self._disk.read(f"{_SPEC} WHERE id IN ({marks})", ids)}

    def _container(self, con: sqlite3.Connection, cid: str) -> None:
        """Of a container that is, or was in this run, on a network with names: then it has a resolver."""
        path = Path(zone.container_file(self._run, cid))
        ends = sorted(_ends(con, cid), key=lambda end: (-end.priority, len(end.name), end.name))
        if not ends or not (any(has_names(end.network) for end in ends) or path.exists()):
            path.unlink(missing_ok=True)
            return
        content: dict[str, Any] = {"networks": [end.network_id for end in ends]}
        if spec := self._specs([cid]).get(cid):
            gateway = next((end.gateway for end in ends if end.gateway), "")
            content["servers"] = json.loads(spec["dns"] or "[]")
            words = json.loads(spec["links"] or "[]")
            words += [word for end in json.loads(spec["networks"] or "[]") for word in end.get("links", ())]
            content["links"] = dict(self._link(word) for word in words)
            content["hosts"] = names.extra_addresses(json.loads(spec["hosts"] or "[]"), gateway)
        _put(str(path), content)

    def _link(self, word: str) -> tuple[str, str]:
        """(alias, name), in small letters; what the link names may be an id."""
        ref, alias = parse_link(word)
        rows = self._disk.read("SELECT name FROM container WHERE name = ? OR id = ?", (ref, ref))
        name = str(rows[0]["name"]) if rows else ref
        return (alias or name).lower(), name.lower()


def _ends(con: sqlite3.Connection, cid: str) -> list[EndpointInfo]:
    return [ipam.parse(row) for row in con.execute("SELECT * FROM endpoint WHERE container = ?", (cid,)).fetchall()]


def _put(path: str, content: object) -> None:
    """Aside, then renamed: a resolver sees the one or the other, whole."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    Path(f"{path}.new").write_text(json.dumps(content), encoding="utf-8")
    os.rename(f"{path}.new", path)
