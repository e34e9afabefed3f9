"""A process that goes on as another one: same memory, no copy."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import pytest

from core.kernel import memory, mount, process
from core.kernel.clone import Place, can_fork_into
from core.kernel.hop import can_hop, hop

pytestmark = pytest.mark.skipif(not can_hop(), reason="there is no code for this machine, or it may not be executed")


class Hopper:
    """A child that hops, does something and ends; the old ones are killed as their parent has to."""

    def __init__(self, then: Callable[[int], None], *flags: int, cgroup: int = -1) -> None:
        self.place = Place()
        self.output, write = os.pipe()
        self.first = os.fork()
        if self.first == 0:
            code = 1
            try:
                os.close(self.output)
                for each in flags:
                    with contextlib.suppress(OSError):
                        hop(self.place, each, cgroup)
                then(write)
                code = 0
            finally:
                os._exit(code)
        os.close(write)

    def read(self) -> str:
        """All that it wrote: ends when no process has the pipe any more."""
        with open(self.output) as file:
            return file.read()

    def end(self) -> list[int]:
        """Kill the old ones, reap all; returns their wait statuses, the last one's last."""
        last = self.place.last
        statuses = []
        pid, number = self.first, 0
        while pid:
            if pid != last:
                os.kill(pid, signal.SIGKILL)
            statuses.append(os.waitpid(pid, 0)[1])
            pid, number = self.place.pid(number), number + 1
        self.place.close()
        return statuses


def test_memory_and_parent_stay_and_the_pid_changes() -> None:
    seen = {"before": 0}

    def then(write: int) -> None:
        seen["after"] = sum(range(100_000))  # the interpreter works on
        os.write(write, f"{seen['before']} {seen['after']} {os.getpid()} {os.getppid()}".encode())

    seen["before"] = 7
    hopper = Hopper(then, 0)
    before, after, pid, parent = map(int, hopper.read().split())
    assert (before, after) == (7, sum(range(100_000)))
    assert pid == hopper.place.pid(0) == hopper.place.last != hopper.first
    assert parent == os.getpid()
    assert [os.WIFSIGNALED(status) for status in hopper.end()] == [True, False]


def test_the_old_one_holds_no_descriptor() -> None:
    hopper = Hopper(lambda write: os.write(write, b"x") and None, 0)
    assert hopper.read() == "x"  # the end of file comes although the old one is still there
    os.kill(hopper.first, 0)
    assert hopper.end()[-1] == 0


def test_the_new_one_executes_while_the_old_one_waits() -> None:
    def then(write: int) -> None:
        os.dup2(write, 1)
        os.execv("/bin/sh", ["sh", "-c", "echo $$"])

    hopper = Hopper(then, 0)
    assert int(hopper.read()) == hopper.place.last
    hopper.end()


def test_hopping_twice() -> None:
    hopper = Hopper(lambda write: os.write(write, str(os.getpid()).encode()) and None, 0, 0)
    assert int(hopper.read()) == hopper.place.pid(1) == hopper.place.last
    assert len(hopper.end()) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="new namespaces take root")
def test_a_new_pid_namespace() -> None:
    hopper = Hopper(lambda write: os.write(write, str(os.getpid()).encode()) and None, process.CLONE_NEWPID)
    assert hopper.read() == "1"
    hopper.end()


@pytest.mark.skipif(os.geteuid() != 0 or not can_fork_into(), reason="takes root, and clone3(2)")
def test_born_in_a_cgroup() -> None:
    try:
        top = mount.filesystem("cgroup2")  # on a host of v1 it has no controllers, but groups
    except OSError:
        pytest.skip("this kernel has no cgroup v2")
    name = f"wharf-test-hop-{os.getpid()}"
    os.mkdir(name, dir_fd=top)
    group = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)

    def then(write: int) -> None:
        with open("/proc/self/cgroup") as file:
            os.write(write, next(line for line in file if line.startswith("0:")).encode())

    hopper = Hopper(then, 0, cgroup=group)
    try:
        assert hopper.read().endswith(f"/{name}\n")
        with open(os.open("cgroup.procs", os.O_RDONLY, dir_fd=group)) as file:
            assert hopper.first not in map(int, file.read().split())
        assert [os.WIFSIGNALED(status) for status in hopper.end()] == [True, False]
    finally:
        os.close(group)
        os.rmdir(name, dir_fd=top)
        os.close(top)


_REFUSED = process.CLONE_NEWUSER | 0x200  # CLONE_FS beside it: EINVAL (clone(2))


def test_a_refused_hop_goes_on_as_it_was() -> None:
    place = Place()
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            hop(place, _REFUSED)
        except OSError:
            os._exit(3 if signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR2} else 5)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert place.last == 0
    place.close()


def test_a_hop_after_a_refused_one_has_its_pid_found() -> None:
    def then(write: int) -> None:
        os.write(write, str(os.getpid()).encode())

    hopper = Hopper(then, _REFUSED, 0)
    assert int(hopper.read()) == hopper.place.last
    hopper.end()


def test_no_signal_of_the_old_one_reaches_the_new_one() -> None:
    """A handler would run in the old one too, on the stack that the new one goes on with."""
    came: list[int] = []

    def then(write: int) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        os.write(write, b"ready\n")
        while not came:
            signal.sigtimedwait({signal.SIGUSR2}, 0.01)  # the interpreter gets a turn to run handlers
        os.write(write, f"{came} {mask}".encode())

    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(1))
    again = signal.signal(signal.SIGHUP, lambda number, frame: came.append(2))
    hopper = Hopper(then, 0)
    signal.signal(signal.SIGUSR1, before)
    signal.signal(signal.SIGHUP, again)
    assert os.read(hopper.output, 6) == b"ready\n"
    for _ in range(100):
        os.kill(hopper.first, signal.SIGUSR1)
        time.sleep(0.001)
    os.kill(hopper.place.last, signal.SIGHUP)
    assert hopper.read() == "[2] set()"
    hopper.end()


def test_own_memory_is_not_shared_any_more() -> None:
    data = bytearray(os.urandom(1 << 20))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        before = sum(end - start for start, end in memory.written())
        memory.own(memory.writable())
        after = sum(end - start for start, end in memory.written())
        os.write(write, f"{before} {after}".encode())
        os._exit(0)
    os.close(write)
    before, after = map(int, os.read(read, 64).split())
    os.close(read)
    os.waitpid(pid, 0)
    assert after - before >= len(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="to hide /proc takes root")
def test_a_kernel_that_tells_nothing_of_pages() -> None:
    pid = os.fork()
    if pid == 0:
        process.unshare(process.CLONE_NEWNS)
        mount.set_root_propagation(mount.MS_PRIVATE)
        place = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        mount.attach(mount.filesystem("tmpfs"), place)
        os._exit(len(memory.written()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
