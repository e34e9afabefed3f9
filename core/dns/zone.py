"""The names of a container's networks. Engines write them to files, and replace those by renaming::

    RUN/dns/NETWORK-ID.json      {"name": "backend", "internal": false, "names": {"db": ["172.28.0.2", "fd00::2"], …}}
    RUN/dns/c-CONTAINER-ID.json  {"networks": [id, …], "servers": ["192.0.2.53", …], "links": {"alias": "db"},
                                  "hosts": {"name": ["192.0.2.7"]}}

``networks`` stand in the order of their priority: of two with the same name, the first has it. The first name of an
address is the one that is told for it (PTR). Without ``servers`` the host's are asked, as they are at that moment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar, cast

from core.dns import wire

T = TypeVar("T")
Records = dict[int, list[bytes]]  # type → records of one name, ready for an answer
Names = dict[str, list[str]]

HOST = "/etc/resolv.conf"
_MOST_SERVERS = 8
# After a change of a folder its time may stand still for as long as a tick of the kernel's clock, 10 ms at most: what
# else happens in it meanwhile does not show.
_SETTLED = 50_000_000  # ns


def folder(run: str) -> str:
    """Where the files of networks are. :param run: the instance's run folder"""
    return os.path.join(run, "dns")


def network_file(run: str, network: str) -> str:
    return os.path.join(folder(run), f"{network}.json")


def container_file(run: str, cid: str) -> str:
    """Not in the container's run folder: its monitor empties that while the engine is already writing."""
    return os.path.join(folder(run), f"c-{cid}.json")


class Watched(Generic[T]):
    """What a file says, read again when it has been replaced.

    :param value: as long as there is no such file
    :param read: makes the value of the content; where it raises ValueError the last value stays
    """

    def __init__(self, path: str, value: T, read: Callable[[bytes], T]) -> None:
        self.path = path
        self.value = value
        self._empty = value
        self._read = read
        self._seen: tuple[int, int, int] | None = None

    def refresh(self) -> bool:
        """True where the value may be another one now."""
        try:
            status = os.stat(self.path)
        except OSError:
            if self._seen is None:
                return False
            self._seen, self.value = None, self._empty
            return True
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return False
        # Noted before it is read: what is put in its place meanwhile is seen the next time.
        self._seen = seen
        try:
            with open(self.path, "rb") as file:
                self.value = self._read(file.read())
        except (OSError, ValueError):
            return False
        return True


class Zone:
    """What one container may ask for.

    :param run: the instance's run folder
    :param host: resolv.conf of the host
    """

    def __init__(self, run: str, cid: str, *, host: str = HOST) -> None:
        self._run = run
        self._folder = -1  # descriptor: to look through it takes half the time that a path does
        self._stamp = 0  # of the folder, when all of its files that we need had been looked at
        self._own: Watched[dict[str, object]] = Watched(container_file(run, cid), {}, _object)
        self._networks: list[Watched[dict[str, object]]] = []
        self._host: Watched[list[str]] = Watched(host, [], _nameservers)
        self._records: dict[bytes, Records] = {}
        self._servers: list[str] = []
        self.forwards = False  # does any of its networks lead out?
        self.version = 0  # counts the changes of all that

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def refresh(self) -> None:
        """See what engines have changed; before each question. It takes a microsecond where they have not."""
        stamp = self._look()
        if stamp == self._stamp and stamp:
            return
        # All of them, not as far as the first that has changed.
        changed = [watched.refresh() for watched in (self._own, *self._networks)]
        if any(changed):
            self._open_networks()
            self._build()
        # The stamp is from before the files: what has been put there since moves it again.
        self._stamp = stamp if time.time_ns() - stamp > _SETTLED else 0

    def _look(self) -> int:
        """When the folder has been changed, in ns; 0: it is not there."""
        if self._folder >= 0:
            status = os.stat(self._folder)
            if status.st_nlink:
                return status.st_mtime_ns
            self.close()  # it has been removed; perhaps there is another one
        try:
            self._folder = os.open(folder(self._run), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return 0
        return os.stat(self._folder).st_mtime_ns

    def _open_networks(self) -> None:
        known = {network.path: network for network in self._networks}
        self._networks = []
        for each in _texts(self._own.value.get("networks")):
            path = network_file(self._run, os.path.basename(each))
            network = known.get(path) or Watched[dict[str, object]](path, {}, _object)
            network.refresh()
            self._networks.append(network)

    def find(self, name: bytes) -> Records | None:
        """The records of a name as on the wire, in lower case; None where it is none of ours."""
        return self._records.get(name)

    @property
    def servers(self) -> list[str]:
        """Whom to ask for other names."""
        if self._servers:
            return self._servers
        self._host.refresh()
        return self._host.value

    def _build(self) -> None:
        self._records = {}
        self.version += 1
        own, networks = self._own.value, [network.value for network in self._networks]
        # Links and hosts first: the container's own words count more than what others are called.
        by_name: dict[str, list[str]] = {}
        for network in networks:
            for name, addresses in _lists(network.get("names")).items():
                by_name.setdefault(name, addresses)
        for name, addresses in _lists(own.get("hosts")).items():
            self._add((name,), addresses, pointers=False)
        for alias, name in _pairs(own.get("links")).items():
            self._add((alias,), by_name.get(name, []), pointers=False)
        for network in networks:
            for name, addresses in _lists(network.get("names")).items():
                title = network.get("name")
                self._add((name, f"{name}.{title}") if title else (name,), addresses)
        self._servers = _texts(own.get("servers"))[:_MOST_SERVERS]
        # A network that nobody has told us about may be an internal one.
        self.forwards = any(network and not network.get("internal") for network in networks)

    def _add(self, names: tuple[str, ...], addresses: Iterable[str], *, pointers: bool = True) -> None:
        records: Records = {}
        coded = [as_asked for each in names if (as_asked := _asked(each))]
        if not coded:
            return
        for text in addresses:
            try:
                kind, value = wire.address(text)
            except ValueError:
                continue
            records.setdefault(kind, []).append(wire.record(kind, value))
            if pointers:
                self._records.setdefault(wire.reverse(value), {wire.PTR: [wire.record(wire.PTR, coded[-1])]})
        if records:
            for name in coded:
                self._records.setdefault(name, records)


def choose(records: Records, kind: int) -> list[bytes]:
    """The records of a type, the first of them another one each time."""
    if kind == wire.ANY:
        return [record for found in records.values() for record in found]
    found = records.get(kind, [])
    if len(found) > 1:
        found.append(found.pop(0))
    return found


def _asked(name: str) -> bytes:
    """A name as a question has it; empty for what none can have."""
    try:
        return wire.name(name)
    except ValueError:
        return b""


def _object(data: bytes) -> dict[str, object]:
    """:raises ValueError: not a JSON object"""
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return cast("dict[str, object]", value)


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _lists(value: object) -> Names:
    return {name: _texts(items) for name, items in value.items()} if isinstance(value, dict) else {}


def _pairs(value: object) -> dict[str, str]:
    return {key: item for key, item in value.items() if isinstance(item, str)} if isinstance(value, dict) else {}


def _nameservers(data: bytes) -> list[str]:
    """The servers of a resolv.conf(5)."""
    lines = [line.split() for line in data.decode(errors="replace").splitlines()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"][:_MOST_SERVERS]
