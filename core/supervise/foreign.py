"""One call of another OCI runtime by its command line, which is runc's for all of them; and what its failures mean."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import signal
from collections.abc import Sequence
from typing import NoReturn

from core import cgroups
from core.errors import CommandNotExecutable, CommandNotFound, Conflict, StartFailed, WharfError
from core.kernel import libc, mount, process
from core.kernel.clone import fork_into
from core.supervise.starter import SOFT_FILES, Stdio

STATE = "oci"  # below the run folder: what the runtime knows of the container
PATIENCE = 60.0  # seconds for what nobody can give up meanwhile
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}
UMASK = 0o022  # the launcher's would make folders that the user cannot enter
_LOG = 65536  # bytes at the end of its log in which the reason is looked for
_NO_COMMAND = re.compile(
    r"executable file .*not found|error finding executable|exec: .*(no such file or directory|not a directory)", re.I
)
_NO_PROGRAM = re.compile(
    r"(exec: |open executable).*(permission denied|operation not permitted|is a directory)|exec format error", re.I
)
_NOISE = re.compile(r"^(\w+ (create|exec) failed: |unable to start container process: |exec failed: )+")


class Program:
    """An external runtime at work for one container.

    :param argv: absolute path, and the arguments for every call
    :param folder: the container's run folder. Calls start there, so that sockets have short names (unix(7))
    :param cgroup: the container's
    """

    def __init__(self, argv: Sequence[str], cid: str, folder: str, cgroup: str) -> None:
        self.argv = list(argv)
        self.name = os.path.basename(argv[0])
        self.cid = cid
        self.folder = folder
        self.cgroup = cgroup
        self.busy = 0  # calls under way: what they have made may be a child of ours whose pid is not known yet
        self._calls = 0

    @property
    def knows(self) -> bool:
        """Does it hold anything of the container?"""
        with contextlib.suppress(FileNotFoundError):
            return bool(os.listdir(os.path.join(self.folder, STATE)))
        return False

    def call(
        self, verb: str, *options: str, last: Sequence[str] = (), stdio: Stdio | None = None, umask: int = UMASK
    ) -> Call:
        """Begin ``RUNTIME VERB OPTIONS… ID LAST…``; whoever has seen it to its end takes one off :attr:`busy`.

        :param stdio: None: there is no input, and what it says goes to its log
        :param umask: a command that is run inside may inherit it (runc 1.1 does not look at its ``process.user.umask``)
        :raises OSError: no process can be made
        """
        self._calls += 1
        log = os.path.join(self.folder, f"{verb}{self._calls}.log")
        general = ["--root", os.path.join(self.folder, STATE), "--log", log, "--log-format", "json"]
        argv = [*self.argv, *general, verb, *options, self.cid, *last]
        born = self._cgroup_of_birth()
        parent = os.getpid()
        try:
            pid = os.fork() if born is None else fork_into(born)
            if pid == 0:
                self._become(argv, log, stdio, umask, parent)
        finally:
            if born is not None:
                os.close(born)
        self.busy += 1
        return Call(self, verb, pid, log)

    def run(self, verb: str, *options: str, last: Sequence[str] = ()) -> None:
        """The same, to its end. :raises WharfError: what it said"""
        call = self.call(verb, *options, last=last)
        try:
            call.finish()
        finally:
            self.busy -= 1

    def _cgroup_of_birth(self) -> int | None:
        """On a hybrid host runtimes care for the v1 hierarchies only; the v2 tree's group is inherited from here."""
        if cgroups.detect().version != "hybrid":
            return None
        with contextlib.suppress(FileNotFoundError):
            return cgroups.born_in(self.cgroup)
        return None

    def _become(self, argv: list[str], log: str, stdio: Stdio | None, umask: int, parent: int) -> NoReturn:
        """In the child."""
        try:
            process.set_death_signal(signal.SIGKILL)  # half a container is worth nothing to the next monitor
            if os.getppid() != parent:
                os._exit(1)
            os.setsid()
            os.umask(umask)
            os.chdir(self.folder)
            said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            for number, fd in enumerate(stdio or (null, said, said)):
                os.dup2(fd, number)
            try:
                _hide_v2()
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(SOFT_FILES, hard), hard))
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                libc.close_range(3, cloexec=True)
                os.execve(argv[0], argv, _ENVIRONMENT)
            except OSError as error:
                os.write(said, f"cannot execute {argv[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)


def _hide_v2() -> None:
    """Some runtimes refuse a hybrid host (crun), although they know v1: they see only that."""
    layout = cgroups.host()
    if layout.version == "hybrid":
        process.unshare(process.CLONE_NEWNS)
        mount.set_root_propagation(mount.MS_SLAVE)
        try:
            mount.umount(layout.unified)
        except OSError:  # in a user namespace the host's mounts stay, but can be covered
            place = os.open(layout.unified, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mount.attach(mount.filesystem("tmpfs"), place)


class Call:
    """A runtime's process at work; its descriptor becomes readable when it has ended."""

    def __init__(self, program: Program, verb: str, pid: int, log: str) -> None:
        self.program = program
        self.verb = verb
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self._log = log

    def fileno(self) -> int:
        return self.pidfd

    def finish(self, timeout: float = PATIENCE) -> None:
        """Wait for its end.

        :param timeout: seconds
        :raises WharfError: it failed, or took longer and was killed
        """
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        late = not poll.poll(timeout * 1000)
        status = self._reap(kill=late)
        said = _last_words(self._log)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._log)
        if late:
            said = f"it took more than {timeout:.0f} s"
        if status or late:
            raise self._failure(said or _describe(status))

    def kill(self) -> int:
        """End it now, and whatever it has started without letting go of it. Returns its wait status."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._log)
        return self._reap(kill=True)

    def _reap(self, *, kill: bool) -> int:
        if kill:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.pidfd)
        self.pidfd = -1
        return status

    def _failure(self, said: str) -> WharfError:
        words = _NOISE.sub("", said)
        if self.verb in ("create", "start", "exec"):
            step = f"{self.program.name} {self.verb}"
            if _NO_COMMAND.search(words):
                fix = "Check the command's name, or give its full path"
                return CommandNotFound(f"{self.program.name}: {words}", fix="" if fix in words else fix, step=step)
            if _NO_PROGRAM.search(words):
                fix = "Check the file's mode and format"
                return CommandNotExecutable(f"{self.program.name}: {words}", fix=fix, step=step)
            what = "run a command in" if self.verb == "exec" else "start"
            fix = "" if self.verb == "exec" else "See whether it does with the engine's own runtime: --runtime wharf"
            return StartFailed(f"{self.program.name} cannot {what} the container", words, fix, step=step)
        return Conflict(f"{self.program.name} cannot {self.verb} the container", words)


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"it ended with code {code}" if code >= 0 else f"it was killed by signal {-code}"


def _last_words(log: str) -> str:
    """The last error in a runtime's log: lines of JSON, and whatever else it has said."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    plain = ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
            if entry["level"] in ("error", "fatal", "panic"):
                return str(entry["msg"]).strip()
        except (ValueError, KeyError, TypeError):
            plain = plain or line.strip()
    return plain
