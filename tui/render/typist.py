"""Input in order: each key is handled when all that the one before it did has come to rest.

Textual chooses who gets a key when it is read, and lets effects travel as messages from queue to queue. Keys read in
one go (typed ahead over a slow line, pasted, sent by ``tmux send-keys``) then meet the focus, the cursor and the
screen of *before*: ``j`` and ``K`` ask to kill the row that ``j`` was to leave, the words after a tab land in the field
before it. So keys, pastes and mouse events wait here. The next one is given on when every message pump waits for a
message, callbacks for after the refresh have run, and the screen in front does not say that it is still at work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from textual import events
from textual.message import Message
from textual.message_pump import MessagePump

if TYPE_CHECKING:
    from textual.app import App

LIMIT = 20.0
"""Seconds after which a key is given on although something is still busy: a handler that hangs must not take the
keyboard with it. Long, as on a loaded machine a dialog may take seconds to open."""

_LONG = 0.5  # seconds after which who presses Esc or ctrl+q does not want to wait any more

_OUT = ("escape", "ctrl+c", "ctrl+q")
_EAGER = 50  # rounds of the event loop that are looked at one by one; after that every few milliseconds
_PAUSE = 0.003  # seconds

Deliver = Callable[[Message], bool]


def is_input(message: Message) -> bool:
    """True for what comes from the keyboard or the mouse and has not been given to a widget yet."""
    return isinstance(message, events.InputEvent | events.Paste) and not message.is_forwarded


class Typist:
    """Holds what was typed for one app. ``deliver`` puts an event into the app's own queue."""

    def __init__(self, app: App[Any], deliver: Deliver) -> None:
        self._app = app
        self._deliver = deliver
        self._waiting: deque[Message] = deque()
        self._task: asyncio.Task[None] | None = None
        self._held = False
        self._since: float | None = None  # when the wait for rest began

    def take(self, event: Message) -> bool:
        """An event was read; False where the app is about to end."""
        if self._ending():
            return False
        if isinstance(event, events.Key) and event.key in _OUT and self._hangs(event.key):
            self._waiting.clear()  # typed before it, for what does not come
            return self._deliver(event)
        if not self._waiting and self._task is None and not self._held and self._at_rest():
            return self._deliver(event)
        self._waiting.append(event)
        self._go_on()
        return True

    def _ending(self) -> bool:
        return self._app._closing or self._app._exit

    def hold(self) -> None:
        """Give nothing on from now: who takes the keyboard next is on the way."""
        self._held = True

    def release(self) -> list[Message]:
        """End :meth:`hold`; what was typed meanwhile is handed out and not given on."""
        self._held = False
        typed = list(self._waiting)
        self._waiting.clear()
        return typed

    def _hangs(self, key: str) -> bool:
        if self._held:  # what opens is to have the Esc; the ways out of the program stay
            return key != "escape"
        return self._since is not None and asyncio.get_running_loop().time() - self._since > _LONG

    def _go_on(self) -> None:
        if self._task is None and not self._held:
            self._task = asyncio.create_task(self._give_on(), name="typist")

    async def _give_on(self) -> None:
        try:
            while self._waiting:
                await self._rest()
                if self._ending() or not self._app.screen_stack:
                    self._waiting.clear()
                if self._held or not self._waiting:
                    return
                self._deliver(self._waiting.popleft())
        finally:
            self._task = None

    async def _rest(self) -> None:
        """Wait until nothing moves, at most :data:`LIMIT` seconds."""
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        end = self._since + LIMIT
        rounds = 0
        while not self._ending() and not self._at_rest() and loop.time() < end:
            rounds += 1
            await asyncio.sleep(0 if rounds < _EAGER else _PAUSE)
        self._since = None

    def _at_rest(self) -> bool:
        app = self._app
        if not app._running or any(map(_is_busy, self._pumps())):
            return False
        for screen in app.screen_stack:
            if screen._callbacks:
                return False
        front = app.screen_stack[-1] if app.screen_stack else None
        if front is None:
            return False  # before the first or after the last: nobody is there to have a key
        if front._layout_required and not app._batch_count:
            return False
        return not getattr(front, "at_work", False)

    def _pumps(self) -> Iterable[MessagePump]:
        yield self._app
        yield from list(self._app._registry)


def _is_busy(pump: MessagePump) -> bool:
    """True while a pump handles a message or has some left. One that has ended, or has not begun, is not busy."""
    if pump._closed or (pump._task is None and not pump._running):
        return False
    # Who waits for a message stands among the waiters of the queue's event, which is set when one is put there. That
    # the queue is empty would not do: the pump may be at work on what it took from it.
    ready: asyncio.Event = pump._message_queue.ready_event
    return ready.is_set() or not getattr(ready, "_waiters", ())
