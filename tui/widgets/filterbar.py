"""One line of input under a pane: filter, search or command; hidden until opened."""

from __future__ import annotations

from textual import on
from textual.binding import Binding
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Static

from tui.text import clean, safe


class FilterBar(Horizontal):
    """``/`` and an input. ``purpose`` says what it is open for and comes back with each message."""

    DEFAULT_CSS = """
    FilterBar { height: 1; display: none; background: $panel; }
    FilterBar.-open { display: block; }
    FilterBar Static { width: auto; padding: 0 1 0 1; color: $accent; text-style: bold; }
    FilterBar Input, FilterBar Input:focus { height: 1; border: none; padding: 0; background: $panel; }
    """

    BINDINGS = [Binding("escape", "cancel", "Cancel", show=False, id="filter.cancel")]

    class FilterMessage(Message):
        """Base: which bar, what for, the text."""

        def __init__(self, bar: FilterBar, purpose: str, text: str = "") -> None:
            super().__init__()
            self.bar = bar
            self.purpose = purpose
            self.text = text

        @property
        def control(self) -> FilterBar:
            return self.bar

    class Changed(FilterMessage):
        """The text changed."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, FilterBar.Changed) and message.bar is self.bar

    class Submitted(FilterMessage):
        """Enter: the text stays in force, the bar closes."""

    class Cancelled(FilterMessage):
        """Escape: the bar closes, what it filtered is shown again."""

    def __init__(self, *, name: str | None = None, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._purpose = ""
        self._sign = Static("", markup=False)
        self._input = Input(select_on_focus=False)
        # A blinking cursor would repaint twice a second for ever.
        self._input.cursor_blink = False

    @property
    def purpose(self) -> str:
        return self._purpose

    @property
    def text(self) -> str:
        return self._input.value

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def open(self, purpose: str, text: str = "", *, prefix: str = "/", hint: str = "") -> None:
        """Show the bar with ``text`` in it and take the keys."""
        self._purpose = purpose
        if not self._input.is_attached:  # on first use: the first paint does without
            self.mount(self._sign, self._input)
        self._sign.update(safe(prefix))
        with self.prevent(Input.Changed):
            self._input.value = clean(text)
        self._input.placeholder = hint
        self._input.cursor_position = len(self._input.value)
        self.add_class("-open")
        self._input.focus()

    def close(self) -> None:
        """Hide the bar."""
        self.remove_class("-open")

    def action_cancel(self) -> None:
        self.close()
        self.post_message(self.Cancelled(self, self._purpose, self._input.value))

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self.is_open:
            self.post_message(self.Changed(self, self._purpose, event.value))

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self.close()
        self.post_message(self.Submitted(self, self._purpose, event.value))
