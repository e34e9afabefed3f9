"""``LogWriter``: chunks of a container's output become records, capped and rotated.

Standard library only; used by the monitor, which must never stop or slow down because of a log.

What a process writes without a newline is written at once, as a record that is still *open*; the rest is appended to
it when it comes. So nothing is held in memory that a killed monitor would lose, a prompt is visible at once, and a
line cut by the end of a chunk costs nothing. A record's tag is ``F`` while it is open; where it must end without its
newline (16 KiB are full, the other stream writes, rotation, close) the tag is first changed to ``P`` in place.

When the disk is full (or the log cannot be written for any other reason) output is dropped and counted, and the first
record that fits again is a marker on stderr that says how much is lost: the container is never blocked.
"""

from __future__ import annotations

import contextlib
import os

from core.logs.format import MAX_RECORD, MAX_TEXT, PREFIX, TAG, is_record, prefix

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class LogWriter:
    """The one writer of the log at ``path`` (``…/0.log``; older parts are ``0.log.1``, ``0.log.2`` …).

    :param max_size: bytes of one file, 0 for no limit (a single record may be larger, up to 16 KiB)
    :param max_files: how many files are kept, the current one included
    :raises OSError: the log cannot be opened (the folder above its own must exist: it is not made anew for a container
        that was removed)
    """

    def __init__(self, path: str | os.PathLike[str], max_size: int = 10 * 1024 * 1024, max_files: int = 3) -> None:
        self._path = os.fspath(path)
        # One byte less: it is kept for the newline of a record that must end while the file is full.
        self._max_size = max_size - 1 if max_size > 0 else 1 << 62
        self._max_files = max(1, max_files)
        self.dropped = 0  # bytes of output lost that no marker has told of yet
        self._why = ""
        self._open = 0  # stream of the record still open at the end of the file; 0: none
        self._start = 0  # offset of that record
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(self._path) or ".", 0o700)
        self._fd = os.open(self._path, _FLAGS, 0o600)
        self._size = os.fstat(self._fd).st_size
        with contextlib.suppress(OSError):
            self._mend()

    def write(self, stream: int, data: bytes, now_ns: int) -> None:
        """Append ``data`` (any bytes) that came from ``stream`` (1 or 2) at ``now_ns`` (since the epoch).

        Never raises: what cannot be written is counted in ``dropped``.
        """
        if not data or self._fd < 0:
            return
        head = prefix(stream, now_ns)
        joins = self._open == stream and not self.dropped
        if joins and not _fits(data, MAX_TEXT - (self._size - self._start - PREFIX)):
            joins = False
        records = _frame(data, head)
        if joins and self._size + len(records) - PREFIX > self._max_size:
            joins = False
        try:
            if joins:
                records = records[PREFIX:]
            else:
                self._end_record()
                self._tell(now_ns)
            kept = self._put(records)
        except OSError as error:
            self._why = error.strerror or str(error)
            self.dropped += len(data)
            return
        if kept < len(records):
            self.dropped += len(data) - (0 if joins else _payload(records[:kept]))
        elif data[-1] == 10:
            self._open = 0
        else:
            last = records.rfind(b"\n") + 1
            if last or not joins:
                self._start = self._size - (len(records) - last)
            self._open = stream

    def close(self) -> None:
        """End an open line (its text is kept, tagged ``P``: no newline was seen) and close the file."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            self._end_record()
        os.close(self._fd)
        self._fd = -1

    # -- records to disk ------------------------------------------------------------------------------------------
    def _put(self, records: bytes) -> int:
        """Write records, over as many files as they need; returns how many bytes of them are kept.

        Where the rest of a file cannot take them all, the cut is at the end of a record; a fresh file takes at least
        one. On an error what is kept ends with a whole record, and ``_why`` says what happened.
        """
        done = 0
        total = len(records)
        while self._size + total - done > self._max_size:
            cut = records.rfind(b"\n", done, done + max(0, self._max_size - self._size)) + 1
            if not cut and not self._size:
                cut = records.find(b"\n", done) + 1 or total
            if cut:
                done += self._pwrite(records, done, cut)
                if done < cut or done == total:
                    return done
            if not self._rotate():
                return done
        return done + self._pwrite(records, done, total)

    def _pwrite(self, records: bytes, start: int, end: int) -> int:
        """Write ``records[start:end]`` at the end of the file; returns how much of it is kept."""
        view = memoryview(records)[start:end]
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], self._size + done)
        except OSError as error:
            self._why = error.strerror or str(error)
            done = max(records.rfind(b"\n", start, start + done) + 1, start) - start
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size + done)
        self._size += done
        return done

    def _end_record(self) -> None:
        """End the open record, if any. The tag first: a reader takes a record up when it sees its newline."""
        if self._open:
            os.pwrite(self._fd, b"P", self._start + TAG)
            os.pwrite(self._fd, b"\n", self._size)
            self._size += 1
            self._open = 0

    def _tell(self, now_ns: int) -> None:
        """Write the marker for dropped output; raises OSError while there is still no room for it."""
        if not self.dropped:
            return
        text = b"[wharf: %d bytes of output lost here: %b]\n" % (self.dropped, self._why.encode())
        record = prefix(2, now_ns) + text
        if self._put(record) < len(record):
            raise OSError(None, self._why)
        self.dropped = 0

    def _rotate(self) -> bool:
        """0.log → 0.log.1 → … and an empty 0.log; False where that fails, and then the cap wins over the output.

        The new file is made first and renamed into place last, so that a full disk changes nothing and a reader that
        sees it there knows that the one before is complete.
        """
        fresh = -1
        try:
            fresh = os.open(self._path + ".new", _FLAGS | os.O_TRUNC, 0o600)
            free = 1  # the first number not taken; the last one is overwritten
            while free < self._max_files - 1 and os.path.lexists(f"{self._path}.{free}"):
                free += 1
            for number in range(min(free, self._max_files - 1), 0, -1):
                older = f"{self._path}.{number - 1}" if number > 1 else self._path
                os.rename(older, f"{self._path}.{number}")
            os.rename(self._path + ".new", self._path)
        except OSError as error:
            self._why = error.strerror or str(error)
            if fresh >= 0:
                os.close(fresh)
            return False
        os.close(self._fd)
        self._fd, self._size = fresh, 0
        return True

    def _mend(self) -> None:
        """End a line that a killed writer left open; a torn prefix goes, a text of any length stays."""
        tail = os.pread(self._fd, MAX_RECORD, max(0, self._size - MAX_RECORD))
        if not tail or tail[-1] == 10:
            return
        last = tail[tail.rfind(b"\n") + 1 :]
        if len(last) == len(tail) < self._size:  # no record of ours is that long: leave it be, begin a new line
            self._size += os.pwrite(self._fd, b"\n", self._size)
            return
        self._start = self._size - len(last)
        if is_record(last):
            self._open = 1 if last[TAG - 4] == ord("o") else 2  # "stdout" or "stderr"
            self._end_record()
        else:
            os.ftruncate(self._fd, self._start)
            self._size = self._start


def _fits(data: bytes, room: int) -> bool:
    """Whether the first line of ``data`` has at most ``room`` bytes."""
    return len(data) <= room or data.find(b"\n", 0, max(0, room) + 1) >= 0


def _short(data: bytes) -> bool:
    """Whether no line of ``data`` is longer than a record may be: a few searches for a chunk of 64 KiB."""
    at = 0
    while len(data) - at > MAX_TEXT:
        at = data.rfind(b"\n", at, at + MAX_TEXT + 1) + 1
        if not at:
            return False
    return True


def _frame(data: bytes, head: bytes) -> bytes:
    """``data`` as records, each line behind ``head``; the last is left open where its newline is yet to come."""
    if _short(data):
        records = head + data.replace(b"\n", b"\n" + head)
        return records[:-PREFIX] if data[-1] == 10 else records
    part = head[:TAG] + b"P "
    pieces: list[bytes] = []
    lines = data.split(b"\n")
    for line in lines:
        at = 0
        while len(line) - at > MAX_TEXT:
            pieces.append(part + line[at : at + MAX_TEXT])
            at += MAX_TEXT
        pieces.append(head + line[at:])
    if not lines[-1]:
        pieces[-1] = b""
    return b"\n".join(pieces)


def _payload(records: bytes) -> int:
    """How many bytes of output whole ``records`` hold, newlines included."""
    return sum(len(line) - PREFIX + (line[TAG] == 70) for line in records.split(b"\n") if line)
