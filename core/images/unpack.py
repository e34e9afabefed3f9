"""The unpack server: a small process of one pull or load that forks one worker per layer.

::

    engine ──SOCK_SEQPACKET──► server ──fork──► worker of layer 1 ── inflate thread ─► files
       │  {job, offset, size}+fds │  └──fork──► worker of layer 2 …
       └─ writes blob.part, one byte into the wake pipe for each piece

The engine has threads and must not fork, and an interpreter takes 30 ms to start: so the server is started while the
engine asks the registry, and forks in 1 ms. It has a mount and a network namespace of its own; a worker changes its
root to the layer's directory, forgets how to import (a module lying in the image must never be run: CVE-2019-14271's
kin), and keeps only the capabilities that making files takes. A worker dies with the server, the server's workers with
the engine: the socket's end, or the wake pipe's, tells them.

At the socket's end the server leaves a child behind that syncs the data root's file system and then marks the layers
that were there before as durable (see :mod:`core.images.layers`): nobody waits for the disk.

Descriptors of a request, in this order: the blob, the staging directory (which carries the engine's flock), and for a
blob that still grows the wake pipe.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from core.errors import Corrupt, Unavailable, WharfError
from core.images.explain import explain
from core.images.inflate import Inflater, Source
from core.images.layer import Unpacker
from core.images.owners import Owners
from core.images.places import ASIDE, DIFF, IMPLIED
from core.images.split import Recorder
from core.images.tar import located
from core.kernel import acl, caps, process
from core.kernel.libc import keep_freed
from core.kernel.mount import MS_PRIVATE, set_root_propagation

MESSAGE = 65536  # bytes, at most
FDS = 3
_KEPT = 64 * 1024 * 1024  # bytes that a worker keeps for its next chunks: clearing new pages takes longer than hashing
_EVERY = 0.1  # seconds between two notes of progress
_CAPS = "CHOWN DAC_OVERRIDE FOWNER FSETID MKNOD SETFCAP SYS_ADMIN".split()  # the last for trusted.* attributes


def send(sock: socket.socket, message: dict[str, object]) -> None:
    """One message; the peer's end is not our failure."""
    try:
        sock.send(json.dumps(message).encode())
    except (BrokenPipeError, ConnectionResetError):
        pass


