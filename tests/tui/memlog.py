"""Logs that live in memory: the same protocol as a log file, for the view's tests."""

from __future__ import annotations

from core.model import LogLine


def line(number: int, text: str, stream: str = "stdout", *, partial: bool = False) -> LogLine:
    return LogLine(f"2025-11-20T19:04:{number // 1000 % 60:02d}.{number % 1000:03d}000000Z", stream, text, partial)


class MemLog:
    """A log of lines given; ``late`` lines get their numbers only after that many calls of refresh."""

    def __init__(self, texts: list[str] | None = None, *, late: int = 0) -> None:
        self.texts = list(texts or [])
        self.dropped = 0
        self.closed = False
        self.reads = 0
        self._late = late

    @property
    def indexed(self) -> bool:
        return self._late <= 0

    @property
    def lines(self) -> int:
        return len(self.texts) if self.indexed else 0

    def refresh(self, budget: float = 0.01) -> bool:
        self._late -= 1
        return not self.indexed

    def read(self, first: int, count: int) -> list[LogLine]:
        self.reads += count
        first = max(0, first)
        return [self._at(index) for index in range(first, min(first + count, len(self.texts)))]

    def _at(self, index: int) -> LogLine:
        return line(index + self.dropped, self.texts[index], "stderr" if "stderr" in self.texts[index] else "stdout")

    def tail(self, count: int) -> list[LogLine]:
        return self.read(len(self.texts) - count, min(count, len(self.texts)))

    def find(self, needle: str, start: int, *, backwards: bool = False, limit: int = 100_000) -> int | None:
        last = start - limit if backwards else start + limit
        for index in range(start, last, -1 if backwards else 1):
            if 0 <= index < len(self.texts) and needle.lower() in self.texts[index].lower():
                return index
        return None

    def close(self) -> None:
        self.closed = True

    def drop(self, count: int) -> None:
        """Rotation takes the oldest lines away."""
        del self.texts[:count]
        self.dropped += count
