"""LogView: any line by its number, equal to a plain read of the files."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path

import pytest

from core.engine import LogFile
from core.logs.format import prefix
from core.logs.index import LogView
from core.logs.reader import read_lines
from core.logs.writer import LogWriter


def fill(path: Path, count: int, *, start: int = 0, size: int = 400_000) -> None:
    rng = random.Random(start)
    log = LogWriter(path, size, 100)
    for number in range(start, start + count):
        text = f"{number} grüße {'x' * rng.choice([0, 10, 100, 700])}\n".encode()
        log.write(rng.choice([1, 2]), text if rng.random() > 0.01 else text[:-1] * 20 + b"\n", number)
    log.close()


def settle(view: LogView) -> None:
    while view.refresh(0.001):
        pass
    assert view.indexed


def test_it_is_a_log_file(tmp_path: Path) -> None:
    view: LogFile = LogView(tmp_path / "0.log")
    assert (view.lines, view.dropped, view.indexed, view.refresh()) == (0, 0, True, False)
    assert view.read(0, 5) == view.tail(5) == []
    assert view.find("x", 0) is None


@pytest.mark.parametrize("size", [0, 150_000, 1_000_000])
def test_any_window_equals_a_plain_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "0.log"
    fill(path, 8000, size=size)
    every = list(read_lines(path))
    view = LogView(path)
    settle(view)
    assert view.lines == len(every)
    rng = random.Random(2)
    for _ in range(200):
        first = rng.randrange(-3, len(every) + 10)
        count = rng.choice([0, 1, 50, 50, 3000])
        assert view.read(first, count) == every[max(0, first) : max(0, first) + count]
    assert view.tail(70) == every[-70:]
    assert view.read(0, 10**6) == every
    view.close()


def test_the_newest_lines_are_there_before_the_index(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    fill(path, 5000)
    view = LogView(path)
    assert view.lines == 0
    assert view.tail(10) == list(read_lines(path, tail=10))
    view.close()


def test_growing_and_a_line_still_open(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    view = LogView(path)
    for number in range(3000):
        log.write(1, b"%d %s\n" % (number, b"y" * 50), number)
        if number % 97 == 0:
            settle(view)
            assert view.lines == number + 1
            assert view.read(number, 9)[0].text.split()[0] == str(number)
    log.write(1, b"login: ", 1)
    settle(view)
    assert view.lines == 3001
    assert [(line.text, line.partial) for line in view.read(3000, 5)] == [("login: ", True)]
    assert view.tail(1) == view.read(3000, 1)
    log.write(1, b"root\nwelcome\n", 1)
    settle(view)
    assert view.lines == 3002
    assert [(line.text, line.partial) for line in view.read(3000, 5)] == [("login: root", False), ("welcome", False)]
    log.close()
    view.close()


def test_rotation_takes_lines_away_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path, 30_000, 3)
    view = LogView(path)
    for number in range(6000):
        log.write(1, b"%d\n" % number, number)
        if number % 111 == 0 or number == 5999:
            settle(view)
            assert view.dropped + view.lines == number + 1
            assert view.read(0, 1)[0].text == str(view.dropped)
            assert view.read(view.lines - 1, 1)[0].text == str(number)
    assert view.dropped > 3000
    log.close()
    view.close()


def test_no_descriptor_of_a_deleted_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path, 5000, 2)
    view = LogView(path)
    for number in range(3000):
        log.write(1, b"%d\n" % number, number)
        view.refresh()
    names = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{fd}")
    ]
    assert not [name for name in names if str(tmp_path) in name and name.endswith("(deleted)")]
    log.close()
    view.close()


@pytest.mark.parametrize("needle", ["7777 ", "GRÜSSE", "grüße", "Grüße X", "stdout", "nowhere at all", "4999"])
def test_find_equals_a_plain_search(tmp_path: Path, needle: str) -> None:
    path = tmp_path / "0.log"
    fill(path, 9000)
    texts = [line.text.lower() for line in read_lines(path)]
    hits = [number for number, text in enumerate(texts) if needle.lower() in text]
    view = LogView(path)
    settle(view)
    for start in (0, 1, 4000, 8999, len(texts) - 1, len(texts) + 50):
        assert view.find(needle, start) == next((n for n in hits if n >= start), None)
        assert view.find(needle, start, backwards=True) == next((n for n in reversed(hits) if n <= start), None)
    if hits:
        assert view.find(needle, 0, limit=hits[0]) is None
        assert view.find(needle, 0, limit=hits[0] + 1) == hits[0]
    view.close()


def test_bytes_that_are_not_utf8_are_shown_as_replacements(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    log.write(1, b"a\xff\xfeb\x00c\n", 1)
    log.close()
    view = LogView(path)
    settle(view)
    assert view.read(0, 1)[0].text == "a��b\x00c"
    view.close()


def bytes_read() -> int:
    """By this thread's calls of read(2) and its like."""
    return int(Path("/proc/thread-self/io").read_text().split()[1])


def test_a_big_log_opens_at_once_in_flat_memory(tmp_path: Path) -> None:
    """100 MB: the newest line without reading the rest, then the whole index, without keeping text."""
    path = tmp_path / "0.log"
    block = (prefix(1, 1) + b"z" * 60 + b"\n") * 10_000
    with path.open("wb") as file:
        for _ in range(100):
            file.write(block)
        file.write(prefix(1, 2) + b"newest\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = bytes_read()
    view = LogView(path)
    assert view.tail(1)[0].text == "newest"
    assert bytes_read() - began < 1 << 20
    settle(view)
    assert view.lines == 1_000_001
    assert view.read(1_000_000, 1)[0].text == "newest"
    assert bytes_read() - began < 120 << 20  # once
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # KiB
    view.close()
