"""Trying out what the kernel offers, where nobody sees it.

Mounts and links are tried in a thread that left the process's mount and network namespaces (unshare(2) acts on one
thread): what it makes is gone with it. A user namespace can only be entered by a process of one thread: a bare
interpreter does that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from core.kernel import mount, netns, nftables, rtnetlink
from core.kernel.libc import AT_EMPTY_PATH, SYS_MOUNT_SETATTR, syscall
from core.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Netlink, attr_map, string
from core.kernel.process import CLONE_NEWNS, unshare
from core.kernel.userns import Range, contained, read_map
from core.net.ruleset import GUARDED

T = TypeVar("T")

_ATTR_IDMAP = 0x00100000
_ENTER_USER_NAMESPACE = """
import ctypes, os, sys
done = ctypes.CDLL(None, use_errno=True).unshare(0x10000000)
print(ctypes.get_errno() if done else 0, flush=True)
sys.stdin.read()
"""


class Overlay(NamedTuple):
    """What overlay can do on one file system; each an empty string for "yes", else the reason."""

    upper: str  # carry a writable layer, layers given one by one (``lowerdir+``)
    legacy: str  # the same with ``lowerdir=a:b``
    volatile: str
    metacopy: str
    idmap: str  # over an ID-mapped lower layer


def in_thread(function: Callable[[], T]) -> T:
    """Run ``function`` in a thread that lives only for it, and return or raise what it does."""
    result: list[T] = []
    error: list[BaseException] = []

    def body() -> None:
        try:
            result.append(function())
        except BaseException as exc:
            error.append(exc)

    thread = threading.Thread(target=body, name="probe")
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return result[0]


def overlay(folder: Path, user_namespace: int | None) -> Overlay:
    """Try overlay's features with all layers below ``folder``.

    :param user_namespace: descriptor of a user namespace with a mapping, to try ID-mapped layers
    :raises OSError: ``folder`` is not writable, or mounts are forbidden
    """
    base = tempfile.mkdtemp(prefix=".wharf-doctor-", dir=folder)
    try:
        return in_thread(lambda: _overlay(base, user_namespace))
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _overlay(base: str, user_namespace: int | None) -> Overlay:
    unshare(CLONE_NEWNS)
    mount.set_root_propagation(mount.MS_PRIVATE)
    for name in ("a", "b", "upper", "work", "mapped"):
        os.mkdir(f"{base}/{name}")
    writable: list[tuple[str, str | None]] = [("upperdir", f"{base}/upper"), ("workdir", f"{base}/work")]
    layers: list[tuple[str, str | None]] = [("lowerdir+", f"{base}/a"), ("lowerdir+", f"{base}/b")]
    joined: list[tuple[str, str | None]] = [("lowerdir", f"{base}/a:{base}/b")]
    upper = _try([*layers, *writable])
    usable = joined if upper else layers
    # `volatile` leaves a mark in the work folder that refuses the next mount: it is tried last.
    return Overlay(
        upper=upper,
        legacy=_try([*joined, *writable]),
        metacopy=_try([*usable, *writable, ("metacopy", "on")]),
        idmap=_try_idmap(base, user_namespace),
        volatile=_try([*usable, *writable, ("volatile", None)]),
    )


def _try(options: list[tuple[str, str | None]]) -> str:
    if contained():
        options = [*options, ("userxattr", None)]
    try:
        os.close(mount.filesystem("overlay", options, source="overlay"))
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def _try_idmap(base: str, user_namespace: int | None) -> str:
    if user_namespace is None:
        return "no user namespaces"
    try:
        layer = mount.clone_tree(f"{base}/a")
        target = os.open(f"{base}/mapped", os.O_PATH | os.O_CLOEXEC)
        try:
            attributes = struct.pack("=4Q", _ATTR_IDMAP, 0, 0, user_namespace)
            syscall(SYS_MOUNT_SETATTR, layer, b"", AT_EMPTY_PATH, attributes, len(attributes), what="mount_setattr")
            mount.attach(layer, target)
        finally:
            os.close(layer)
            os.close(target)
    except OSError as exc:
        return f"ID-mapped mount: {exc.strerror}"
    return _try([("lowerdir", f"{base}/mapped:{base}/b")])


@contextlib.contextmanager
def user_namespace() -> Iterator[tuple[int | None, str]]:
    """A user namespace with a mapping of 65536 ids: (descriptor or ``None``, the reason why there is none)."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _ENTER_USER_NAMESPACE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:  # leaving it closes the child's input, at which it ends, and reaps it
        try:
            fd = _mapped(child)
        except OSError as exc:
            yield None, exc.strerror or str(exc)
            return
        try:
            yield fd, ""
        finally:
            os.close(fd)


def _mapped(child: subprocess.Popen[bytes]) -> int:
    code = int((child.stdout.readline() if child.stdout else b"") or errno.EIO)
    if code:
        raise OSError(code, os.strerror(code))
    for kind in ("uid", "gid"):
        # In a user namespace there are only the ids that it has itself: the same ones again.
        own = [Range(piece.inside, piece.inside, piece.count) for piece in read_map(kind)]
        pieces = own if contained() else [Range(0, 100000, 65536)]
        Path(f"/proc/{child.pid}/{kind}_map").write_text("\n".join(str(piece) for piece in pieces), "ascii")
    return os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def links() -> str:
    """Make a bridge and a veth pair in a network namespace of their own; the reason where that fails."""
    return in_thread(_links)


def _links() -> str:
    try:
        with netns.fresh() as fd:
            socket_ = Netlink(NETLINK_ROUTE)
            try:
                socket_.talk([rtnetlink.new_bridge("probe0", b"\x02\0\0\0\0\1")])[0].check()
                index = next(link.number for link in rtnetlink.links(socket_) if link.name == "probe0")
                pair = rtnetlink.new_veth("probe1", "probe2", fd, mtu=1400, mac=b"\x02\0\0\0\0\2", bridge=index)
                socket_.talk([pair])[0].check()
            finally:
                socket_.close()
            os.close(fd)
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def guards(table: str) -> bool:
    """Does our table keep the host from routing for others than containers (:mod:`core.net.guard`)?"""
    socket_ = Netlink(NETLINK_NETFILTER)
    try:
        return bool(nftables.elements(socket_, table, GUARDED))
    except OSError:
        return False  # no such table, or an older one
    finally:
        socket_.close()


def nft_tables() -> list[tuple[int, str]]:
    """(family, name) of every nftables table.

    :raises OSError: the kernel has no nftables, or the caller may not ask
    """
    socket_ = Netlink(NETLINK_NETFILTER)
    try:
        # struct nfgenmsg: family, version 0, resource id 0
        bodies = socket_.dump(nftables.GETTABLE, struct.pack("!BBH", socket.AF_UNSPEC, 0, 0))
        return [(body[0], string(attr_map(body, 4)[1])) for body in bodies]
    finally:
        socket_.close()
