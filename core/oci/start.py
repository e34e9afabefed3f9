"""``start``: the command of a container that was created."""

from __future__ import annotations

import socket

from core.errors import Conflict, StartFailed, WharfError
from core.oci.readiness import Ear
from core.oci.store import Held, Store, state, status
from core.runtime import hooks
from core.supervise import sockets, spawn
from core.supervise.protocol import close_all

_PACKET = 65536


def start(store: Store, cid: str, ear: Ear | None = None) -> list[WharfError]:
    """:param ear: hears from here on what the command says about itself
    :returns: what went wrong in ``poststart`` hooks, which undoes nothing

    :raises Conflict: it is not in the state ``created``
    :raises StartFailed: the command cannot be executed, or a ``startContainer`` hook failed; it is stopped then
    """
    with store.locked(cid) as held:
        config = store.config(cid)
        now = status(store, held)
        if now != "created":
            raise Conflict(f"cannot start container {cid!r}", f"it is {now}", "Only a created one can be started")
        if not config.get("process"):
            raise Conflict(f"cannot start container {cid!r}", "its config.json has no process", "Create it with one")
        if ear is not None:
            ear.open()
        _open_gate(store, held)
        told = state(store, held)
    # Without the lock: nothing is changed by them, and they may take their time.
    return hooks.run_each(config, "poststart", told)


def _open_gate(store: Store, held: Held) -> None:
    path = store.gate(held.id)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        try:
            sockets.connect(line, str(path))
        except OSError as error:
            path.unlink(missing_ok=True)  # somebody started it and was killed before this
            raise Conflict(f"cannot start container {held.id!r}", "it has been started already", "") from error
        words = _follow(line)
    # There until now: a start that is killed half way leaves a container that says what it is, created.
    path.unlink(missing_ok=True)
    if words is not None:
        raise spawn.reported(words)


def _follow(line: socket.socket) -> bytes | None:
    """To the exec; the error in the way. Whoever may trace the process could write here too: no descriptor is taken.

    :raises StartFailed: it died
    """
    ready = False
    while True:
        try:
            packet, fds, _, _ = socket.recv_fds(line, _PACKET, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            packet, fds = b"", []
        close_all(fds)
        if packet[:1] == b"E":
            return packet[1:]
        if packet[:1] == b"R":
            ready = True
        elif not packet and ready:
            return None
        elif not packet:
            why = "its first process died before the command ran"
            raise StartFailed("cannot start the container", why, step="start")
