"""Actions on what is on the disk."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from core.errors import WharfError
from tui import text
from tui.handlers.images import way_back
from tui.snapshot import image_name, listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.model import DiskUsage, Pruned, PruneRule
    from tui.screens.workspace import Workspace


async def clean_up(desk: Workspace) -> None:
    """The thorough recovery, and words about what it has found. :raises WharfError:"""
    broken = None
    with suppress(WharfError):  # no reason to leave the recovery out
        broken = await desk.engine.remains()  # before they are gone
    failed = await desk.engine.recover()
    if broken is not None and broken.half:
        layers = f"{broken.half} half-made layer{'s' * (broken.half > 1)} of {text.decimal(broken.half_size).strip()}"
        text.notify(desk, f"a pull, load or import was broken off: {layers} removed; begin it again", timeout=10)
    if failed:
        what = "; ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
        text.notify(desk, f"what a crash has left could not be cleaned up: {what}", severity="warning")


def usage(desk: Workspace) -> None:
    """What images, containers, volumes and logs occupy."""
    from tui.screens.usage import UsageScreen

    def ask(show: Callable[[DiskUsage | WharfError], None]) -> None:
        desk.jobs.run("disk usage", lambda job: desk.engine.disk_usage(), then=show, failed=show, quiet=True)

    desk.app.push_screen(UsageScreen(ask), lambda wanted: prune(desk) if wanted else None)


def check(desk: Workspace) -> None:
    """Verify every layer and document; mend what is damaged after a question."""
    from tui.screens.check import TITLE, StoreCheckScreen

    if any(job.title == TITLE for job in desk.jobs.running):
        text.notify(desk, f"it is being checked: {desk.keymap.label('app.jobs')} shows how far it is", timeout=3)
        return
    desk.app.push_screen(StoreCheckScreen(desk.engine, desk.jobs))


def prune(desk: Workspace) -> None:
    """Ask which images may go, show them, and remove them after a yes."""
    from tui.screens.usage import PruneScreen

    def found(rule: PruneRule, would: Pruned) -> None:
        if not would.lines:
            text.notify(desk, "nothing to prune", timeout=3)
            return
        names = [image_name(image) for image in would.images]
        size = text.decimal(would.reclaimed).strip()
        lost = [f"{size} of disk are given back."]
        if names:
            lost = [listed(names, 12), f"{lost[0]} {way_back(would.images)}"]
        what = f"{len(names)} image{'s' * (len(names) != 1)}" if names else "what was broken off"

        shown = replace(rule, dry_run=False, among=frozenset(image.id for image in would.images))

        def go() -> None:
            desk.jobs.run(
                "prune images",
                lambda job: desk.engine.prune_images(shown),
                then=lambda done: text.notify(desk, f"{text.decimal(done.reclaimed).strip()} given back"),
            )

        desk.ask(f"Remove {what}?", lost, "Prune", go)

    desk.app.push_screen(PruneScreen(desk.engine, desk.jobs, found))
