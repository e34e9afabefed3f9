"""Who is alive, asked in the very moment of a kill."""

from __future__ import annotations

import os
import signal

from core.kernel import process


def test_whoever_has_been_killed_does_not_go_on() -> None:
    """Not even while the kernel still takes it apart, which with much memory it does for a while."""
    seen = 0
    for number in range(20):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            memory = bytearray(16 << 20)
            memory[:: 1 << 12] = b"x" * (len(memory) >> 12)
            os.write(writing, b"!")
            while True:
                if number % 2:
                    signal.pause()
        os.read(reading, 1)
        os.close(reading)
        os.close(writing)
        started = process.start_time(pid)
        assert process.goes_on(pid, started)
        assert not process.goes_on(pid, started + 1)
        os.kill(pid, signal.SIGKILL)
        while process.is_running(pid, started):
            seen += 1
            assert not process.goes_on(pid, started)
        assert not process.goes_on(pid, started)
        os.waitpid(pid, 0)
    assert seen, "it was never seen on its way"


def test_whoever_is_stopped_goes_on() -> None:
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    started = process.start_time(pid)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    assert process.goes_on(pid, started)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
