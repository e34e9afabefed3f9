"""An app that writes only what changed, no faster than the terminal reads: the base of the workstation's."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import textual
from rich.console import Console, RenderableType
from textual import events, messages
from textual._compositor import ChopsUpdate, Compositor, CompositorUpdate, LayoutUpdate
from textual.app import App
from textual.dom import DOMNode
from textual.driver import Driver
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget

from tui.render.compositor import DirtyRowsCompositor
from tui.render.flow import Flow, Question
from tui.render.painter import Painter
from tui.render.typist import Typist, is_input

KNOWN_TEXTUAL = "8.2.8"
"""The version whose private names this package was written against."""

ReturnType = TypeVar("ReturnType")


class _Painted(CompositorUpdate):
    """An update that is bytes already."""

    def __init__(self, data: str) -> None:
        self.data = data

    def render_segments(self, console: Console) -> str:
        return self.data


def _may_render() -> bool:
    """True where Textual is the one this package knows and nobody turned it off."""
    # By the name of its metadata folder: `textual.__version__` imports importlib.metadata, which takes 20 ms.
    known = (Path(textual.__file__).parent.parent / f"textual-{KNOWN_TEXTUAL}.dist-info").is_dir()
    return known and os.environ.get("WHARF_RENDER", "") != "stock"


class RenderApp(App[ReturnType]):
    """``App`` with diffed output and flow control; stock where the Textual version is not the known one."""

    _painter: Painter | None = None
    _flow: Flow | None = None
    _patience: Timer | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if _may_render():
            self._painter = Painter()
            self._flow = Flow()
        self._answered = asyncio.Event()
        self.typist = Typist(self, super().post_message)

    def get_driver_class(self) -> type[Driver]:
        chosen = super().get_driver_class()
        if _may_render() and chosen.__name__ == "LinuxDriver":
            from tui.render.driver import ButtonMouseDriver  # not at import: tests and pipes have no terminal

            return ButtonMouseDriver
        return chosen

    @property
    def diffing(self) -> bool:
        """True while output is diffed, False where it is Textual's own."""
        return self._painter is not None

    def invalidate_screen(self) -> None:
        """Something else wrote on the terminal: the next frame is sent whole."""
        if self._painter is not None:
            self._painter.forget()
        self.refresh()

    @property
    def troubled(self) -> bool:
        """True while an error or a warning is shown as a notification."""
        return any(each.severity != "information" for each in self._notifications)

    async def quiesce(self, timeout: float = 0.5) -> None:
        """Ask the terminal nothing more and wait for what it still owes us, at most ``timeout`` seconds.

        Call it before :meth:`suspend`: an answer that comes late would be typed into the program that runs then.
        """
        if self._flow is not None:
            self._flow.paused = True
            if self._flow.waiting:
                self._answered.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._answered.wait(), timeout)

    def post_message(self, message: Message) -> bool:
        """Keys and mouse events wait for their turn; see :mod:`tui.render.typist`."""
        if is_input(message):
            return self.typist.take(message)
        return super().post_message(message)

    # -- frames -----------------------------------------------------------------------------------------------

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        painter = self._painter
        if (
            painter is None
            or not isinstance(renderable, LayoutUpdate | ChopsUpdate)
            or self._driver is None
            or self._driver.is_inline
            or self.is_headless
            or self._batch_count
            or self._closed
            or not self._running
        ):
            super()._display(screen, renderable)
            return
        try:
            data = painter.paint(renderable, self.console, *screen.outer_size)
        except Exception as error:
            # Cells not painted are as they were, so the stock update still fits.
            self.log.error("diffing failed, stock output from here on", error)
            self._painter = self._flow = None
            super()._display(screen, renderable)
            return
        if not data:
            self.post_display_hook()
            return
        super()._display(screen, cast("RenderableType", _Painted(data)))
        if self._flow is not None and (question := self._flow.wrote(len(data))):
            self._driver.write(question)

    def _register(self, parent: DOMNode, *widgets: Widget, **options: Any) -> list[Widget]:
        if self._painter is not None:
            for widget in widgets:
                if isinstance(widget, Screen):
                    self._adopt(widget)
        return super()._register(parent, *widgets, **options)

    def _adopt(self, screen: Screen[Any]) -> None:
        """Give a screen the compositor that renders dirty rows; a screen not yet registered has nothing in its own."""
        if type(screen._compositor) is Compositor:
            compositor = DirtyRowsCompositor()
            compositor.held = self._hold
            screen._compositor = compositor

    # -- flow control -----------------------------------------------------------------------------------------

    def _hold(self) -> bool:
        """True while a frame has to wait; then it is tried again later even if the terminal never answers."""
        if self._flow is None or not self._flow.held():
            return False
        if self._patience is None:
            self._patience = self.set_timer(self._flow.patience, self._lose_patience)
        return True

    def _lose_patience(self) -> None:
        self._patience = None
        self._show_held()

    def _show_held(self) -> None:
        """Paint what had to wait."""
        screen = self._screen_stack[-1] if self._screen_stack else None
        if screen is not None and screen._compositor._dirty_regions:
            screen._compositor_refresh()

    async def _post_message(self, message: Message) -> bool:
        """What the driver's thread sends. Answers are taken here: in the queue they would wait behind keys."""
        flow = self._flow
        if flow is not None and isinstance(
            message, events.CursorPosition | messages.TerminalSupportsSynchronizedOutput
        ):
            if isinstance(message, messages.TerminalSupportsSynchronizedOutput):
                flow.question = Question.MODE  # asked by the driver at the start: this terminal answers it
            self._answered.set()
            if flow.answered():
                if self._patience is not None:
                    self._patience.stop()
                    self._patience = None
                self.call_later(self._show_held)
        return await super()._post_message(message)

    # -- the terminal went away and came back -----------------------------------------------------------------

    def _on_mount(self, event: events.Mount) -> None:
        self.app_suspend_signal.subscribe(self, self._suspended)
        # After App.suspend() and after SIGCONT alike
        self.app_resume_signal.subscribe(self, self._resumed)

    async def _on_exit_app(self) -> None:
        await self.quiesce(0.3)

    def _suspended(self, app: App[Any]) -> None:
        if self._flow is not None:
            self._flow.paused = True

    def _resumed(self, app: App[Any]) -> None:
        if self._flow is not None:
            self._flow.reset()
        self.invalidate_screen()

    def on_resize(self, event: events.Resize) -> None:
        # A terminal may rewrap or clear what it shows when its size changes, even if it changes back.
        if self._painter is not None:
            self._painter.forget()
