"""Esc and the key after it are two keys, also where both come in one read.

Over a slow line they always do. Textual takes them for one with alt, or drops the Esc (``Esc ↵`` becomes ``↵``: what
was to be left is done). Nothing here is on alt; so Esc before what begins no sequence is told as Esc at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from textual._parser import ParseTimeout
from textual._xterm_parser import XTermParser
from textual.message import Message

ESC = "\x1b"
# What a key or an answer of the terminal begins with: CSI and SS3 (ECMA-48, 5.3); b, f and DEL are words of a line, as
# terminals of the Mac send them.
_GOES_ON = frozenset("[Obf\x7f" + ESC)
_PASTE = (f"{ESC}[200~", f"{ESC}[201~")


class InOrderParser(XTermParser):
    """``XTermParser`` that tells Esc apart from the key after it."""

    _recent = ""  # the last characters, to know where a paste begins and ends
    _pasting = False

    def feed(self, data: str) -> Iterable[Message]:
        start = 0
        for at, character in enumerate(data):
            if self._recent.endswith(ESC) and not self._pasting and character not in _GOES_ON:
                if at > start:
                    yield from super().feed(data[start:at])
                start = at
                yield from self._tell_escape()
            self._recent = (self._recent + character)[-len(_PASTE[0]) :]
            if self._recent in _PASTE:
                self._pasting = self._recent == _PASTE[0]
        if start < len(data) or not data:
            yield from super().feed(data[start:])

    def _tell_escape(self) -> Iterable[Message]:
        """What :meth:`tick` does when the time for a sequence is over."""
        if self._timeout_time is None:
            return  # told by time already
        self._timeout_time = None
        self._awaiting = self._gen.throw(ParseTimeout())
        while self._tokens:
            yield self._tokens.popleft()
