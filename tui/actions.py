"""The one registry of actions: palette, footer, help and keymap all come from it.

An action belongs to the panels in ``contexts``: its key works while one of them has the focus. ``handler`` gets the
workspace (the *desk*) and returns at once; what takes time becomes a job (:mod:`tui.jobs`).
"""

from __future__ import annotations

from collections.abc import Iterable

from core.model import Container, State
from tui.action import ALL, CONTAINERS, LISTS, LOG, MARKED, ONE, PANELS, Action
from tui.actions_images import image_actions
from tui.actions_networks import network_actions
from tui.handlers import containers, images, view

__all__ = ["ACTIONS", "ALL", "BY_ID", "LISTS", "LOG", "PANELS", "Action", "footer", "in_context"]


def _there(container: Container) -> bool:
    return bool(container.id)


def _live(container: Container) -> bool:
    return container.state.live


def _still(container: Container) -> bool:
    return not container.state.live


def _running(container: Container) -> bool:
    return container.state is State.RUNNING


def _container_everyday() -> Iterable[Action]:
    group = "Container"
    yield Action(
        "container.log", "Log", "l", CONTAINERS, containers.show_log, "Go to the log.", group, footer=2, when=_there
    )
    yield Action(
        "container.shell",
        "Shell",
        "e",
        ONE,
        containers.shell,
        "A shell inside, on the whole terminal; leave it to come back.",
        group,
        footer=3,
        when=_running,
    )
    yield Action(
        "container.start", "Start", "u", ONE, containers.start, "Start what is stopped.", group, footer=4, when=_still
    )
    yield Action(
        "container.stop",
        "Stop",
        "s",
        ONE,
        containers.stop,
        "The stop signal, then after its timeout SIGKILL.",
        group,
        footer=4,
        when=_live,
    )
    yield Action(
        "container.restart", "Restart", "r", ONE, containers.restart, "Stop and start.", group, footer=5, when=_live
    )


def _container_ends() -> Iterable[Action]:
    group = "Container"
    yield Action(
        "container.pause",
        "Pause or go on",
        "p",
        ONE,
        containers.pause,
        "Freeze all its processes, or let them go on.",
        group,
        word="pause",
        footer=9,
        when=_live,
    )
    yield Action(
        "container.kill",
        "Kill",
        "K",
        ONE,
        containers.kill,
        "SIGKILL at once: what it has not saved is lost.",
        group,
        danger=True,
        when=_live,
    )
    yield Action(
        "container.remove",
        "Remove",
        "d",
        ONE,
        containers.remove,
        "Delete the container with its files and its log.",
        group,
        danger=True,
        footer=6,
        when=_there,
    )


def _container_others() -> Iterable[Action]:
    group = "Container"
    yield Action(
        "container.attach",
        "Attach",
        "a",
        ONE,
        containers.attach,
        "Its own terminal (ctrl+p ctrl+q lets go) or its output (ctrl+c).",
        group,
        when=_running,
    )
    yield Action(
        "container.command",
        "Copy the docker command",
        "y",
        ONE,
        containers.copy_command,
        "Show and copy the docker command that makes this container.",
        group,
    )


def _container_outcome() -> Iterable[Action]:
    group = "Container"
    about = "The files in which it is not like its image."
    yield Action("container.changes", "Changed files", "D", ONE, containers.changes, about, group)
    about = "Its files as they are now become an image (docker commit)."
    yield Action("container.commit", "Make an image of it", "M", ONE, containers.commit, about, group)
    about = "All its files as a tar on this host."
    yield Action("container.export", "Export its files", "W", ONE, containers.export, about, group)


def _checkpoint_actions() -> Iterable[Action]:
    group = "Container"
    yield Action(
        "container.checkpoint",
        "Checkpoint",
        "C",
        ONE,
        containers.checkpoint,
        "Save its processes and end them, to go on from there later.",
        group,
        danger=True,
        when=_running,
        needs="checkpoints",
    )
    yield Action(
        "container.restore",
        "Restore",
        "R",
        ONE,
        containers.restore,
        "Go on from its newest checkpoint.",
        group,
        when=_still,
        needs="checkpoints",
    )


