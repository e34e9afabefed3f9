"""LogWriter on real files: whatever goes in comes out, within the cap, through crashes and full disks."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.logs.format import MAX_RECORD, MAX_TEXT, PREFIX, is_record, parse, stamp, stamp_seconds
from core.logs.writer import LogWriter

NOW = 1_714_564_800_123_456_789


def records(path: Path) -> list[tuple[str, str, str, bool]]:
    """All records of a log, oldest first, undecodable bytes kept as surrogates."""
    parts = [*sorted(path.parent.glob("0.log.*[0-9]"), key=lambda p: -int(p.suffix[1:])), path]
    found = []
    for part in parts:
        for line in part.read_bytes().split(b"\n"):
            if line:
                assert is_record(line), line[:80]
                found.append(parse(line, "surrogateescape"))
    return found


def output(path: Path) -> dict[str, bytes]:
    """What each stream wrote, put together again."""
    got: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    for _, stream, text, partial in records(path):
        got[stream].append(text.encode("utf-8", "surrogateescape") + (b"" if partial else b"\n"))
    return {stream: b"".join(pieces) for stream, pieces in got.items()}


def test_stamp_is_rfc3339_and_sorts() -> None:
    assert stamp(NOW) == b"2024-05-01T12:00:00.123456789Z"
    assert stamp(0) == b"1970-01-01T00:00:00.000000000Z"
    assert len(stamp_seconds(9e20)) == len(stamp_seconds(-5.0)) == 30
    moments = sorted(random.Random(1).sample(range(4 * 10**18), 500))
    assert sorted(stamp(m) for m in moments) == [stamp(m) for m in moments]


def test_lines_of_a_chunk(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "c" / "0.log")
    log.write(1, b"one\n\ntwo\n", NOW)
    log.write(2, b"err\n", NOW + 1)
    log.close()
    when = "2024-05-01T12:00:00.12345678"
    assert records(tmp_path / "c" / "0.log") == [
        (when + "9Z", "stdout", "one", False),
        (when + "9Z", "stdout", "", False),
        (when + "9Z", "stdout", "two", False),
        ("2024-05-01T12:00:00.123456790Z", "stderr", "err", False),
    ]


def test_a_line_in_pieces_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    for piece in (b"pro", b"g", b"ress\nnext"):
        log.write(1, piece, NOW)
    assert path.read_bytes().endswith(b" stdout F next")  # on disk at once, open
    log.write(2, b"!\n", NOW)
    log.write(1, b" and on\n", NOW)
    log.close()
    assert [(s, t, p) for _, s, t, p in records(path)] == [
        ("stdout", "progress", False),
        ("stdout", "next", True),
        ("stderr", "!", False),
        ("stdout", " and on", False),
    ]


def test_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    for number in range(200):
        path = tmp_path / str(number) / "0.log"
        log = LogWriter(path)
        log.write(1, b"x", NOW)
        log.close()
        assert records(path) == [("2024-05-01T12:00:00.123456789Z", "stdout", "x", True)]
        assert path.read_bytes().endswith(b" P x\n")


@pytest.mark.parametrize("length", [MAX_TEXT - 1, MAX_TEXT, MAX_TEXT + 1, 3 * MAX_TEXT, 3 * MAX_TEXT + 7])
def test_long_lines_are_split(tmp_path: Path, length: int) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    log.write(1, b"a\n" + b"x" * length + b"\nb\n", NOW)
    log.close()
    assert output(path)["stdout"] == b"a\n" + b"x" * length + b"\nb\n"
    assert max(map(len, path.read_bytes().splitlines(keepends=True))) <= MAX_RECORD


@pytest.mark.parametrize("seed", range(25))
def test_any_bytes_in_any_pieces_come_out_again(tmp_path: Path, seed: int) -> None:
    """Random bytes, chunk sizes, streams, file sizes, and re-opened writers."""
    rng = random.Random(seed)
    path = tmp_path / "0.log"
    size = rng.choice([0, 60_000, 300_000])
    log = LogWriter(path, size, 1000)
    sent = {1: b"", 2: b""}
    for step in range(100):
        stream = rng.choice([1, 1, 1, 2])
        alphabet = rng.choice([b"\n", b"ab\n", b"x", b""])
        # 4000 lines are four files of 60 kB: more of them in a piece prove nothing else.
        length = rng.choice([1, 3, 80, 4000] + [70_000] * (alphabet in (b"x", b"")))
        chunk = (
            rng.randbytes(length)
            if alphabet == b""
            else (bytes(rng.choices(alphabet, k=97)) * (length // 97 + 1))[:length]
        )
        log.write(stream, chunk, NOW + step)
        sent[stream] += chunk
        if rng.random() < 0.05:
            log.close()
            log = LogWriter(path, size, 1000)
    log.close()
    assert output(path) == {"stdout": sent[1], "stderr": sent[2]}
    if size:
        assert all(part.stat().st_size <= size for part in tmp_path.iterdir())


@pytest.mark.parametrize("files", [1, 2, 3])
def test_cap_is_respected_and_the_newest_is_kept(tmp_path: Path, files: int) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path, 64_000, files)
    for start in range(0, 40_000, 100):
        log.write(1, b"".join(b"%d\n" % n for n in range(start, start + 100)), NOW)
        assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 64_000 * files
    log.close()
    kept = [int(text) for _, _, text, _ in records(path)]
    assert kept == list(range(kept[0], 40_000))
    assert len(list(tmp_path.iterdir())) == files
    assert len(kept) > 64_000 // 47 * (files - 1)


def test_a_record_larger_than_a_file_is_still_written(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path, 100, 1000)
    log.write(1, b"x" * 500 + b"\n" + b"y" * 500 + b"\nz", NOW)
    log.close()
    assert output(path)["stdout"] == b"x" * 500 + b"\n" + b"y" * 500 + b"\nz"


@pytest.mark.parametrize("left", [b"F half", b"F ", b"F", b"", b"out"])
def test_a_file_cut_mid_line_is_continued(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "0.log"
    log = LogWriter(path)
    log.write(1, b"whole\nhalf", NOW)
    whole = path.read_bytes()
    path.write_bytes(whole[: -len(b"F half")] + left)  # the writer was killed: nothing of `log` is closed
    again = LogWriter(path)
    again.write(1, b" and half\n", NOW + 1)
    again.close()
    text = output(path)["stdout"]
    assert text == (b"whole\nhalf and half\n" if left == b"F half" else b"whole\n and half\n")


def test_a_prompt_left_open_by_a_killed_writer_does_not_take_the_other_stream(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    LogWriter(path).write(2, b"warn", NOW)
    log = LogWriter(path)
    log.write(1, b"out\n", NOW)
    log.close()
    assert [(s, t, p) for _, s, t, p in records(path)] == [("stderr", "warn", True), ("stdout", "out", False)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_disk_full_drops_counts_and_tells(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"f" * 200_000)
    path = small_disk / "0.log"
    log = LogWriter(path)
    sent = 0
    for number in range(3000):
        chunk = b"%06d some output that fills the disk" % number + (b"\n" if number % 3 else b" ... ")
        log.write(1, chunk, NOW + number)
        sent += len(chunk)
    lost = log.dropped
    assert lost > 0
    filler.unlink()
    log.write(1, b"room again\n", NOW + 5000)
    assert log.dropped == 0
    log.close()
    found = records(path)
    assert found[-1][1:] == ("stdout", "room again", False)
    assert found[-2][1] == "stderr"
    assert found[-2][2] == f"[wharf: {lost} bytes of output lost here: No space left on device]"
    kept = output(path)["stdout"]
    assert len(kept) + lost == sent + len(b"room again\n")
    numbers = [int(word) for word in kept.replace(b"...", b"").split() if word.isdigit()]
    assert numbers == list(range(len(numbers)))


def test_disk_full_while_rotating_keeps_the_cap(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"f" * 100_000)
    path = small_disk / "0.log"
    log = LogWriter(path, 50_000, 9)
    for number in range(20_000):
        log.write(1, b"%06d and some more\n" % number, NOW + number)
    assert log.dropped > 0
    log.close()
    numbers = [int(text[:6]) for _, stream, text, _ in records(path) if stream == "stdout"]
    assert numbers == sorted(set(numbers))


def test_the_monitor_can_import_it_alone() -> None:
    """`python -I -S` without site-packages, and without what is slow to import."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import core.logs.writer; "
        "print([m for m in ('asyncio', 'pathlib', 'dataclasses', 'sqlite3', 'core.model') if m in sys.modules])"
    )
    here = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, here], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_prefix_width_is_fixed(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "0.log")
    log.write(1, b"\n", 0)
    log.write(2, b"\n", 4 * 10**18)
    log.close()
    assert [len(line) for line in (tmp_path / "0.log").read_bytes().splitlines()] == [PREFIX, PREFIX]
