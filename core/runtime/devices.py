"""/dev of a container: default devices, links, and those that config.json lists (config-linux.md, "Devices")."""

from __future__ import annotations

import os
import stat
from typing import cast

from core.errors import StartFailed
from core.kernel import mount, resolve
from core.runtime import defaults
from core.runtime.defaults import Json

_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_BELOW = resolve.BENEATH | resolve.NO_SYMLINKS


def fill(dev: int, *, nodes: bool) -> None:
    """Default devices and links, below ``dev``.

    :param nodes: False: only empty files, for the host's devices to be bound on (:func:`bind`)
    """
    for name, major, minor in defaults.DEVICES:
        try:
            if nodes:
                os.mknod(name, 0o666 | stat.S_IFCHR, os.makedev(major, minor), dir_fd=dev)
            else:
                os.mknod(name, 0o666 | stat.S_IFREG, dir_fd=dev)
        except FileExistsError:
            if nodes:
                _check(dev, name, stat.S_IFCHR, os.makedev(major, minor))
    for name, target in defaults.DEVICE_LINKS:
        try:
            os.symlink(target, name, dir_fd=dev)
        except FileExistsError:
            pass  # the image's own


def bind(dev: int, sources: dict[str, int]) -> None:
    """Put the host's default devices on the files that :func:`fill` has made, and take them out of ``sources``."""
    for name, _, _ in defaults.DEVICES:
        target = resolve.open_in_root(dev, name, os.O_PATH | os.O_NOFOLLOW, resolve=_BELOW)
        source = sources.pop(f"/dev/{name}")
        mount.attach(source, target)
        os.close(target)
        os.close(source)


def add(base: int, path: str, device: Json, source: int | None) -> None:
    """One device of ``linux.devices``.

    :param path: of it, below ``base``. No link on the way is followed: one in the image could lead into a volume, and
        there the device would be the host's (CVE-2026-41579)
    :param source: the host's own, where none can be made
    """
    folder, name = os.path.split(os.path.normpath(path))
    parent = resolve.make_dirs(base, folder, resolve=resolve.IN_ROOT | resolve.NO_SYMLINKS)
    try:
        if source is not None:
            target = resolve.make_file(parent, name)
            mount.attach(source, target)
            os.close(target)
            os.close(source)
        else:
            _make(parent, name, device)
    finally:
        os.close(parent)


def make_aside(folder: int, name: str, device: Json, owner: tuple[int, int]) -> None:
    """A device with the host's rights, in a file system that nobody sees, for a container whose root may make none.

    :param owner: the host's names of those that it shall belong to
    """
    mode = cast(int, device.get("fileMode") if device.get("fileMode") is not None else 0o666)
    number = os.makedev(cast(int, device["major"]), cast(int, device["minor"]))
    os.mknod(name, stat.S_IMODE(mode) | _KINDS[str(device["type"])], number, dir_fd=folder)
    os.chown(name, *owner, dir_fd=folder)


def _make(parent: int, name: str, device: Json) -> None:
    kind = _KINDS[str(device["type"])]
    number = 0
    if kind != stat.S_IFIFO:
        number = os.makedev(cast(int, device["major"]), cast(int, device["minor"]))
    mode = cast(int, device.get("fileMode") if device.get("fileMode") is not None else 0o666)
    try:
        os.mknod(name, stat.S_IMODE(mode) | kind, number, dir_fd=parent)
    except FileExistsError:
        _check(parent, name, kind, number)
        if "fileMode" in device:
            _set_mode(parent, name, mode)
    owner = cast(int, device.get("uid") or 0), cast(int, device.get("gid") or 0)
    os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)


def _set_mode(parent: int, name: str, mode: int) -> None:
    """A checked device is opened without its driver noticing: chmod by name would follow a link put there since."""
    fd = resolve.open_in_root(parent, name, os.O_PATH | os.O_NOFOLLOW, resolve=_BELOW)
    try:
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(mode))
    finally:
        os.close(fd)


def _check(parent: int, name: str, kind: int, number: int) -> None:
    """:raises StartFailed: what is there already is something else, which would be taken for the device"""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_IFMT(status.st_mode) != kind or (kind != stat.S_IFIFO and status.st_rdev != number):
        raise StartFailed(
            f"cannot make the device {name}", "the image has something else at its place", "Remove that from the image"
        )
