"""The terminal driver with mouse reports for buttons and drags only, and with Esc as a key of its own.

Textual asks for every motion of the pointer (mode 1003). Each report wakes the app and, over SSH, the link; nothing
here reacts to a pointer that only passes by. Mode 1002 reports presses, releases, drags and the wheel.
"""

from __future__ import annotations

from textual.drivers import linux_driver
from textual.drivers.linux_driver import LinuxDriver

from tui.render.parser import InOrderParser

# Its reading loop makes the parser by this name, and asks nobody.
linux_driver.XTermParser = InOrderParser  # type: ignore[attr-defined]


class ButtonMouseDriver(LinuxDriver):
    """``LinuxDriver`` in xterm's mouse mode 1002 with SGR coordinates (1006)."""

    def _enable_mouse_support(self) -> None:
        if self._mouse:
            self.write("\x1b[?1000h\x1b[?1002h\x1b[?1006h")
            self.flush()

    def _disable_mouse_support(self) -> None:
        if self._mouse:
            self.write("\x1b[?1000l\x1b[?1002l\x1b[?1006l")
            self.flush()