class Server:
    """Forks workers for requests until the socket ends."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._jobs: dict[int, tuple[int, int]] = {}  # pidfd → (job, pid)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def run(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._jobs:
                    self._reap(fd)
                elif not self._request():
                    self._kill_all()
                    return

    def _request(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._sock, MESSAGE, FDS)
        if not data:
            return False
        request = json.loads(data)
        pid = os.fork()
        if not pid:
            _worker(self._sock, request, fds)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._jobs[pidfd] = (request["job"], pid)
        self._poll.register(pidfd, select.POLLIN)
        return True

    def _reap(self, pidfd: int) -> None:
        job, pid = self._jobs.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            error = Unavailable(
                "the unpack worker died", f"its exit status was {code}", "Look for OOM kills; try again"
            )
            send(self._sock, {"job": job, "error": error.to_dict()})

    def _kill_all(self) -> None:
        for pidfd, (_, pid) in self._jobs.items():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)


def _worker(sock: socket.socket, request: dict[str, int], fds: list[int]) -> None:
    """Unpack one layer, answer, and exit: 0 where an answer was sent."""
    code = 1
    try:
        process.set_death_signal(signal.SIGKILL)
        job = request["job"]
        try:
            if request.get("check"):
                answer = _check(sock, job, *fds)
            else:
                answer = _unpack(sock, job, Source(fds[0], request["offset"], request["size"], *fds[2:]), fds[1])
        except WharfError as error:
            answer = {"error": error.to_dict()}
        except OSError as error:
            answer = {"error": explain(error).to_dict()}
        except Exception as error:  # a bug, or out of memory: standard error is the screen of somebody else
            failure = Unavailable("the unpack worker failed", f"{type(error).__name__}: {error}", "Report this")
            answer = {"error": failure.to_dict()}
        send(sock, {"job": job, **answer})
        code = 0
    finally:
        os._exit(code)  # never back into the server's loop


def _begin(staging: int) -> tuple[int, int, Owners]:
    """Make the folders for the files and for what they replace, and enter the first."""
    os.umask(0)
    os.mkdir(DIFF, 0o755, dir_fd=staging)
    os.mkdir(ASIDE, 0o700, dir_fd=staging)
    root = os.open(DIFF, os.O_RDONLY | os.O_DIRECTORY, dir_fd=staging)
    aside = os.open(ASIDE, os.O_RDONLY | os.O_DIRECTORY, dir_fd=staging)
    # What the store's folders pass on to new ones is the host's: lists of access, a group by the set-group-ID bit.
    acl.drop(root)
    os.fchown(root, 0, 0)
    os.fchmod(root, 0o755)
    owners = Owners.here()
    _enter(root)
    return root, aside, owners


def _teller(sock: socket.socket, job: int) -> Callable[[int], None]:
    said = time.monotonic()

    def progress(done: int) -> None:
        nonlocal said
        if (now := time.monotonic()) - said > _EVERY:
            said = now
            send(sock, {"job": job, "done": done})

    return progress


def _check(sock: socket.socket, job: int, layer: int, staging: int) -> dict[str, object]:
    from core.images.verify import check  # before the root is entered, where nothing can be imported

    verdict = check(layer, staging, *_begin(staging), _teller(sock, job))
    return {"diffid": verdict.diffid, "size": verdict.size, "problems": verdict.problems}


def _unpack(sock: socket.socket, job: int, source: Source, staging: int) -> dict[str, object]:
    root, aside, owners = _begin(staging)
    inflater = Inflater(source, _teller(sock, job))
    inflater.start()
    stream = Recorder(inflater.next, staging)
    try:
        result = Unpacker(root, aside, stream, owners).run()
    except Corrupt as error:
        raise located(error, stream.entry) from error
    if not os.listdir(aside):
        os.rmdir(ASIDE, dir_fd=staging)
    if result.implied:
        with open(os.open(IMPLIED, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=staging), "wb") as file:
            file.write(b"\0".join(result.implied))
    digests = inflater.digests
    return {
        "blob": digests.blob,
        "diffid": digests.archive,
        "size": result.size,
        "entries": result.entries,
        "implied": len(result.implied),
    }


def _enter(root: int) -> None:
    """Make ``root`` all that this process can see."""
    os.fchdir(root)
    os.chroot(".")
    sys.path[:] = []
    sys.meta_path[:] = []
    bits = caps.mask(f"CAP_{name}" for name in _CAPS)
    caps.set_process(bits, bits, 0)


def settle(root: str, run: str) -> None:
    """Sync the file system with the images, then mark as durable what was there before."""
    from pathlib import Path

    from core.images.layers import mark_durable
    from core.store import schema
    from core.store.db import Database
    from core.store.paths import Instance

    inst = Instance(Path(root), Path(run))
    # Not `Store.open`: should the data root have been deleted meanwhile, nothing must be made anew.
    if (path := inst.root / "wharf.db").exists():
        mark_durable(inst, Database(path, schema.DISK, durable=True))


def main() -> None:
    """``python -I -S -c … FD ROOT RUN``: serve on FD; see the module's text."""
    fd, root, run = int(sys.argv[-3]), *sys.argv[-2:]
    process.set_name("wharf-unpack")
    sock = socket.socket(fileno=fd)
    # SIGINT from the terminal is the engine's to handle: it closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.unshare(process.CLONE_NEWNS | process.CLONE_NEWNET)
    set_root_propagation(MS_PRIVATE)
    keep_freed(_KEPT)
    gc.collect()
    gc.freeze()
    gc.disable()  # a worker makes no cycles that would last, lives for seconds, and would look in vain again and again
    Server(sock).run()
    sock.close()
    if os.fork():
        os._exit(0)  # the engine waits for this process, and nobody for the sync
    os.setsid()
    settle(root, run)
