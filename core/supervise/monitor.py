"""The monitor: one process per running container, its parent, its log, its terminal, its restart policy.

It is forked by the launcher, has no event loop of asyncio and imports nothing after the fork (but for a restore), so
that it stays at about a megabyte. What it holds beside memory (pidfd, network namespace, reserved ports, terminal,
input) it also gives to the launcher to keep: a monitor that is killed is replaced, and the new one goes on with the
same descriptors.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

from core import cgroups
from core.errors import CommandNotExecutable, CommandNotFound, StartFailed, WharfError
from core.kernel import memory, process
from core.logs.writer import LogWriter
from core.runtime.defaults import Json
from core.store.tell import append
from core.supervise import resolver, tasks
from core.supervise.carriers import Carriers
from core.supervise.child import Process
from core.supervise.copies import give
from core.supervise.fate import wait_status
from core.supervise.loop import Loop
from core.supervise.paper import Paper
from core.supervise.protocol import HELD, OWN, Launch
from core.supervise.pump import Pump
from core.supervise.records import ExitRecord, RunState
from core.supervise.release import release
from core.supervise.resolver import Resolver
from core.supervise.rest import end_rest
from core.supervise.restart import Restarts
from core.supervise.rundir import CONTROL, RunDir
from core.supervise.service import Service

RESTART_TIMEOUT = 60.0  # seconds an automatic start may take
_LAST_WORDS = 10.0  # seconds for attached clients to take what they have not got yet


class Monitor:
    """One container. Create it, then :func:`core.supervise.first.start` or :func:`core.supervise.adopt.take_over`, then
    :meth:`run`.

    :param store: connection to the launcher
    :param kept: descriptors by name: ``netns``, and ``hold*`` that are only kept open
    :param runtime: what makes the container, from the same
    """

    def __init__(
        self,
        launch: Launch,
        store: socket.socket,
        config: Json,
        kept: dict[str, int],
        runtime: tasks.Runtime,
    ) -> None:
        self.launch = launch
        self.kept = kept
        self.store = store
        self.loop = Loop()
        self.stopping = False
        self.finished = False
        self.rundir: RunDir | None = None
        self.paper = Paper(self.loop, launch.exit_path, self._settled)
        self.pump = Pump(self.loop, self._input_ended)
        self.restarts = Restarts(launch.restart)
        self.service: Service | None = None
        self.resolver: Resolver | None = None
        self.carriers = Carriers(self)
        self.config = config
        self.runtime = runtime
        runtime.attend(self.loop)
        self.outputs: dict[int, int] = {}  # our ends of its pipes → stream
        self.last_code: int | None = None  # exit code of the run that ended last
        self._leave_at = 0.0  # monotonic: when it has to leave, whoever is not served yet
        self.pidfd = -1
        self.child = False  # the first process is ours to reap
        self.state = RunState(
            monitor_pid=os.getpid(),
            monitor_start=process.start_time(os.getpid()),
            pid=0,
            pid_start=0,
            status="running",
            started=0.0,
            tty=launch.tty,
            boot_id=process.boot_id(),
            external=bool(launch.runtime),
        )

    # -- the start
    def enter(self, rundir: RunDir) -> None:
        """The folder is ours, and with it the container; not before may anything of it be touched.

        :raises OSError: the log cannot be opened, or the container has been removed
        """
        self.rundir = self.paper.rundir = rundir
        log = self.launch.log
        self.pump.log = LogWriter(self.launch.log_path, log.max_size, log.max_files)

    def resume_as(self, old: RunState) -> None:
        """Go on with what the last monitor has written down."""
        mine = self.state
        self.state = old._replace(monitor_pid=mine.monitor_pid, monitor_start=mine.monitor_start)
        self.restarts.count = old.restarts
        self.stopping = old.stopping

    def undo(self) -> None:
        """Take back everything of a start that failed or that nobody wants any more."""
        self.stopping = True
        if self.pidfd >= 0:
            self.loop.unwatch(self.pidfd)
            self._kill()
        self._stop_serving()
        self.pump.close()
        self.pump.finish({"exit": None})
        if self.rundir is not None:
            # Without it another monitor is at work, and the cgroup is that one's.
            self.runtime.clear(kill=True)
            self._close_kept()
            self.rundir.remove()
        self.finished = True

    def _kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            if self.child:
                os.waitpid(self.state.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    # -- processes
    def follow(
        self,
        child: Process,
        outputs: dict[int, int],
        cancel: socket.socket | None,
        timeout: float | None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Take over what :func:`core.supervise.tasks.begin` has begun, up to the exec.

        :param meanwhile: done while the child sets itself up, on another processor
        :raises WharfError:
        :raises OSError:
        """
        self.outputs = outputs
        child.wait(cancel, timeout, meanwhile)
        self.pidfd, self.child = child.pidfd, True
        self.kept["pidfd"] = child.pidfd
        if child.master is not None:
            self.kept["terminal"] = child.master
        self.state = self.state._replace(
            pid=child.pid,
            pid_start=process.start_time(child.pid),
            status="running",
            started=time.time(),
            restarts=self.restarts.count,
        )
        # For its next run: others may have joined it by then. Now, because it may be killed as soon as anyone knows it.
        if "netns" not in self.kept and (made := tasks.own_network(self.launch, self.config, child.pid)) is not None:
            self.kept["netns"] = made

    def attend(self, pages: memory.Pages = ()) -> None:
        """From here on its streams are moved, its end is seen, and the launcher has what another monitor would need.

        :param pages: for the launcher
        """
        self.open_streams()
        self.watch_end()
        self.carriers.start()
        self.give_to_launcher(pages)

    def open_streams(self) -> None:
        """Begin to move the container's bytes."""
        terminal = self.kept.get("terminal")
        if self.launch.tty:
            self.pump.open({} if terminal is None else {terminal: 1}, terminal, terminal)
            return
        self.pump.open(self.outputs, self.kept.get("stdin"), None)

    def watch_end(self) -> None:
        self.loop.watch(self.pidfd, lambda events: self._ended())

    def give_to_launcher(self, pages: memory.Pages = (), *, settled: bool = False, starting: bool = False) -> None:
        """Have the launcher hold copies of what another monitor would need; see :func:`core.supervise.copies.give`."""
        give(self.store, self.kept, self.state.pid, pages, settled=settled, starting=starting)

    def _input_ended(self) -> None:
        fd = self.kept.pop("stdin", None)
        if fd is not None:
            os.close(fd)
            self.give_to_launcher()  # its copy must go as well, or the container never sees the end

    def open_control(self) -> None:
        """Serve ``ctl.sock``, and names where it has sockets for them; health checks can be made from here on."""
        assert self.rundir is not None
        self.service = Service(self, self.rundir.file(CONTROL))
        self.serve_names()
        self.carriers.resume()

    def serve_names(self, *, make: bool = False) -> None:
        """Where it has sockets for that.

        :param make: where it needs them and has none, they are made
        :raises OSError: they cannot be made
        """
        if make and self.resolver is None:
            resolver.open_sockets(self.launch, self.kept)
            self.give_to_launcher()
        if self.resolver is None:
            self.resolver = Resolver.make(self.loop, self.launch, self.kept)

    # -- the end
    def _ended(self) -> None:
        self.loop.unwatch(self.pidfd)
        self.record(self._status())

    def _status(self) -> int | None:
        if self.child:
            return os.waitpid(self.state.pid, 0)[1]
        return wait_status(self.pidfd, self.state.pid, self.state.pid_start, self.store)

    def record(self, status: int | None) -> None:
        """Write down how it ended (None: nobody knows), before anything else; then start it again or finish."""
        self._stop_health()
        end_rest(self.config, self.launch.cgroup, self.launch.id)
        self.pump.close()
        code = None
        if status is not None:
            result = os.waitstatus_to_exitcode(status)
            code = result if result >= 0 else 128 - result
        # Wall time may be set meanwhile; what the kernel noted of the process's start cannot.
        ran, restarts = process.age(self.state.pid_start), self.restarts.count
        delay = self._next_delay(code, ran)
        ended = ExitRecord(
            exit_code=code,
            signal=status & 0x7F if status is not None else 0,
            oom_killed=cgroups.oom_kills(self.launch.cgroup) > 0,
            started=self.state.started,
            finished=time.time(),
            restarts=restarts,
            restarting=delay is not None,
            ran=ran,
        )
        self.paper.note_exit(ended)
        self._go_on(code, delay)

    def _next_delay(self, code: int | None, ran: float) -> float | None:
        return None if self.stopping else self.restarts.next_delay(code, ran)

    def after_exit(self, code: int | None, ran: float, *, failed: bool = False) -> None:
        """The end is on record: start it again by policy, or finish.

        :param ran: seconds
        :param failed: it could not even be started; no use to try again
        """
        self._go_on(code, None if failed else self._next_delay(code, ran))

    def _go_on(self, code: int | None, delay: float | None) -> None:
        """:param delay: seconds until the next start; None: there is none"""
        self._let_go()
        self.last_code = code
        if delay is None:
            self.finish()
            return
        self.state = self.state._replace(pid=0, pid_start=0, status="restarting", health="")
        self.save()
        self._tell_death()
        self.loop.after(delay, self._restart)

    def _let_go(self) -> None:
        """Close what belonged to the process that ended, and remove its cgroup."""
        for name in ("pidfd", "terminal"):
            if name in self.kept:
                os.close(self.kept.pop(name))
        self.pidfd = -1
        for fd in self.outputs:
            os.close(fd)
        self.outputs = {}
        with contextlib.suppress(WharfError):  # something put in there from outside: the engine removes it later
            self.runtime.clear()

    def _tell_death(self) -> None:
        self.tell("die", exitCode="" if self.last_code is None else str(self.last_code))

    def _restart(self) -> None:
        if self.stopping:
            return
        try:
            # On a busy host the kernel takes the dead off their cgroup late; nothing of the last run may be in there.
            self.runtime.clear(kill=True)
            self.runtime.prepare()
            assert self.rundir is not None
            begun = tasks.begin(self.runtime, self.launch, self.rundir, self.kept)
            self.follow(*begun, None, RESTART_TIMEOUT)
            self.attend()
        except (OSError, WharfError) as error:
            self._failed_restart(typed(error))
            return
        self.save()
        self.start_health()
        self.tell("start")

    def _failed_restart(self, error: WharfError) -> None:
        """One more failed run; only a command that is not there will not be there the next time either."""
        code, now, count = error.exit_code, time.time(), self.restarts.count
        hopeless = isinstance(error, (CommandNotFound, CommandNotExecutable))
        delay = None if hopeless else self._next_delay(code, 0.0)
        self.paper.note_exit(ExitRecord(code, 0, False, now, now, str(error), count, restarting=delay is not None))
        self._go_on(code, delay)

    def finish(self) -> None:
        """It will not run again: tell everyone, have its things released, leave."""
        if self.finished:
            return
        self.finished = True
        self._stop_serving()
        self._close_kept()
        self.pump.finish({"exit": self.last_code})
        # The folder goes before anyone is told: whoever starts the container again must not meet its remains. But not
        # while it holds what is nowhere else.
        if self.rundir is not None and not self.paper.owes:
            self.rundir.remove()
        self._tell_death()
        release(self.launch)
        # Commands run inside are reported, and slow clients served, for a little while.
        self._leave_at = time.monotonic() + _LAST_WORDS
        self._stop_when_idle()

    def _close_kept(self) -> None:
        """The launcher's copies go now, not when we leave: they keep the network namespace, and with it the wire,
        alive. And before the folder goes, and who is attached hears of it: the ports are free then."""
        ports = any(name.startswith((HELD, OWN)) for name in self.kept)
        for fd in self.kept.values():
            os.close(fd)
        self.kept = {}
        self.give_to_launcher(settled=ports)

    def _settled(self) -> None:
        """The disk takes something again, and the exit record is in its place."""
        if self.finished:
            if self.rundir is not None:
                self.rundir.remove()
            release(self.launch)  # an engine that was told before could not write it down either

    def _stop_when_idle(self) -> None:
        if self.paper.owes:
            self.loop.after(0.1, self._stop_when_idle)
        elif time.monotonic() > self._leave_at:
            self.loop.stop()
        elif self.pump.busy or (self.service and self.service.control.busy):
            self.loop.after(0.01, self._stop_when_idle)
        else:
            self.loop.stop()

    def _stop_serving(self) -> None:
        self._stop_health()
        self.carriers.close()
        if self.resolver is not None:
            self.resolver.close()
            self.resolver = None
        if self.service:
            self.service.control.close()

    def start_health(self) -> None:
        if self.service and self.service.health:
            self.service.health.start()

    def _stop_health(self) -> None:
        if self.service and self.service.health:
            self.service.health.stop()

    # -- small things
    def run(self) -> None:
        self.loop.run()

    def save(self) -> None:
        self.paper.note_state(self.state)

    def tell(self, action: str, **more: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: who looks sees the state all the same
            append(self.launch.events, "container", action, self.launch.id, **self.launch.attributes, **more)


def typed(error: Exception) -> WharfError:
    if isinstance(error, WharfError):
        return error
    return StartFailed("cannot start the container", str(error), step="monitor")
