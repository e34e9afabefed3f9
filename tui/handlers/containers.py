"""Actions on containers: the marked ones, else the one under the cursor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from core.model import Container, State
from tui import text

if TYPE_CHECKING:
    from core.errors import WharfError
    from core.model import FileChange
    from tui.screens.workspace import Workspace

Call = Callable[[str], Awaitable[object]]


def _names(chosen: list[Container]) -> str:
    names = ", ".join(container.name for container in chosen[:4])
    return names + (f" and {len(chosen) - 4} more" if len(chosen) > 4 else "")


def _each(
    desk: Workspace,
    verb: str,
    call: Call,
    fits: Callable[[Container], bool],
    why_not: str,
    telling: Callable[[str], str] | None = None,
) -> None:
    """``call`` for each chosen container that fits; what does not is left out and said where nothing is left.

    :param telling: what is said at once, of their names: for what nobody was asked about, and how it is undone
    """
    targets = desk.targets()
    if not targets:
        text.notify(desk, "no container is chosen", severity="warning", timeout=3)
        return
    chosen = [container for container in targets if fits(container)]
    if not chosen:
        text.notify(desk, f"{_names(targets)}: {why_not}", severity="warning", timeout=3)
        return
    ids = [container.id for container in chosen]
    if telling is not None:
        text.notify(desk, telling(_names(chosen)), timeout=5)
    desk.jobs.run(f"{verb} {_names(chosen)}", lambda job: desk.jobs.several(ids, call))


def show_log(desk: Workspace) -> None:
    desk.focus_panel("log")


def start(desk: Workspace) -> None:
    _each(desk, "start", desk.engine.start, lambda c: not c.state.live, "already running")


def stop(desk: Workspace) -> None:
    again = f"{desk.keymap.label('container.start')} starts again what has ended"
    _each(desk, "stop", desk.engine.stop, _stoppable, "not running", lambda names: f"stopping {names}; {again}")


def _stoppable(container: Container) -> bool:
    return container.state.live or container.state is State.RESTARTING


def restart(desk: Workspace) -> None:
    _each(desk, "restart", desk.engine.restart, lambda c: True, "", "restarting {}".format)


def pause(desk: Workspace) -> None:
    """Freeze the running ones; where none of the chosen runs, let the frozen ones go on."""
    if any(container.state is State.RUNNING for container in desk.targets()):
        _each(desk, "pause", desk.engine.pause, lambda c: c.state is State.RUNNING, "not running")
    else:
        _each(desk, "unpause", desk.engine.unpause, lambda c: c.state is State.PAUSED, "not running")


def kill(desk: Workspace) -> None:
    """SIGKILL, after a question."""
    chosen = [container for container in desk.targets() if container.state.live]
    if not chosen:
        text.notify(desk, "nothing of it is running", severity="warning", timeout=3)
        return
    ids = [container.id for container in chosen]
    desk.ask(
        f"Kill {_names(chosen)}?",
        ["Its processes end at once (SIGKILL); what is not on disk yet is lost.", "Stop asks them first."],
        "Kill",
        lambda: desk.jobs.run(f"kill {_names(chosen)}", lambda job: desk.jobs.several(ids, desk.engine.kill)),
    )


def remove(desk: Workspace) -> None:
    """Delete, after a question that says what is lost."""
    chosen = desk.targets()
    if not chosen:
        text.notify(desk, "no container is chosen", severity="warning", timeout=3)
        return
    live = [container for container in chosen if container.state.live]
    lost = ["All files written inside and not in a volume, and the log, are gone for good."]
    if live:
        lost.append("It still runs, and is killed first." if len(chosen) == 1 else f"Killed first: {_names(live)}")
    volumes = sorted({m.source for c in chosen for m in c.spec.mounts if m.kind == "volume" and m.source})
    if volumes:
        lost.append(f"Kept: the volumes {', '.join(volumes[:6])}")
    ids = [container.id for container in chosen]

    async def one(cid: str) -> None:
        await desk.engine.remove(cid, force=bool(live))

    def go() -> None:
        desk.containers.table.clear_marks()
        desk.jobs.run(f"remove {_names(chosen)}", lambda job: desk.jobs.several(ids, one))

    desk.ask(f"Remove {_names(chosen)}?", lost, "Remove", go)


def checkpoint(desk: Workspace) -> None:
    """Save the processes of the running ones, and end them, after a question."""
    chosen = [container for container in desk.targets() if container.state is State.RUNNING]
    if not chosen:
        text.notify(desk, "nothing of it is running", severity="warning", timeout=3)
        return
    ids = [container.id for container in chosen]
    restore = desk.keymap.label("container.restore")
    desk.ask(
        f"Checkpoint {_names(chosen)}?",
        ["Its processes are saved, and end.", f"Restore ({restore}) goes on from there; Start begins anew."],
        "Checkpoint",
        lambda: desk.jobs.run(f"checkpoint {_names(chosen)}", lambda _: desk.jobs.several(ids, desk.engine.checkpoint)),
    )


def restore(desk: Workspace) -> None:
    _each(desk, "restore", desk.engine.restore, lambda c: not c.state.live, "already running")


def copy_command(desk: Workspace) -> None:
    """The docker command that would make this container, copied and shown."""
    from tui.equivalent import docker_run

    container = _in_view(desk)
    if container is None:
        return
    command = docker_run(container.spec, name=container.name)
    desk.app.copy_to_clipboard(command)
    text.notify(desk, command, title="Copied", timeout=8)


def changes(desk: Workspace) -> None:
    """The files in which the container in view is not like its image."""
    from tui.screens.outcome import ChangesScreen

    container = _in_view(desk)
    if container is None:
        return

    def ask(show: Callable[[list[FileChange] | WharfError], None]) -> None:
        desk.jobs.run("changes", lambda job: desk.engine.changes(container.id), then=show, failed=show, quiet=True)

    desk.app.push_screen(ChangesScreen(container.name, ask))


def commit(desk: Workspace) -> None:
    """Ask how, then make an image of the container in view."""
    from tui.screens.outcome import CommitScreen

    container = _in_view(desk)
    if container is not None:
        desk.app.push_screen(CommitScreen(desk.engine, desk.jobs, container))


def export(desk: Workspace) -> None:
    """Ask where to, then write the files of the container in view."""
    from tui.screens.outcome import ExportScreen

    container = _in_view(desk)
    if container is not None:
        desk.app.push_screen(ExportScreen(desk.engine, desk.jobs, container))


def _in_view(desk: Workspace) -> Container | None:
    container = desk.container()
    if container is None:
        text.notify(desk, "no container is chosen", severity="warning", timeout=3)
    return container


def shell(desk: Workspace) -> None:
    """A shell inside, on the whole terminal."""
    container = _running(desk)
    if container is not None:
        from tui.handover import open_shell

        name = container.name
        desk.hand_over(f"shell in {name}", lambda: open_shell(desk.engine, container.id, name))


def attach(desk: Workspace) -> None:
    """The container's own terminal or streams, on the whole screen."""
    container = _running(desk)
    if container is not None:
        desk.hand_over(f"attach to {container.name}", lambda: desk.engine.attach(container.id))


def _running(desk: Workspace) -> Container | None:
    container = desk.container()
    if container is not None and container.state is State.RUNNING:
        return container
    what = f"{container.name} is {container.state.value}" if container else "no container is chosen"
    text.notify(
        desk,
        what + (f": start it first ({desk.keymap.label('container.start')})" if container else ""),
        severity="warning",
        timeout=3,
    )
    return None
