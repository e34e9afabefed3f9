"""The way out of the network that an ordinary user's containers share: pasta(1) or slirp4netns(1), kept running.

The network is a namespace that belongs to the user's user namespace, bound to a file in the mount namespace that all
wharf processes of the user share: there it is found, and it ends with that. This process (``wharf-uplink``, one for
each user) runs one of the two programs, which carries what leaves the network as an ordinary user's sockets. It is
forked by the first monitor that needs it. Each monitor holds a line to it, of which the launcher has a copy: with the
last one gone it ends; where it is killed, a monitor forks it again. The program itself dies with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from typing import NoReturn

from core.errors import Unavailable, WharfError, from_dict
from core.kernel import libc, netns, process
from core.supervise.loop import Loop
from core.supervise.protocol import receive, send
from core.supervise.sockets import bind, connect

NAMESPACE, SOCKET, LOCK = "wharf-netns", "wharf-uplink.sock", "wharf-uplink.lock"
LINE = "uplink"  # name of the descriptor, among those of a monitor
INTERFACE = "outside"
# Link-local, so that it is in nobody's way: only this network's router and the program see these addresses.
ADDRESS, PREFIX, ROUTER, DNS = "169.254.2.100", 24, "169.254.2.2", "169.254.2.3"
MTU = 65520  # nothing of a packet goes over a wire: the fewer, the faster
TUN = "/dev/net/tun"
LINGER = 3.0  # seconds without a container; the next one may come soon
_PATIENCE = 10.0  # seconds until the program is ready
_REST = 0.1  # seconds before it is started again, twice as long each time
_LONGEST_REST = 10.0
_TRIES = 2  # of each program: that of an uplink that was killed may not be gone yet
_STEADY = 30.0  # seconds after which it counts as running well
_PATH = ("/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin")


# -- what there is
def tools() -> list[str]:
    """The programs that are installed, the better one first."""
    return [
        path
        for name in ("pasta", "slirp4netns")
        for path in [next((f"{d}/{name}" for d in _PATH if os.access(f"{d}/{name}", os.X_OK)), "")]
        if path
    ]


def names() -> list[str]:
    """What the installed programs are called."""
    return [os.path.basename(path) for path in tools()]


def why_not() -> tuple[str, str] | None:
    """Why this user's containers can have no network of their own, and how to change it; None where they can."""
    if not tools():
        return "neither pasta nor slirp4netns is installed", "As root: apt-get install passt"
    if not os.path.exists(TUN):
        return f"there is no {TUN}", "As root: modprobe tun; in a container: give it the device"
    if not os.access(TUN, os.R_OK | os.W_OK):
        return f"{TUN} cannot be opened by you", f"As root: chmod 666 {TUN}, which is what udev makes it"
    return None


def _argv(tool: str, namespace: str) -> list[str]:
    """Ready when it writes something to its standard output. The host's loopback stays out of reach."""
    if tool.endswith("pasta"):
        return [
            tool, "--foreground", "--ipv4-only", "--quiet", "--config-net", "--netns-only", "--no-netns-quit",
            "--netns", namespace, "--ns-ifname", INTERFACE, "--mtu", str(MTU), "--address", ADDRESS, "--netmask",
            str(PREFIX), "--gateway", ROUTER, "--dns-forward", DNS, "--no-map-gw", "--tcp-ports", "none",
            "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none", "--pid", "/proc/self/fd/1",
        ]  # fmt: skip
    return [
        tool, "--configure", f"--mtu={MTU}", f"--cidr={ROUTER.rpartition('.')[0]}.0/{PREFIX}",
        "--disable-host-loopback", "--netns-type=path", "--ready-fd=1", namespace, INTERFACE,
    ]  # fmt: skip


# -- the monitor's side
def open_shared(folder: str) -> int:
    """A descriptor of the shared network. :raises OSError: there is none"""
    return netns.open_at(os.path.join(folder, NAMESPACE))


