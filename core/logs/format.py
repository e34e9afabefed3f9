"""One record of a container's log, in the CRI text format that kubelet, CRI-O and containerd share::

    2024-05-01T12:00:00.123456789Z stdout F some output
    └──────────── 30 ────────────┘ └─ 6 ┘ │ └ text, any bytes but newline
                                   F: a newline followed; P: the line goes on in the stream's next record

(kubernetes/design-proposals, "kubelet-cri-logging.md".) Every part before the text has a fixed width, so a record's
text begins :data:`PREFIX` bytes after its start. Standard library only: monitors use it.
"""

from __future__ import annotations

import time

PREFIX = 40  # bytes before the text
TAG = 38  # offset of F or P
TIME = 30  # length of the time
MAX_TEXT = 16 * 1024  # longest text of one record, bytes; longer lines are split (the CRI's own limit)
MAX_RECORD = PREFIX + MAX_TEXT + 1

STREAMS = {1: b"stdout", 2: b"stderr"}
_second = (-1, b"")  # the last second formatted, and its text


def stamp(now_ns: int) -> bytes:
    """RFC 3339 in UTC with nanoseconds, always 30 bytes: so times compare as bytes do.

    :param now_ns: nanoseconds since the epoch
    """
    global _second
    seconds, rest = divmod(now_ns, 1_000_000_000)
    if seconds != _second[0]:
        _second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode())
    return b"%b.%09dZ" % (_second[1], rest)


def stamp_seconds(when: float) -> bytes:
    """:func:`stamp` of a moment in seconds since the epoch, held within the years that 30 bytes can say."""
    return stamp(round(min(max(when, 0.0), 253402300799.0) * 1e9))


def prefix(stream: int, now_ns: int) -> bytes:
    """What stands before the text of a whole line; ``stream`` 1 is stdout, 2 stderr."""
    return b"%b %b F " % (stamp(now_ns), STREAMS[stream])


def is_record(line: bytes) -> bool:
    """True where ``line`` begins with a prefix of ours (a crash of the host may leave something else)."""
    return len(line) >= PREFIX and line[TIME : TIME + 4] == b" std" and line[TAG] in b"FP" and line[PREFIX - 1] == 32


def parse(line: bytes, errors: str = "replace") -> tuple[str, str, str, bool]:
    """(time, stream, text, partial) of one record without its newline.

    A damaged record becomes a whole line of stdout without a time.

    :param errors: what becomes of bytes that are not UTF-8, as in ``bytes.decode``
    """
    if not is_record(line):
        return "", "stdout", line.decode("utf-8", errors), False
    head = line[:PREFIX].decode("ascii", "replace")
    return head[:TIME], head[TIME + 1 : TAG - 1], line[PREFIX:].decode("utf-8", errors), head[TAG] == "P"
