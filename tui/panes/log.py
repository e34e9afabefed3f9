"""The live log of the chosen container."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.widget import Widget

from core.engine import LogFile
from tui import text
from tui.keymap import Keymap, bindings_for
from tui.panes.base import Pane
from tui.widgets.filterbar import FilterBar
from tui.widgets.logview import LogView

_NARROW = 110  # columns of a terminal: below, the heading has the place that the tabs leave
LEVELS = ("", "debug", "info", "warn", "error")


class LogPane(Pane):
    """A view over the log file of one container, with search and filter."""

    PANEL = "log"
    NUMBER = 4
    LABEL = "Log"
    BINDINGS = [*bindings_for("log")]

    def __init__(self) -> None:
        super().__init__()
        self.view = LogView(empty="no container is chosen", id="log-view")
        self.bar = FilterBar(id="log-filter")
        self.container_id: str | None = None

    def compose(self) -> ComposeResult:
        yield self.view
        yield self.bar

    def on_mount(self) -> None:
        self.told()

    @property
    def target(self) -> Widget:
        return self.view

    def repaint(self) -> None:
        self.told()

    def tell_keys(self, keys: Keymap) -> None:
        """How to see again what the filter hides."""
        level, words, clear = (keys.label(action) for action in ("log.level", "log.filter", "app.back"))
        self.view.way_out = f"{level} the next level, {words} other words, {clear} all lines"

    def show_log(self, container_id: str | None, log: LogFile | None) -> None:
        """Show another log (the view closes the one before)."""
        self.container_id = container_id
        self.view.show(log, empty="it has written nothing yet" if log else "no container is chosen")
        self.told()

    # -- search and filter ------------------------------------------------------------------------------------------

    def open_search(self) -> None:
        """Type what to look for."""
        self.bar.open("search", self.view.state.needle)

    def open_filter(self) -> None:
        """Type what the lines must hold."""
        self.bar.open("filter", self.view.state.filter, prefix="only ")

    def next_level(self) -> None:
        """The next level: all, debug, info, warn, error and above."""
        state = self.view.state
        level = LEVELS[(LEVELS.index(state.level) + 1) % len(LEVELS)] if state.level in LEVELS else ""
        self.view.set_filter(state.filter, level=level)
        self.told()

    def clear(self) -> bool:
        """Drop search and filter; False where there was none."""
        state = self.view.state
        if state.needle:
            self.view.search("")
        elif state.filter or state.level:
            self.view.set_filter("")
        else:
            return False
        self.told()
        return True

    @on(FilterBar.Changed)
    def _changed(self, message: FilterBar.Changed) -> None:
        message.stop()  # a log may be large: it is searched when Enter is pressed, not at each letter

    @on(FilterBar.Submitted)
    def _submitted(self, message: FilterBar.Submitted) -> None:
        message.stop()
        self.bar.close()
        self.view.focus()
        if message.purpose == "search":
            self.view.search(message.text)
        else:
            self.view.set_filter(message.text, level=self.view.state.level)
        self.told()

    @on(FilterBar.Cancelled)
    def _cancelled(self, message: FilterBar.Cancelled) -> None:
        message.stop()
        self.bar.close()
        self.view.focus()

    # -- what the view says -----------------------------------------------------------------------------------------

    @on(LogView.StateChanged)
    def _state_changed(self, message: LogView.StateChanged) -> None:
        message.stop()
        self.told()

    @on(LogView.NotFound)
    def _not_found(self, message: LogView.NotFound) -> None:
        message.stop()
        hidden = self.view.hidden_by
        where = f"is not among the lines shown ({hidden})" if hidden else "is not in the log"
        text.notify(self, f"“{message.needle}” {where}", severity="warning", timeout=5 if hidden else 3)

    @on(LogView.Copied)
    def _copied(self, message: LogView.Copied) -> None:
        message.stop()
        text.notify(self, f"{message.lines} lines copied", timeout=2)

    def status(self) -> str:
        container = self.snapshot.container(self.container_id)
        if container is None:
            return ""
        state, glyphs = self.view.state, text.glyphs()
        chosen = [part for part in (self.view.hidden_by, f"/{state.needle}" if state.needle else "") if part]
        # What hides lines must be read where the heading is cut.
        narrow = self.app.size.width < _NARROW
        parts = [*chosen, container.name] if narrow else [container.name, *chosen]
        parts.append(f"{glyphs.follow} follow" if state.following else f"{glyphs.held} held")
        if state.wrap:
            parts.append("wrap")
        return "  ".join(parts)
