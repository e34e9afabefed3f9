"""A container made by another OCI runtime (runc, crun …): the same bundle, the same monitor.

Our own runtime mounts the root inside the container's mount namespace. Others want a mounted root: the monitor makes
one, in a mount namespace of its own, so that the host never sees it here either. Everything else of the runtime's is in
the run folder and goes with it. The first process becomes the monitor's child when the runtime has ended, so that its
exit status is ours to take; and likewise every command that is run inside.

The launcher keeps a descriptor of the mount namespace: the next monitor of this container enters it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import cast

from core import cgroups
from core.errors import Conflict, InvalidArgument, StartFailed, WharfError
from core.kernel import mount, process
from core.runtime import portable
from core.runtime.defaults import Json
from core.runtime.sources import clone_elsewhere, open_root
from core.runtime.task import Rootfs
from core.runtime.user import User, identity
from core.supervise import sockets
from core.supervise.child import Process, follow
from core.supervise.foreign import STATE, UMASK, Call, Program
from core.supervise.loop import Loop, Timer
from core.supervise.protocol import SHM, Launch, Message, send
from core.supervise.starter import SOFT_FILES, Stdio, joined

MOUNTS = "mounts"  # name of the kept mount namespace
_LATER = 0.02  # seconds
_STEP = 0.002  # seconds
_TERMINAL = 5.0  # seconds for a runtime that says it is done to have sent the terminal


class External:
    """See :class:`core.supervise.tasks.Runtime`."""

    def __init__(self, launch: Launch, config: Json, kept: dict[str, int]) -> None:
        self._launch = launch
        self._config = config
        self._kept = kept
        self._program = Program(launch.runtime, launch.id, launch.run_dir, launch.cgroup)
        self._root = os.path.join(launch.bundle, "rootfs")
        self._shm = os.path.join(launch.bundle, "shm")
        self._inside = False  # in the mount namespace that has the root
        self._commands = 0
        self._strays = Strays(self._program)
        self.requests = {"signal": self._signal, "freeze": self._freeze}

    def attend(self, loop: Loop) -> None:
        process.set_subreaper()  # wherever the container is: what a runtime has made must come to us
        self._strays.attend(loop)

    # -- the first process
    def start(self, stdio: Stdio | None, rest: Callable[[], None] | None = None) -> Process:
        assert rest is None, "another runtime is told all at once"
        launch = self._launch
        process.set_subreaper()  # before the runtime ends and leaves us its child
        self._enter()
        os.makedirs(os.path.join(launch.run_dir, STATE), 0o700, exist_ok=True)
        self._mount()
        own, annotations = (cast(Json, self._config.get(name) or {}) for name in ("process", "annotations"))
        user = self._identity(own, annotations)
        whole = portable.config(
            self._whole(),
            root=self._root,
            user=user,
            cgroup=os.path.join("/", cgroups.detect().own, launch.cgroup) if cgroups.usable() else "",
            joined={kind: f"/proc/{os.getpid()}/fd/{fd}" for kind, fd in joined(self._kept).items()},
            soft_files=SOFT_FILES,
        )
        self._write("config.json", whole)
        return self._begin("create", ["--bundle", launch.run_dir], "init", stdio, lambda: self._program.run("start"))

    def _enter(self) -> None:
        """Go where the root is mounted, or may be; nothing that is mounted there is seen by the host."""
        if self._inside:
            return
        if MOUNTS in self._kept:
            process.setns(self._kept[MOUNTS], process.CLONE_NEWNS)
        else:
            process.unshare(process.CLONE_NEWNS)
            mount.set_root_propagation(mount.MS_SLAVE)
            self._kept[MOUNTS] = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._inside = True

    def _mount(self) -> None:
        launch = self._launch
        _put(open_root(Rootfs(list(launch.lower), launch.upper, launch.work)), self._root)
        if SHM in self._kept:
            _put(clone_elsewhere(self._kept[SHM], "dev/shm"), self._shm)

    def _whole(self) -> Json:
        """The configuration with the seccomp rules, which only the file has; and with the other container's /dev/shm
        from where it is mounted here: from its own place a runtime could not bind it."""
        linux = dict(cast(Json, self._config["linux"]))
        if "seccomp" in linux:
            with open(os.path.join(self._launch.bundle, "config.json"), "rb") as file:
                linux["seccomp"] = json.load(file)["linux"]["seccomp"]
        mounts = cast("list[Json]", self._config.get("mounts") or [])
        if SHM in self._kept:
            mounts = [{**one, "source": self._shm} if one["destination"] == "/dev/shm" else one for one in mounts]
        return {**self._config, "linux": linux, "mounts": mounts}

    def prepare(self) -> None:
        # Before the runtime does: with limits that it may not know, and in the v2 tree of a hybrid host too.
        limits = dict(cast(Json, cast(Json, self._config.get("linux") or {}).get("resources") or {}))
        limits.pop("devices", None)  # it sees to these itself; on v2 by a program of its own
        cgroups.create(self._launch.cgroup, limits)

    def _identity(self, own: Json, annotations: Json, pid: int = 0) -> User:
        """:param pid: the first process, for a monitor that has not mounted the root itself"""
        seen = os.path.ismount(self._root) or not pid
        root = os.open(self._root if seen else f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return identity(root, own, annotations)
        except InvalidArgument as error:
            raise StartFailed(error.what, error.why, error.fix, step="looking up the user") from error
        finally:
            os.close(root)

    # -- commands
    def execute(self, first: tuple[int, int], own: Json, stdio: Stdio | None) -> Process:
        self._enter()
        with contextlib.suppress(FileNotFoundError):  # a runtime with cgroups of its own
            if cgroups.frozen(self._launch.cgroup):
                raise Conflict("cannot run a command in the container", "it is paused", "Unpause it first")
        self._commands += 1
        name = f"exec{self._commands}"
        user = self._identity(own, cast(Json, own.get("annotations") or {}), first[0])
        whole = portable.process(own, user, SOFT_FILES)
        self._write(f"{name}.json", whole)
        umask = cast("dict[str, int]", whole["user"]).get("umask", UMASK)
        return self._begin("exec", ["--process", f"{name}.json", "--detach"], name, stdio, umask=umask)

    def _begin(
        self,
        verb: str,
        words: list[str],
        name: str,
        stdio: Stdio | None,
        then: Callable[[], None] | None = None,
        umask: int = UMASK,
    ) -> Process:
        console = Console(self._launch.run_dir, f"{name}.sock") if stdio is None else None
        words += ["--console-socket", console.name] if console else []
        files = [os.path.join(self._launch.run_dir, f"{name}.{kind}") for kind in ("pid", "json")]
        try:
            call = self._program.call(verb, *words, "--pid-file", files[0], stdio=stdio, umask=umask)
        except BaseException:
            if console:
                console.close()
            raise
        return Making(call, files, console, then, self._strays)

    def _write(self, name: str, content: Json) -> None:
        path = os.path.join(self._launch.run_dir, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            json.dump(content, file)

    # -- requests
    def _signal(self, message: Message, sock: socket.socket) -> bool:
        self._enter()
        self._program.run("kill", last=[str(message["number"])])
        send(sock, {"ok": True})
        return False

    def _freeze(self, message: Message, sock: socket.socket) -> bool:
        self._enter()
        self._program.run("pause" if message["on"] else "resume")
        send(sock, {"ok": True})
        return False

    # -- the end
    def clear(self, *, kill: bool = False) -> None:
        with contextlib.suppress(OSError, WharfError):  # whatever the runtime does not take back is looked at below
            self._enter()
            if self._program.knows:
                self._program.run("delete", "--force")
        if kill:
            cgroups.kill(self._launch.cgroup)
        self._strays.reap()
        for place in (self._root, self._shm):
            if self._inside and os.path.ismount(place):
                mount.umount(place)
        cgroups.remove(self._launch.cgroup)


def _put(made: int, folder: str) -> None:
    """Hang a detached mount, which is closed, on a folder, which is made."""
    os.makedirs(folder, 0o700, exist_ok=True)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mount.attach(made, place)
    finally:
        os.close(place)
        os.close(made)


class Strays:
    """Children that a runtime has left to us and nobody waits for. A dead one keeps its whole pid namespace from
    ending: the first process stays until all others are reaped (pid_namespaces(7))."""

    def __init__(self, program: Program) -> None:
        self._loop: Loop | None = None
        self._program = program
        self._spared: dict[int, int] = {}  # pid → start time
        self._again: Timer | None = None

    def attend(self, loop: Loop) -> None:
        """Look for them whenever a child ends."""
        self._loop = loop
        wake, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda signo, frame: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        loop.watch(wake, lambda events: self._woken(wake))

    def spare(self, pid: int) -> None:
        """Somebody waits for this one."""
        self._spared[pid] = process.start_time(pid)

    def _woken(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        self.reap()

    def reap(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        while not self._program.busy:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if self._spared.get(ended.si_pid) == process.start_time(ended.si_pid):
                break  # in the way, until whoever waits for it has taken it
            os.waitpid(ended.si_pid, 0)
        if self._loop is not None:
            self._again = self._loop.after(_LATER, self.reap)

    def await_end(self, pid: int) -> None:
        """Wait for one that was killed; what is in its way is taken."""
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None and ended.si_pid not in self._spared:
                os.waitpid(ended.si_pid, 0)
            time.sleep(_STEP)


class Console:
    """Where a runtime hands over the terminal that it has made (runc, "docs/terminals.md")."""

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self._path = os.path.join(folder, name)
        self._listener = socket.socket(socket.AF_UNIX)
        sockets.bind(self._listener, self._path)
        self._listener.listen(1)
        self._listener.settimeout(_TERMINAL)

    def take(self) -> int:
        """The terminal's master side. :raises StartFailed: it did not come"""
        try:
            with self._listener.accept()[0] as sock:
                sock.settimeout(_TERMINAL)
                fds = socket.recv_fds(sock, 4096, 1, socket.MSG_CMSG_CLOEXEC)[1]
                return fds[0]
        except (OSError, IndexError) as error:
            raise StartFailed("cannot make the terminal", "the runtime has sent none", step="terminal") from error

    def close(self) -> None:
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


