"""Actions that change what is seen: panels, filter, sort, marks, the log's view, help, palette, theme."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tui.screens.workspace import Workspace


def show_help(desk: Workspace) -> None:
    """All keys, by panel."""
    from tui.screens.help import HelpScreen  # imported on first use: the first paint does not wait for it

    desk.app.push_screen(HelpScreen(desk.keymap, desk.active, desk.offers))


def palette(desk: Workspace) -> None:
    """Everything by name."""
    from tui.commands import open_palette

    open_palette(desk)


def show_jobs(desk: Workspace) -> None:
    """What is under way."""
    from tui.screens.jobs import JobsScreen

    desk.app.push_screen(JobsScreen(desk.jobs))


def choose_theme(desk: Workspace) -> None:
    """The list of themes; the one under the cursor is shown at once."""
    from tui.screens.settings import ThemeScreen

    desk.app.push_screen(ThemeScreen(desk.theme_names))


def leave(desk: Workspace) -> None:
    """Leave the workstation."""
    desk.app.exit()


def zoom(desk: Workspace) -> None:
    """One panel alone, or all."""
    desk.set_zoom(not desk.has_class("-zoomed"))


def back(desk: Workspace) -> None:
    """One step out: an error that is shown, search or filter, zoom, then the detail."""
    if desk.app.troubled:
        desk.app.clear_notifications()
        return
    pane = desk.panes[desk.active]
    if desk.active == "log" and desk.log_pane.clear():
        return
    if desk.is_list(desk.active) and desk.list_pane(desk.active).filter:
        desk.list_pane(desk.active).set_filter("")
    elif desk.is_list(desk.active) and desk.list_pane(desk.active).table.marks:
        desk.list_pane(desk.active).table.clear_marks()
    elif desk.has_class("-zoomed"):
        desk.set_zoom(False)
    elif not desk.is_list(pane.PANEL):
        desk.focus_panel(desk.last_list)


def next_panel(desk: Workspace) -> None:
    desk.step_panel(1)


def previous_panel(desk: Workspace) -> None:
    desk.step_panel(-1)


def go_to_panel(name: str) -> Callable[[Workspace], None]:
    """The handler that goes to one panel."""

    def go(desk: Workspace) -> None:
        desk.focus_panel(name)

    return go


# -- lists --------------------------------------------------------------------------------------------------------


def filter_list(desk: Workspace) -> None:
    desk.list_pane(desk.active).open_filter()


def sort(desk: Workspace) -> None:
    desk.list_pane(desk.active).next_order()


def mark(desk: Workspace) -> None:
    table = desk.list_pane(desk.active).table
    table.toggle_mark()
    table.move_cursor(1)


def mark_range(desk: Workspace) -> None:
    desk.list_pane(desk.active).table.mark_range()


def mark_all(desk: Workspace) -> None:
    table = desk.list_pane(desk.active).table
    if len(table.marks) == table.row_count:
        table.clear_marks()
    else:
        table.mark_all()


def copy_id(desk: Workspace) -> None:
    """The id of the row, by OSC 52: it reaches the user's own machine over SSH."""
    key = desk.list_pane(desk.active).key
    if key:
        desk.app.copy_to_clipboard(key)
        text.notify(desk, f"copied {key.removeprefix('sha256:')[:12]}…", timeout=2)


def inspect(desk: Workspace) -> None:
    """What ``docker inspect`` would show, of the row (or the container in view)."""
    key = desk.list_pane(desk.active).key if desk.is_list(desk.active) else desk.chosen
    if key is None:
        text.notify(desk, "nothing is chosen", severity="warning", timeout=3)
        return
    desk.show_inspect(key)


# -- log ----------------------------------------------------------------------------------------------------------


def log_search(desk: Workspace) -> None:
    desk.log_pane.open_search()


def log_filter(desk: Workspace) -> None:
    desk.log_pane.open_filter()


def log_level(desk: Workspace) -> None:
    desk.log_pane.next_level()


def log_follow(desk: Workspace) -> None:
    desk.log_pane.view.toggle_follow()
    desk.log_pane.told()


def log_timestamps(desk: Workspace) -> None:
    desk.log_pane.view.toggle_timestamps()


def log_wrap(desk: Workspace) -> None:
    desk.log_pane.view.toggle_wrap()
    desk.log_pane.told()


def log_copy(desk: Workspace) -> None:
    lines = desk.log_pane.view.copy_text()
    desk.app.copy_to_clipboard(lines)
    text.notify(desk, f"{len(lines.splitlines())} lines copied", timeout=2)
