"""A running container's processes into a folder, by CRIU. Blocking: for a thread of the engine, and for our OCI command
line."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Mapping

from core import cgroups
from core.errors import Unsupported
from core.supervise import criu
from core.supervise.restoring import META, Saved


def version(program: str) -> str:
    """Such as ``4.2``. :raises Unsupported: it cannot be run"""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = f"{program} cannot be run: {error}"
        raise Unsupported("cannot checkpoint or restore", why, "Install criu") from error
    return done.stdout.decode(errors="replace").partition("Version:")[2].split("\n")[0].strip()


def _served(program: str, folder: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """CRIU, and the line by which it takes one request.

    :param folder: a descriptor: what it says on stderr is written there
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = criu.open_words(folder)
    try:
        process = subprocess.Popen(
            [program, "swrk", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
            pass_fds=(theirs.fileno(),),
            env={"PATH": criu.PATH, "LANG": "C.UTF-8"},
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(words)
    return process, ours


def dump(
    program: str,
    release: str,
    pid: int,
    cgroup: str,
    folders: tuple[int, int],
    saved: Saved,
    dumped: Callable[[], None],
    *,
    leave_running: bool,
) -> None:
    """Save the processes below ``pid``; then they are killed, or go on.

    :param release: CRIU's version (:func:`version`)
    :param folders: descriptors: where CRIU's images go, and where its log goes
    :param dumped: called when all is saved and nothing goes on yet. Where it raises, the processes go on, and its
        error is this function's
    :raises WharfError: it failed; the processes go on
    """
    process, ours = _served(program, folders[1])
    try:
        request = criu.dump_request(
            pid,
            *folders,
            saved.options,
            saved.outside.names(),
            _freezer(cgroup),
            leave_running=leave_running,
            version=criu.parse_version(release),
        )
        with contextlib.suppress(OSError):  # it has ended: no answer comes then
            ours.send(request)
        _follow(ours, folders[1], dumped)
    finally:
        ours.close()  # without an answer it undoes what it has done
        process.wait()


def _follow(line: socket.socket, work: int, dumped: Callable[[], None]) -> None:
    failed: BaseException | None = None
    while True:
        try:
            data = line.recv(criu.MESSAGE)
            reply = criu.parse_reply(data) if data else None
        except (OSError, ValueError):
            reply = None
        if reply is not None and reply.script:
            if reply.script == "post-dump":
                try:
                    dumped()
                except BaseException as error:
                    failed = error
            with contextlib.suppress(OSError):
                line.send(criu.acknowledge(success=failed is None))
            continue
        if failed is not None:
            raise failed
        if reply is None or not reply.success:
            raise criu.explain("cannot checkpoint the container", criu.read_log(work, criu.DUMP_LOG))
        return


def _freezer(cgroup: str) -> str:
    """The folder of the cgroup that can stop all processes at once; "" where there is none."""
    layout = cgroups.detect()
    mount = layout.mount_of("freezer") or layout.unified
    return f"{mount}/{cgroup}" if mount and os.path.isdir(f"{mount}/{cgroup}") else ""


def write_meta(folder: int, saved: Saved, more: Mapping[str, object]) -> None:
    """``checkpoint.json``, synced. :raises OSError:"""
    fd = os.open(META, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with open(fd, "wb") as file:
        file.write(json.dumps({**more, **saved.to_plain()}, indent=1).encode())
        file.flush()
        os.fsync(fd)