class Making:
    """A runtime that makes a process (:class:`core.supervise.child.Process`): first ``pid`` is the runtime's own.

    :param files: what is between it and us: where it writes the pid, and others that are not needed any more then
    :param then: what is left to do before the command runs
    """

    gated = False

    def __init__(
        self, call: Call, files: list[str], console: Console | None, then: Callable[[], None] | None, strays: Strays
    ) -> None:
        self.pid = call.pid
        self.pidfd = call.pidfd
        self.master: int | None = None
        self.line = call
        self._files = files
        self._console = console
        self._then = then
        self._strays = strays
        self._made = self._tidied = False

    def advance(self) -> bool:
        try:
            self.line.finish()
            with open(self._files[0]) as file:
                self.pid = int(file.read())
            # It must be our child by now; then the pid cannot come to be another's.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self.pidfd = os.pidfd_open(self.pid)
            self._strays.spare(self.pid)
            self._made = True
            if self._console is not None:
                self.master = self._console.take()
            if self._then is not None:
                self._then()
        except (OSError, ValueError) as error:
            self._give_up()
            name = self.line.program.name
            raise StartFailed(f"{name} has made no process", str(error), f"Is {name} an OCI runtime?") from error
        except BaseException:
            self._give_up()
            raise
        self._tidy()
        return True

    def _give_up(self) -> None:
        if self._made:
            self.destroy()
        else:
            self._tidy()

    def _tidy(self) -> None:
        if self._tidied:
            return
        self._tidied = True
        self.line.program.busy -= 1
        if self._console is not None:
            self._console.close()
        for name in self._files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def bury(self) -> None:
        """Nothing is left."""

    def destroy(self) -> int:
        self._tidy()
        if self.master is not None:
            os.close(self.master)
        if not self._made:
            return self.line.kill()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self._strays.await_end(self.pid)
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.pidfd)
        return status

    def wait(
        self, cancel: socket.socket | None, timeout: float | None, meanwhile: Callable[[], None] | None = None
    ) -> None:
        follow(self, cancel, timeout, meanwhile)