def _list_actions() -> Iterable[Action]:
    group = "Lists"
    yield Action(
        "list.filter",
        "Filter the list",
        "/",
        LISTS,
        view.filter_list,
        "text · !text leaves out · key=value a label · state=running.",
        group,
        word="filter",
        footer=10,
    )
    yield Action("list.mark", "Mark", "space", MARKED, view.mark, "Mark for an action on several.", group)
    yield Action(
        "list.mark_range",
        "Mark up to here",
        "ctrl+@",
        MARKED,
        view.mark_range,
        "Mark from the last mark to the cursor (ctrl+space).",
        group,
    )
    yield Action("list.mark_all", "Mark all", "*", MARKED, view.mark_all, "Mark all shown, or none.", group)
    yield Action(
        "list.sort", "Sort", "S", LISTS, view.sort, "The next order; a click on a heading chooses and reverses.", group
    )
    yield Action("list.inspect", "Inspect", "i", ALL, view.inspect, "All that is known, as docker inspect.", group)
    yield Action("list.copy_id", "Copy the id", "c", LISTS, view.copy_id, "Copy the id of the row.", group)


def _log_actions() -> Iterable[Action]:
    group = "Log"
    yield Action("log.search", "Search", "/", LOG, view.log_search, "n and N: next and previous.", group, footer=7)
    yield Action(
        "log.filter", "Filter", "f", LOG, view.log_filter, "Only lines with it (!text: without).", group, footer=8
    )
    yield Action("log.level", "Level", "l", LOG, view.log_level, "At least debug, info, warn, error.", group, footer=9)
    yield Action(
        "log.follow",
        "Follow",
        "F",
        frozenset({"log", "containers"}),
        view.log_follow,
        "Stay at the newest line, or stand still.",
        group,
        footer=11,
    )
    yield Action("log.timestamps", "Times", "t", LOG, view.log_timestamps, "Show or hide the times.", group)
    yield Action("log.wrap", "Wrap", "w", LOG, view.log_wrap, "Wrap long lines or cut them.", group)
    yield Action("log.copy", "Copy", "c", LOG, view.log_copy, "Copy the selection or the lines in view.", group)


def _app_actions() -> Iterable[Action]:
    yield Action(
        "app.demo",
        "Demo",
        "x",
        ALL,
        images.demo,
        "Make a small image from this host and start containers that show everything.",
    )
    yield Action("app.help", "Help", "?", ALL, view.show_help, "All keys.", footer=90)
    yield Action("app.palette", "Commands", ":", ALL, view.palette, "Everything by name.", footer=80, word="command")
    yield Action("app.jobs", "Jobs", "J", ALL, view.show_jobs, "Pulls, loads and the like: progress, cancel.")
    yield Action("app.theme", "Theme", "T", ALL, view.choose_theme, "Choose the colours; remembered.")
    yield Action("app.zoom", "Zoom", "z", ALL, view.zoom, "The focused panel alone, or all again.")
    yield Action("app.back", "Back", "escape", ALL, view.back, "Out of the detail, filter or zoom.")
    yield Action("panel.next", "Next panel", "tab", ALL, view.next_panel)
    yield Action("panel.previous", "Previous panel", "shift+tab", ALL, view.previous_panel)
    for number, name in enumerate(PANELS, 1):
        yield Action(f"panel.{name}", f"Panel {name}", str(number), ALL, view.go_to_panel(name))
    yield Action("app.quit", "Quit", "q", ALL, view.leave, "Leave; containers run on.", footer=95)


ACTIONS: tuple[Action, ...] = (
    *_container_everyday(),
    *_container_ends(),
    *_container_others(),
    *_container_outcome(),
    *_checkpoint_actions(),
    *image_actions(),
    *network_actions(),
    *_list_actions(),
    *_log_actions(),
    *_app_actions(),
)
BY_ID: dict[str, Action] = {action.id: action for action in ACTIONS}


def in_context(panel: str) -> list[Action]:
    """The actions whose keys work in that panel."""
    return [action for action in ACTIONS if panel in action.contexts]


def footer(panel: str, container: Container | None) -> list[Action]:
    """What the footer offers there, in its order; actions that make no sense for ``container`` are left out."""
    shown = [
        action
        for action in in_context(panel)
        if action.footer and (action.when is None or (container is not None and action.when(container)))
    ]
    return sorted(shown, key=lambda action: action.footer)
