"""``NOTIFY_SOCKET``: the command tells whoever has us run that it is ready (sd_notify(3)), in runc's way.

No container gets the service manager's own socket, where it could say anything about the unit. It gets one of its own
in a read-only mount, and of what comes there the first ``READY=1`` alone is passed on, with the pid that the manager is
to watch from then on. ``create`` makes the mount and the variable, ``start`` the socket.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from core.errors import Unavailable
from core.kernel import process
from core.oci.store import Held, Store
from core.runtime.defaults import Json
from core.supervise import sockets

VARIABLE = "NOTIFY_SOCKET"
_INSIDE = "/run/notify"
_NAME = "notify.sock"
_ENTRY = f"{VARIABLE}={_INSIDE}/{_NAME}"
_OPTIONS = ["bind", "nosuid", "noexec", "nodev", "ro"]
_DATAGRAM = 4096  # bytes; more is cut off
_BARRIER = 30.0  # seconds for the manager to have read all (sd_notify_barrier(3)); old ones do not know that
_LAST_WORD = 1.0  # seconds for a word that a command has said just before its end
Warn = Callable[[object], None]


def wanted() -> bool:
    """Does a service manager want to hear of it?"""
    return bool(os.environ.get(VARIABLE))


def _folder(store: Store, cid: str) -> Path:
    return store.folder(cid) / "notify"


def with_socket(store: Store, cid: str, config: Json) -> Json:
    """The configuration with the mount and the variable."""
    own = cast(Json, config.get("process"))
    if not own:
        return config
    mount = {
        "destination": _INSIDE,
        "type": "bind",
        "source": os.path.abspath(_folder(store, cid)),
        "options": _OPTIONS,
    }
    env = [entry for entry in cast("list[str]", own.get("env") or []) if not entry.startswith(f"{VARIABLE}=")]
    mounts = [*cast("list[Json]", config.get("mounts") or []), mount]
    return {**config, "mounts": mounts, "process": {**own, "env": [*env, _ENTRY]}}


def without(env: list[str]) -> list[str]:
    """An environment for another process than the one that is started here."""
    return [entry for entry in env if entry != _ENTRY]


def make_folder(store: Store, cid: str) -> None:
    """What the mount shows: any user inside may look there."""
    folder = _folder(store, cid)
    folder.mkdir()
    folder.chmod(0o755)


class Ear:
    """The socket of one start, from before the command runs until it has said that it is ready."""

    def __init__(self, path: Path, manager: str) -> None:
        self._path = path
        self._manager = manager
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """:raises OSError:"""
        sockets.bind(self._socket, str(self._path))
        self._path.chmod(0o777)  # whoever the command runs as

    def listen(self, held: Held, main: int, warn: Warn) -> None:
        """Until the container is ready, and its manager knows, or has ended.

        :param main: the pid that the manager is to watch
        """
        try:
            with self._socket:
                ready = self._ready(held)
            if ready:
                _tell(self._manager, main)
        except Unavailable as error:
            warn(error)

    def _ready(self, held: Held) -> bool:
        pidfd = process.open_pidfd(held.pid, held.pid_start)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if pidfd is not None:
            poll.register(pidfd, select.POLLIN)
        try:
            while True:
                events = dict(poll.poll(0 if pidfd is None else None))
                if self._socket.fileno() not in events:
                    return False  # it has ended
                # By a plain recv: descriptors that come along are dropped, which is also the answer to a barrier.
                if b"READY=1" in self._socket.recv(_DATAGRAM).split(b"\n"):
                    return True
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def listen_aside(self, held: Held, warn: Warn) -> None:
        """:meth:`listen` while the caller stays with the container, and is what the manager watches."""

        def work() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the thread that stays
            self.listen(held, os.getpid(), warn)

        self._thread = threading.Thread(target=work, name="notify", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(_LAST_WORD)
        self._socket.close()


def ear(store: Store, cid: str) -> Ear | None:
    """For the start of a container; None where nobody wants to hear of it, or none did when it was created."""
    manager = os.environ.get(VARIABLE, "")
    folder = _folder(store, cid)
    return Ear(folder / _NAME, manager) if manager and folder.is_dir() else None


def _tell(manager: str, main: int) -> None:
    """:raises Unavailable:"""
    address = f"\0{manager[1:]}" if manager.startswith("@") else manager
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.connect(address)
            line.send(f"MAINPID={main}\nREADY=1".encode())
            # We may end, and with us what the manager finds out about the sender, only once it has read that.
            socket.send_fds(line, [b"BARRIER=1"], [write])
        os.close(write)
        write = -1
        poll = select.poll()
        poll.register(read, 0)
        poll.poll(_BARRIER * 1000)
    except OSError as error:
        why = f"{VARIABLE} is {manager}: {error.strerror or error}"
        raise Unavailable("the service manager was not told that the container is ready", why) from error
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
