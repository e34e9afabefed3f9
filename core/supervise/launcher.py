"""The launcher: a warm fork server. It forks monitors, keeps copies of what they hold, and replaces one that is killed.

Started by the first engine that needs it (see :mod:`core.supervise.client`) with a listening socket, from a read-only
view of the interpreter; it leaves when it has had nothing to do for a minute. Everything a monitor or an init needs is
imported here, once: nothing is imported after a fork.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import cast

from core import cgroups
from core.errors import InvalidArgument, WharfError
from core.kernel import libc, memory, process
from core.kernel.clone import can_fork_into
from core.runtime import defaults, mountopts
from core.supervise import adopt, tasks
from core.supervise.copies import SETTLED
from core.supervise.first import title_of
from core.supervise.forked import answer, become_monitor, wait_for_work, watch_first
from core.supervise.keeper import Keeper
from core.supervise.listen import Reception
from core.supervise.loop import Loop
from core.supervise.monitor import Monitor
from core.supervise.protocol import PROTOCOL, Launch, Message, close_all, launch_of, receive, send, send_payload
from core.supervise.records import load_state, monitor_goes_on
from core.supervise.rundir import CONTROL, load_launch
from core.supervise.sockets import connect
from core.supervise.spawn import read_config

IDLE = 60.0  # seconds
_PATIENCE = 2.0  # seconds a monitor may take over a message
_PAUSE = 0.003  # seconds from the end of a start, as its monitor tells it, to the next spare monitor
_MAX_ADOPTIONS = 5  # of one container in a row, then a minute of rest


class Guard:
    """What the launcher knows and keeps of one monitor. ``kept`` are copies of the monitor's descriptors by name."""

    def __init__(self, launch: Launch, pid: int, line: socket.socket | None = None) -> None:
        self.launch = launch
        self.pid = pid
        self.kept: dict[str, int] = {}
        self.container = 0
        self.status: int | None = None  # of the container's first process, where it was ours to reap
        self.line = line
        self.pidfd = -1
        self.adoptions = 0

    def close(self) -> None:
        close_all(list(self.kept.values()))
        self.kept = {}
        if self.line is not None:
            self.line.close()
            self.line = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Launcher:
    """:param listener: bound by the engine, so that it can connect before we are up
    :param run: the instance's run folder
    :param build: identifies the code; a newer engine has a launcher with another one retire
    """

    def __init__(self, listener: socket.socket, run: str, build: str) -> None:
        self._run = run
        self._build = build
        self._loop = Loop()
        # By the monitor's pid: the last monitor of a container may still be leaving when the next one is at work.
        self._guards: dict[int, Guard] = {}
        self._spare: tuple[int, socket.socket] | None = None  # a monitor without a container: its pid, our line to it
        self._example = b""  # the last launch
        self._pages: memory.Pages = ()  # of a monitor's memory: those that a start writes to
        # Forked, and perhaps not there yet where they close what is not theirs: a pipe to each. And who waits for that.
        self._young: set[int] = set()
        self._owed: list[tuple[set[int], int]] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._idle = self._loop.after(IDLE, self._maybe_leave)
        self._keeper = Keeper(self._loop)
        self._reception = Reception(self._loop, listener, self._serve, self._parse)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda signo, frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._loop.watch(self._wake_read, lambda events: self._children_ended())
        self._find_monitors()
        self._loop.run()

    # -- requests
    def _parse(self, payload: bytes) -> Message:
        """A launch stays as it is: its monitor parses it, and what this process does before it forks, it does for
        each of them: every page that it writes to then has to be copied."""
        launch = launch_of(payload, self._build)
        return cast(Message, json.loads(payload)) if launch is None else {"launch": launch}

    def _serve(self, message: Message, fds: list[int], sock: socket.socket) -> bool:
        launch = message.get("launch")
        if isinstance(launch, bytes):
            self._first_monitor(launch, sock)
        elif message.get("protocol") != PROTOCOL or message.get("build") != self._build:
            self._retire()
            send(sock, {"retired": True})
        elif message["op"] == "adopt":
            self._consider(str(message["id"]), str(message["run_dir"]))
            send(sock, {"ok": True})
        else:
            raise InvalidArgument(f"unknown request {message['op']!r}", "this launcher is of another version")
        self._idle.cancel()
        self._idle = self._loop.after(IDLE, self._maybe_leave)
        return False

    # -- monitors
    def _first_monitor(self, launch: bytes, reply: socket.socket) -> None:
        """The monitor of a new container; it answers the engine itself."""
        spare, self._spare = self._spare, None
        if spare is not None:
            try:
                send_payload(spare[1], launch, [reply.fileno()])
            except OSError:  # it was killed
                spare[1].close()
                spare = None
        pid, line = spare or self._fork({reply.fileno()}, lambda line: watch_first(launch, reply, line))
        self._example = launch
        self._watch(Guard(Launch.from_plain(json.loads(launch)), pid, line))

    def _make_spare(self) -> None:
        """One monitor beforehand, once the last start is out of the way: the next one need not wait for the fork."""
        if self._spare is None:
            example, pages = self._example, self._pages
            self._spare = self._fork(set(), lambda line: wait_for_work(line, example, pages))

    def _fork_adopter(self, guard: Guard) -> None:
        """A new monitor for a container whose monitor was killed."""
        launch = load_launch(guard.launch.run_dir) or guard.launch  # it may have been changed since
        kept, status = dict(guard.kept), guard.status
        try:
            config = read_config(launch.bundle)
        except WharfError:
            config = {}  # the container was removed meanwhile; what is left can still be released

        def work(line: socket.socket) -> None:
            process.set_title(title_of(launch))
            monitor = Monitor(launch, line, config, kept, tasks.runtime(launch, config, kept))
            if adopt.take_over(monitor, status):
                monitor.run()

        fresh = Guard(launch, *self._fork(set(kept.values()), work))
        fresh.kept, guard.kept = guard.kept, {}
        fresh.container, fresh.status, fresh.adoptions = guard.container, guard.status, guard.adoptions + 1
        guard.close()
        self._watch(fresh)

    def _fork(self, keep: set[int], work: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
        """:returns: pid of the new monitor, and our end of the line to it"""
        ours, theirs = socket.socketpair()
        young, grown = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError:
            close_all([young, grown])
            raise
        if pid == 0:
            become_monitor({theirs.fileno(), *keep}, lambda: work(theirs))
        theirs.close()
        os.close(grown)
        self._young.add(young)
        self._loop.watch(young, lambda events: self._grown(young), 0)  # of its end one always hears
        return pid, ours

    def _grown(self, young: int) -> None:
        """One that was forked has closed all that is ours."""
        self._loop.unwatch(young)
        os.close(young)
        self._young.discard(young)
        for waited_for, _ in self._owed:
            waited_for.discard(young)
        close_all([fd for waited_for, fd in self._owed if not waited_for])
        self._owed = [(waited_for, fd) for waited_for, fd in self._owed if waited_for]

    def _watch(self, guard: Guard) -> None:
        assert guard.line is not None
        guard.line.settimeout(_PATIENCE)
        self._guards[guard.pid] = guard
        self._keeper.attend(guard.launch)
        self._loop.watch(guard.line.fileno(), lambda events: self._told(guard))

    def _told(self, guard: Guard) -> None:
        """A monitor gives copies of its descriptors (all of them, each time); see :mod:`core.supervise.copies`."""
        assert guard.line is not None
        try:
            message, fds = receive(guard.line)
        except (OSError, EOFError, WharfError):
            self._loop.unwatch(guard.line.fileno())  # it has ended; SIGCHLD says how
            return
        close_all(list(guard.kept.values()))
        guard.kept = dict(zip(cast("list[str]", message["keep"]), fds, strict=True))
        guard.container, guard.status = cast(int, message["pid"]), None
        if (settled := guard.kept.pop(SETTLED, None)) is not None:
            if self._young:
                self._owed.append((set(self._young), settled))
            else:
                os.close(settled)
        self._pages = self._pages or cast(memory.Pages, message.get("pages", ()))
        if self._spare is None and self._example and "starting" not in message:
            self._loop.after(_PAUSE, self._make_spare)

    def _children_ended(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._child_ended(pid, status)

    def _child_ended(self, pid: int, status: int) -> None:
        if self._spare is not None and self._spare[0] == pid:
            self._spare[1].close()
            self._spare = None
        for guard in list(self._guards.values()):
            if guard.pid == pid:
                self._monitor_ended(guard, bad=status != 0)
            elif guard.container == pid:
                # Its monitor was killed, so that it became our child: the next monitor wants to know.
                guard.status = status
                if guard.line is not None:
                    answer(guard.line, {"exited": pid, "status": status})

    def _monitor_ended(self, guard: Guard, *, bad: bool) -> None:
        if guard.line is not None:
            while guard.line.fileno() >= 0 and self._pending(guard):
                self._told(guard)
            self._loop.unwatch(guard.line.fileno())
        self._guards.pop(guard.pid, None)
        if guard.pidfd >= 0:
            self._loop.unwatch(guard.pidfd)
        if not bad:
            guard.close()
        elif guard.adoptions < _MAX_ADOPTIONS:
            self._fork_adopter(guard)
        else:
            guard.adoptions = 0
            self._loop.after(IDLE, lambda: self._fork_adopter(guard))

    def _pending(self, guard: Guard) -> bool:
        assert guard.line is not None
        try:
            return bool(guard.line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    # -- monitors of an earlier launcher
    def _find_monitors(self) -> None:
        """After a launcher was killed: guard the monitors it left, and replace those that are gone too."""
        base = os.path.join(self._run, "c")
        for cid in os.listdir(base) if os.path.isdir(base) else ():
            self._consider(cid, os.path.join(base, cid))

    def _consider(self, cid: str, run_dir: str) -> None:
        launch, state = load_launch(run_dir), load_state(run_dir)
        if launch is None or (state is not None and state.monitor_pid in self._guards):
            return
        if state is None and any(guard.launch.id == cid for guard in self._guards.values()):
            return  # it is just being started
        guard = Guard(launch, state.monitor_pid if state else 0)
        guard.container = state.pid if state else 0
        pidfd = process.open_pidfd(state.monitor_pid, state.monitor_start) if state else None
        if state is None or pidfd is None:
            self._fork_adopter(guard)
            return
        guard.pidfd = pidfd
        self._guards[guard.pid] = guard
        self._keeper.attend(guard.launch)
        if monitor_goes_on(state):  # one that was killed answers no more, and is replaced once it is gone
            self._ask_for_copies(guard)
        self._loop.watch(pidfd, lambda events: self._stranger_ended(guard))

    def _ask_for_copies(self, guard: Guard) -> None:
        """And for those of all that changes from then on: the connection becomes the line from the monitor."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_PATIENCE)
        try:
            connect(sock, os.path.join(guard.launch.run_dir, CONTROL))
            send(sock, {"op": "keep"})
            message, fds = receive(sock)
        except (OSError, EOFError, WharfError):
            sock.close()  # it is about to leave, or it will be replaced with what can be found in /proc
            return
        guard.kept = dict(zip(cast("list[str]", message["names"]), fds, strict=True))
        guard.line = sock
        self._loop.watch(sock.fileno(), lambda events: self._told(guard))

    def _stranger_ended(self, guard: Guard) -> None:
        # Not our child, so its exit code is not ours to see; one that left in order has removed its folder.
        left_folder = os.path.isdir(guard.launch.run_dir) and load_state(guard.launch.run_dir) is not None
        self._monitor_ended(guard, bad=left_folder)

    # -- leaving
    def _retire(self) -> None:
        """Make way for a launcher of another version: it guards our monitors too (see :meth:`_find_monitors`)."""
        self._reception.close()
        self._loop.stop()

    def _maybe_leave(self) -> None:
        if self._guards:
            self._idle = self._loop.after(IDLE, self._maybe_leave)
            return
        try:
            lock = os.open(os.path.join(self._run, "launcher.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            self._loop.stop()  # the whole instance has been removed
            return
        try:
            # Under the lock no engine puts a new socket there, which we would take away.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(os.path.join(self._run, "launcher.sock"))
        except BlockingIOError:
            self._idle = self._loop.after(IDLE, self._maybe_leave)
            return
        except FileNotFoundError:
            pass
        finally:
            os.close(lock)
        self._loop.stop()


def main(listener_fd: int, run: str, build: str) -> None:
    """Entry point, in a process of its own whose standard streams are set already."""
    if os.fork():
        os._exit(0)  # the engine that started us need not reap us
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    libc.close_all_but({0, 1, 2, listener_fd})
    # Before anything of a container's exists: nobody may trace us or open what we hold through /proc, and forked
    # children inherit that (CVE-2016-9962, CVE-2019-5736).
    process.set_dumpable(False)
    process.set_name("wharf-launcher")
    # A container whose monitor is killed becomes our child: its exit status is not lost.
    process.set_subreaper()
    for signo in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(signo, signal.SIG_DFL)
    # Who hangs up on us or on a monitor must not end it; commands get the default back (finish.py).
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.stdin = sys.stdout = None
    # A handful of descriptors for each of perhaps many containers; these get the usual limit back (finish.py).
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    # Asked once, here: every monitor inherits the answers.
    cgroups.detect()
    can_fork_into()
    process.boot_id()
    process.argument_area()
    for entry in defaults.mounts(64 << 20):
        mountopts.parse(cast("list[str]", entry["options"]))
    # What is alive now is shared with every monitor: the collector must never touch (and so copy) it.
    gc.collect()
    gc.freeze()
    Launcher(socket.socket(fileno=listener_fd), run, build).run()
