"""Reading logs: tail, since, until and follow on real files, against a plain scan of all records."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core.logs.format import stamp_seconds
from core.logs.reader import follow_lines, read_lines
from core.logs.writer import LogWriter
from core.model import LogLine
from tests.patience import patience

BASE = 1_714_564_800.0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(patience(30)):
        while not true():
            await asyncio.sleep(0.01)


def fill(path: Path, seed: int, count: int, *, size: int = 200_000) -> list[LogLine]:
    """A log of ``count`` lines over several files, with times that repeat and leap; returns what a full read gives."""
    rng = random.Random(seed)
    log = LogWriter(path, size, 1000)
    now = int(BASE * 1e9)
    for number in range(count):
        now += rng.choice([0, 0, 1, 1000, 10**9, 60 * 10**9])
        text = b"%d " % number + b"x" * rng.choice([0, 5, 80, 80, 500])
        log.write(rng.choice([1, 2]), text + rng.choice([b"\n"] * 20 + [b" ... "]), now)
    log.close()
    return list(read_lines(path))


def seconds(line: LogLine) -> float:
    from datetime import datetime

    whole = datetime.fromisoformat(line.time[:19] + "+00:00").timestamp()
    return whole + int(line.time[20:29]) / 1e9


@pytest.mark.parametrize("seed", range(4))
def test_since_and_until_by_bisection_equal_a_linear_scan(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "0.log"
    every = fill(path, seed, 6000)
    assert len(list(tmp_path.iterdir())) > 2
    rng = random.Random(seed)
    moments = [seconds(rng.choice(every)) + rng.choice([0.0, 0.0, 0.5, -0.5]) for _ in range(25)]
    for moment in [*moments, 0.0, BASE - 9, 9e9]:
        when = stamp_seconds(moment).decode()
        assert list(read_lines(path, since=moment)) == [line for line in every if line.time >= when]
        assert list(read_lines(path, until=moment)) == [line for line in every if line.time <= when]
    low, high = sorted(moments[:2])
    bounds = stamp_seconds(low).decode(), stamp_seconds(high).decode()
    between = [line for line in every if bounds[0] <= line.time <= bounds[1]]
    assert list(read_lines(path, since=low, until=high)) == between


def logical(lines: list[LogLine]) -> int:
    """How many lines these records are once they are joined; the very last one counts whatever its tag."""
    return sum(not line.partial or line is lines[-1] for line in lines)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 500, 5000, 10**6])
def test_tail_is_the_end_of_everything(tmp_path: Path, count: int) -> None:
    path = tmp_path / "0.log"
    every = fill(path, 5, 4000)
    got = list(read_lines(path, tail=count))
    assert got == every[len(every) - len(got) :]
    assert logical(got) == min(count, logical(every)) if got else count == 0


def test_tail_joins_what_was_split(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    log.write(1, b"first\n" + b"y" * 40_000 + b"\nlast", 1)
    log.close()
    assert [line.text for line in read_lines(path, tail=1)] == ["last"]
    two = list(read_lines(path, tail=2))
    assert "".join(line.text for line in two) == "y" * 40_000 + "last"
    assert [line.partial for line in two] == [True, True, False, True]


def test_a_line_still_open_is_shown_as_partial(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    log.write(1, b"hello\nlogin: ", 1)
    assert [(line.text, line.partial) for line in read_lines(path)] == [("hello", False), ("login: ", True)]
    assert [line.text for line in read_lines(path, tail=1)] == ["login: "]
    log.close()


def test_no_log_yet(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / "none" / "0.log", tail=5, since=1.0, until=2.0)) == []


def test_what_a_host_crash_left_does_not_stop_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    log.write(1, b"before\n", int(BASE * 1e9))
    log.close()
    with path.open("ab") as file:
        file.write(b"\0" * 100_000 + b"\nnonsense\n")
    again = LogWriter(path)
    again.write(1, b"after\n", int(BASE * 1e9) + 10**9)
    again.close()
    assert next(iter(read_lines(path))).text == "before"
    assert [line.text for line in read_lines(path, since=BASE + 0.5)] == ["after"]


def test_every_byte_can_be_had_back(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    data = bytes(byte for byte in range(256) if byte != 10)
    log = LogWriter(path)
    log.write(1, data + b"\n", 1)
    log.close()
    assert [line.text.encode("utf-8", "surrogateescape") for line in read_lines(path)] == [data]


class Writer(threading.Thread):
    """Writes numbered lines as a monitor would, from another thread, in odd pieces."""

    def __init__(self, path: Path, count: int, max_size: int, max_files: int, done: Callable[[], None]) -> None:
        super().__init__()
        self._log = LogWriter(path, max_size, max_files)
        self._count, self._done = count, done

    def run(self) -> None:
        rng = random.Random(3)
        for start in range(0, self._count, 500):
            data = b"".join(b"%07d some words that fill the line\n" % n for n in range(start, start + 500))
            while data:
                cut = rng.randrange(1, 20_000)
                self._log.write(1, data[:cut], 10**18 + start)
                data = data[cut:]
        self._log.close()
        self._done()


async def test_a_follower_across_rotations_sees_each_number_once(tmp_path: Path) -> None:
    path = tmp_path / "c" / "0.log"
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    writer = Writer(path, 60_000, 300_000, 100, lambda: loop.call_soon_threadsafe(over.set) and None)
    writer.start()
    text = ""
    async for line in follow_lines(path, ended=over.wait):
        text += line.text + ("" if line.partial else "\n")
    writer.join()
    assert len(list(path.parent.iterdir())) > 5
    assert [int(line[:7]) for line in text.splitlines()] == list(range(60_000))


def test_rotations_during_an_opening_hide_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(tmp_path / "0.log", 100, 100)
    numbers = iter(range(1000))

    def rotate(times: int) -> None:
        for _ in range(times):
            log.write(1, b"%d %b\n" % (next(numbers), b"x" * 90), 1)

    rotate(5)
    listdir = os.listdir

    def listed(folder: Path) -> list[str]:
        names = listdir(folder)
        rotate(5 if len(names) < 8 else 0)
        return names

    monkeypatch.setattr(os, "listdir", listed)
    seen = [int(line.text.split()[0]) for line in read_lines(tmp_path / "0.log")]
    log.close()
    assert seen[:5] == [0, 1, 2, 3, 4]
    assert seen == list(range(seen[-1] + 1))


async def test_a_follower_too_slow_for_the_cap_goes_on_with_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path, 10_000, 2)
    log.write(1, b"0\n", 1)
    over = asyncio.Event()
    seen: list[int] = []
    async for line in follow_lines(path, ended=over.wait):
        seen.append(int(line.text))
        if len(seen) == 1:
            for number in range(1, 2000):
                log.write(1, b"%d\n" % number, 1)
            over.set()
    log.close()
    # The file that it holds open is read to its end although it is deleted; then the oldest one left.
    assert seen == sorted(set(seen))
    assert seen[0] == 0
    assert seen[-1] == 1999
    assert 200 < len(seen) < 2000


async def test_following_ends_with_the_container_and_keeps_its_last_words(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    over = asyncio.Event()
    got: list[str] = []

    async def follow() -> None:
        async for line in follow_lines(path, ended=over.wait, tail=1):
            got.append(line.text)

    log.write(1, b"a\nb\n", 1)
    task = asyncio.create_task(follow())
    await until(lambda: got == ["b"])
    log.write(1, b"c\nno newline", 2)
    await until(lambda: got == ["b", "c"])
    log.close()
    over.set()
    await asyncio.wait_for(task, patience(30))
    assert got == ["b", "c", "no newline"]


async def test_following_a_container_that_never_ran(tmp_path: Path) -> None:
    async def ended() -> None:
        return

    assert [line async for line in follow_lines(tmp_path / "none" / "0.log", ended=ended)] == []


async def test_following_until_a_moment(tmp_path: Path) -> None:
    import time

    path = tmp_path / "0.log"
    log = LogWriter(path)
    log.write(1, b"x\n", time.time_ns())
    lines = follow_lines(path, ended=asyncio.Event().wait, until=time.time() + 0.3)
    assert [line.text async for line in lines] == ["x"]
    log.close()


async def test_a_follower_that_is_dropped_leaves_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    LogWriter(path).write(1, b"x\n", 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        lines = follow_lines(path, ended=asyncio.Event().wait)
        assert (await anext(lines)).text == "x"
        await lines.aclose()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before
