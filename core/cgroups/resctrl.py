"""Intel RDT: cache and memory bandwidth, shared out by the processor (``linux.intelRdt``).

A class of service is a folder of the resctrl file system with a ``schemata`` file, one line per resource, and the
``tasks`` that run under it. Sources: config-linux.md, "IntelRdt"; Documentation/arch/x86/resctrl.rst.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from core.cgroups import files
from core.errors import Conflict, InvalidArgument, NotFound, Unsupported, WharfError


class Plan(NamedTuple):
    """What a configuration asks for: the class's name (empty: the root class), whether it must be there already, the
    lines for its ``schemata`` in their order, and whether a monitoring group is wanted."""

    name: str
    given: bool
    must_exist: bool
    lines: tuple[str, ...]
    monitor: bool


def plan(rdt: Mapping[str, Any], container: str) -> Plan:
    """Read ``linux.intelRdt``.

    :param container: its id, the name of a class that has none of its own
    :raises InvalidArgument: a name or a schema that is malformed
    """
    closid = rdt.get("closID") or ""
    lines = [rdt[key] for key in ("l3CacheSchema", "memBwSchema") if rdt.get(key)]
    lines += rdt.get("schemata") or ()
    for line in lines:
        if "\n" in line:
            raise InvalidArgument(f"invalid intelRdt schema {line!r}", "it has several lines", "Write one per resource")
    if rdt.get("memBwSchema") and not rdt["memBwSchema"].startswith("MB:"):
        raise InvalidArgument(
            f"invalid memBwSchema {rdt['memBwSchema']!r}", "it must start with MB:", "Write it like MB:0=20;1=70"
        )
    name = "" if closid == "/" else closid or container
    if closid != "/" and ("/" in name or name in (".", "..")):
        raise InvalidArgument(f"invalid closID {closid!r}", "it is the name of one folder", "Leave out / and ..")
    monitor = bool(rdt.get("enableMonitoring") or rdt.get("enableCMT") or rdt.get("enableMBM"))
    return Plan(name, bool(closid), bool(closid) and not lines, tuple(lines), monitor)


def mount_point(mountinfo: str) -> str:
    """Where a ``/proc/PID/mountinfo`` shows the resctrl file system; empty where it does not."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("resctrl "):
            return left.split(" ")[4]
    return ""


def _mounted() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        root = mount_point(file.read())
    if not root:
        raise Unsupported(
            "Intel RDT is not available",
            "no resctrl file system is mounted",
            "On a processor that has it: mount -t resctrl resctrl /sys/fs/resctrl; else leave linux.intelRdt out",
        )
    return root


def apply(rdt: Mapping[str, Any], container: str, pid: int) -> tuple[str, ...]:
    """Put a process, which has not begun to make others, under the class of service that ``linux.intelRdt`` names.

    :returns: the folders that are the container's own: they go with it (:func:`remove`)
    :raises Unsupported: this host has no resctrl, or the processor lacks the resource
    :raises InvalidArgument: a value that is malformed or that the kernel refuses
    :raises NotFound: a class that must be there is not
    :raises Conflict: a class that is there has other values
    """
    wanted, root = plan(rdt, container), _mounted()
    made: list[str] = []
    try:
        _enter(root, wanted, container, pid, made)
    except OSError as exc:
        _take_away(made)
        raise _refused(exc, root) from exc
    except WharfError:
        _take_away(made)
        raise
    # A class with a name of its own stays for others: it is a part of the machine's set-up.
    return tuple(folder for folder in made if "/mon_groups/" in folder or not wanted.given)


def _enter(root: str, wanted: Plan, container: str, pid: int, made: list[str]) -> None:
    folder = f"{root}/{wanted.name}".rstrip("/")
    new = not os.path.isdir(folder)
    if new and wanted.must_exist:
        raise NotFound(
            f"no Intel RDT class {wanted.name!r}", f"{folder} is not there", "Make it, or give schemata for a new one"
        )
    if new:
        os.mkdir(folder)
        made.append(folder)
    elif wanted.given and wanted.lines:
        compare(wanted, files.read_all(f"{folder}/schemata"))
    if wanted.lines and (new or not wanted.given):
        files.write(f"{folder}/schemata", *(f"{line}\n" for line in wanted.lines))
    if wanted.monitor:
        made.append(f"{folder}/mon_groups/{container}")
        os.mkdir(made[-1])
    files.write(f"{folder}/tasks", str(pid))
    if wanted.monitor:
        files.write(f"{made[-1]}/tasks", str(pid))


def update(rdt: Mapping[str, Any], container: str) -> None:
    """Give the class that a container is in other values; they hold for all that are in it.

    :raises Unsupported: this host has no resctrl
    :raises NotFound: there is no such class
    :raises InvalidArgument: a value that is malformed or that the kernel refuses
    """
    wanted, root = plan(rdt, container), _mounted()
    try:
        files.write(f"{root}/{wanted.name}/schemata", *(f"{line}\n" for line in wanted.lines))
    except FileNotFoundError as exc:
        raise NotFound(f"no Intel RDT class {wanted.name!r}", str(exc), "The container was made without one") from exc
    except OSError as exc:
        raise _refused(exc, root) from exc


def compare(wanted: Plan, schemata: str) -> None:
    """A class that several containers share keeps its values.

    :raises Conflict: it has other ones than the container asks for
    """
    have = {_resource(line): _shares(line) for line in schemata.splitlines() if ":" in line}
    for line in wanted.lines:
        there = have.get(_resource(line), {})
        if any(there.get(cache) != value for cache, value in _shares(line).items()):
            raise Conflict(
                f"cannot use Intel RDT class {wanted.name!r}",
                f"it is there with other values than {line}",
                "Choose another closID, or the values it has",
            )


def _resource(line: str) -> str:
    return line.split(":", 1)[0].strip()


def _shares(line: str) -> dict[str, str]:
    """``L3:0=07f0;1=1f`` → the value of each cache, without leading zeros: the kernel pads them."""
    pairs = (part.partition("=") for part in line.split(":", 1)[-1].split(";"))
    return {cache.strip(): value.strip().lstrip("0").lower() for cache, _, value in pairs}


def _refused(exc: OSError, root: str) -> WharfError:
    why = f"{exc.filename or root}: {exc.strerror}"
    with contextlib.suppress(OSError):
        # The kernel says in words what it did not like.
        status = files.read_all(f"{root}/info/last_cmd_status").strip()
        why += f" ({status})" if status not in ("", "ok") else ""
    return InvalidArgument("cannot set Intel RDT", why, "Choose values that this processor has")


def _take_away(folders: list[str]) -> None:
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def remove(folders: Sequence[str]) -> None:
    """Remove what :func:`apply` returned; what is gone is no error.

    :raises OSError: EBUSY
    """
    for folder in reversed(folders):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder)