def join(folder: str) -> socket.socket:
    """A line to the user's uplink, which is forked from this process where there is none.

    :param folder: with the files above
    :raises OSError:
    """
    with _locked(folder):
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = os.path.join(folder, SOCKET)
        try:
            connect(line, path)
        except (FileNotFoundError, ConnectionRefusedError):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                bind(listener, path)
                listener.listen(1024)
                _fork(listener, folder)
            connect(line, path)
        except BaseException:
            line.close()
            raise
        return line


def await_ready(line: socket.socket) -> None:
    """Until containers can reach the outside. :raises WharfError: why they cannot"""
    line.settimeout(_PATIENCE)
    try:
        error = receive(line)[0].get("error")
    except (EOFError, OSError) as failure:
        raise Unavailable("the containers' network has no way out", f"its uplink has ended: {failure}") from failure
    finally:
        line.settimeout(None)
    if isinstance(error, dict):
        raise from_dict(error)


@contextlib.contextmanager
def _locked(folder: str, flags: int = 0) -> Iterator[None]:
    fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(fd)


def _fork(listener: socket.socket, folder: str) -> None:
    """Twice: the one in the middle ends at once, so that the launcher reaps the uplink and no monitor has to."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.fork() == 0:
                _become(listener, folder)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _become(listener: socket.socket, folder: str) -> NoReturn:
    try:
        os.setsid()
        process.set_title("wharf-uplink")
        libc.close_all_but({0, 1, 2, listener.fileno()})
        Uplink(listener, folder).run()
    finally:
        os._exit(0)


# -- the process
class Tool:
    """pasta or slirp4netns, running.

    :param namespace: path
    """

    def __init__(self, tool: str, namespace: str) -> None:
        """:raises OSError: no process can be made"""
        self.name = os.path.basename(tool)
        self.out, out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.err, err = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.since = time.monotonic()
        self._said = b""
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _execute(_argv(tool, namespace), (out, err), parent)
        os.close(out)
        os.close(err)
        self.pidfd = os.pidfd_open(self.pid)

    def is_ready(self) -> bool:
        """True from the moment when it has said so."""
        try:
            return bool(os.read(self.out, 64))
        except BlockingIOError:
            return False

    def listen(self) -> bool:
        """Keep the last of what it says. :returns: False where nothing more will come"""
        try:
            part = os.read(self.err, 65536)
        except BlockingIOError:
            return True
        self._said = (self._said + part)[-4096:]
        return bool(part)

    def last_words(self) -> str:
        self.listen()
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines()]
        # The rest is pasta's complaint that there is no system log.
        said = [line for line in lines if line and not line.startswith("Failed to send")]
        return f"{self.name}: {said[-1] if said else 'it ended without a word'}"

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        for fd in (self.out, self.err, self.pidfd):
            os.close(fd)


def _execute(argv: list[str], ends: tuple[int, int], parent: int) -> NoReturn:
    try:
        process.set_death_signal(signal.SIGKILL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # pasta takes it for an error where that is anything else
        for number, fd in enumerate(ends, 1):
            os.set_blocking(fd, True)
            os.dup2(fd, number)
        libc.close_all_but({0, 1, 2})
        if os.getppid() == parent:  # else it has gone meanwhile, and nobody would end us
            os.execve(argv[0], argv, {"PATH": os.pathsep.join(_PATH), "LANG": "C.UTF-8"})
    finally:
        os._exit(127)


def try_out(namespace: str) -> str:
    """Run a tool for a moment. :returns: what is wrong with all of them; empty: all is well"""
    failed = []
    for path in tools():
        tool = Tool(path, namespace)
        try:
            poll = select.poll()
            poll.register(tool.out, select.POLLIN)
            poll.poll(_PATIENCE * 1000)
            if tool.is_ready():
                return ""
            failed.append(tool.last_words())
        finally:
            tool.end()
    return "; ".join(failed)


class Uplink:
    """:param listener: where monitors call :param folder: with the files above"""

    def __init__(self, listener: socket.socket, folder: str) -> None:
        self._loop = Loop()
        self._listener = listener
        self._folder = folder
        self._lines: set[socket.socket] = set()
        self._waiting: list[socket.socket] = []
        self._tool: Tool | None = None
        self._ready = False
        self._failures: list[str] = []
        self._candidates: list[str] = []
        self._rest = _REST
        listener.setblocking(False)
        self._listen()
        self._loop.after(LINGER, self._maybe_leave)

    def run(self) -> None:
        self._candidates = tools() * _TRIES
        self._start()
        self._loop.run()

    # -- monitors
    def _listen(self) -> None:
        self._loop.unwatch(self._listener.fileno())  # two tries may have been put off
        self._loop.watch(self._listener.fileno(), lambda events: self._accept())

    def _accept(self) -> None:
        while True:
            try:
                line = self._listener.accept()[0]
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no descriptor is left; those that are connected need us all the same
                self._loop.unwatch(self._listener.fileno())
                self._loop.after(_REST, self._listen)
                return
            self._lines.add(line)
            self._loop.watch(line.fileno(), lambda events, line=line: self._leave(line))  # type: ignore[misc]
            if self._ready:
                self._tell(line, None)
            else:
                self._waiting.append(line)

    def _tell(self, line: socket.socket, error: WharfError | None) -> None:
        with contextlib.suppress(OSError):
            send(line, {"ok": True} if error is None else {"error": error.to_dict()})

    def _leave(self, line: socket.socket) -> None:
        """Monitors say nothing: what comes is the end."""
        self._loop.unwatch(line.fileno())
        self._lines.discard(line)
        if line in self._waiting:
            self._waiting.remove(line)
        line.close()
        if not self._lines:
            self._loop.after(LINGER, self._maybe_leave)

    def _maybe_leave(self) -> None:
        if self._lines:
            return
        try:
            # Under the lock nobody calls: who comes later finds no socket, and forks another one.
            with _locked(self._folder, fcntl.LOCK_NB):
                self._accept()
                if self._lines:
                    return
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, SOCKET))
                if self._tool is not None:
                    self._tool.end()
                self._loop.stop()
        except BlockingIOError:
            self._loop.after(LINGER, self._maybe_leave)
        except FileNotFoundError:
            self._loop.stop()  # the whole folder has been removed

    # -- the program
    def _start(self) -> None:
        if not self._candidates:
            self._give_up()
            return
        try:
            self._tool = Tool(self._candidates[0], os.path.join(self._folder, NAMESPACE))
        except OSError as error:
            self._failures.append(str(error))
            self._give_up()
            return
        tool = self._tool
        self._loop.watch(tool.out, lambda events: self._heard(tool))
        self._loop.watch(tool.err, lambda events: self._said(tool))
        self._loop.watch(tool.pidfd, lambda events: self._ended(tool))

    def _heard(self, tool: Tool) -> None:
        self._loop.unwatch(tool.out)
        if tool.is_ready():
            self._ready, self._failures = True, []
            for line in self._waiting:
                self._tell(line, None)
            self._waiting = []

    def _said(self, tool: Tool) -> None:
        if not tool.listen():
            self._loop.unwatch(tool.err)

    def _ended(self, tool: Tool) -> None:
        was_ready, self._ready, self._tool = self._ready, False, None
        for fd in (tool.out, tool.err, tool.pidfd):
            self._loop.unwatch(fd)
        self._failures.append(tool.last_words())
        if time.monotonic() - tool.since > _STEADY:
            self._rest = _REST
        tool.end()
        if was_ready:  # it works here, and was killed
            self._loop.after(self._rest, self._start)
            self._rest = min(2 * self._rest, _LONGEST_REST)
        else:
            self._candidates.pop(0)
            self._loop.after(_REST, self._start)

    def _give_up(self) -> None:
        """None of them works now: who waits is told, and those that run get another try later."""
        why = "; ".join(self._failures[-2:]) or "neither pasta nor slirp4netns is installed"
        error = Unavailable(
            "the containers' network has no way out", why, "See: wharf doctor; or use --network none or host"
        )
        for line in self._waiting:
            self._tell(line, error)
        self._waiting, self._failures = [], []
        self._loop.after(_LONGEST_REST, self._start_again)

    def _start_again(self) -> None:
        self._candidates = tools() * _TRIES
        if self._tool is None:
            self._start()
