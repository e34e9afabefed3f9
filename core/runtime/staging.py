"""What a container is restored from: its root and what it has of the outside, mounted where CRIU finds it.

CRIU makes the container's mounts itself, from its images. It runs in a mount namespace of its own, where this has put
the root and the sources of all binds; the namespace, and every mount in it, goes with CRIU.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import cast

from core.errors import StartFailed
from core.kernel import mount, process, resolve
from core.runtime import rootfs
from core.runtime.defaults import Json
from core.runtime.sources import Sources
from core.runtime.task import InitTask, Report

ROOT = "root"
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def prepare(task: InitTask, report: Report, wanted: Sequence[tuple[str, str]]) -> None:
    """In a process that is about to become CRIU: mount on ``task.mount_point``, in a namespace of its own, the root as
    ``root`` and each of ``wanted`` as ``0``, ``1`` …

    :param wanted: (destination of a mount in config.json, path below its source): an empty path for the source itself,
        for cgroups the name of a hierarchy or an empty one
    :raises StartFailed: config.json has no such mount, or its source no such path
    :raises OSError:
    """
    process.unshare(process.CLONE_NEWNS)
    sources = Sources(task, report, None)
    rootfs.with_umask(0, sources.open_binds)
    mount.set_root_propagation(mount.MS_SLAVE)
    rootfs.with_umask(0, sources.open_rest)
    report.at("mounting what the restore needs")
    shelf = mount.filesystem("tmpfs", [("mode", "700")], source="restore")
    here = os.open(task.mount_point, _FOLDER)
    mount.attach(shelf, here)
    os.close(here)
    _put(shelf, ROOT, sources.root)
    rootfs.with_umask(0, lambda: _make_places(task.config, sources))
    if cast(Json, task.config.get("root") or {}).get("readonly"):
        # CRIU 3.17 gives the root the flags of the mount that it copies, not those that were saved.
        mount.set_attributes(sources.root, mount.ATTR_RDONLY)
    places = _sources(task.config, sources, shelf)
    for number, (destination, rest) in enumerate(wanted):
        report.at(f"finding the source of {os.path.join(destination, rest)}")
        _put(shelf, str(number), _find(places, destination, rest))
    os.close(shelf)


def _make_places(config: Json, sources: Sources) -> None:
    """What init makes for the mounts of config.json where the image has nothing: a fresh copy of the root lacks it."""
    mounts = cast("list[Json]", config.get("mounts") or [])
    all_of_them = [os.path.normpath(f"/{entry['destination']}") for entry in mounts]
    for index, destination in enumerate(all_of_them):
        if any(destination.startswith(f"{other}/") for other in all_of_them):
            continue  # that is not of the root
        made = sources.binds.get(index)
        as_file = made is not None and not stat.S_ISDIR(os.fstat(made).st_mode)
        try:
            os.close((resolve.make_file if as_file else resolve.make_dirs)(sources.root, destination))
        except OSError as error:
            if error.errno != errno.EROFS:
                raise


def _sources(config: Json, sources: Sources, shelf: int) -> dict[tuple[str, str], int]:
    """(destination, hierarchy) → the mounted source, attached: Linux before 6.15 copies nothing of a detached mount."""
    places: dict[tuple[str, str], int] = {}
    mounts = cast("list[Json]", config.get("mounts") or [])
    for index, made in sources.binds.items():
        _put(shelf, f"bind{index}", made)
        places[str(mounts[index]["destination"]), ""] = made
    groups = [str(entry["destination"]) for entry in mounts if entry.get("type") in ("cgroup", "cgroup2")]
    for number, (name, view) in enumerate(sources.views):
        _put(shelf, f"view{number}", view)
        places.update({(destination, name): view for destination in groups})
    return places


def _find(places: dict[tuple[str, str], int], destination: str, rest: str) -> int:
    if (destination, rest) in places:
        return mount.clone_tree(places[destination, rest])
    if (destination, "") not in places:
        raise StartFailed(
            f"cannot restore the mount on {destination}", "the container is not configured to have one there", ""
        )
    # No link on the way: it would lead to something that the container never had.
    how = resolve.BENEATH | resolve.NO_SYMLINKS
    try:
        found = resolve.open_in_root(places[destination, ""], rest, os.O_PATH, resolve=how)
    except OSError as error:
        raise StartFailed(
            f"cannot restore the mount on {os.path.join(destination, rest)}",
            f"its source is not there any more: {error.strerror}",
            "Mount it on the host again",
        ) from error
    try:
        return mount.clone_tree(found)
    finally:
        os.close(found)


def _put(shelf: int, name: str, made: int) -> None:
    """Attach a detached mount at ``name``."""
    if stat.S_ISDIR(os.fstat(made).st_mode):
        os.mkdir(name, 0o700, dir_fd=shelf)
    else:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=shelf))
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=shelf)
    try:
        mount.attach(made, place)
    finally:
        os.close(place)
