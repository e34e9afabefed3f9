"""Actions on images: pull, load, remove, run; and the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import NotFound
from core.model import Container, ContainerSpec
from tui import text
from tui.snapshot import image_name

if TYPE_CHECKING:
    from tui.jobs import Job
    from tui.screens.workspace import Workspace


def pull(desk: Workspace) -> None:
    """Ask for a reference, then pull it."""
    from tui.screens.pull import PullScreen

    desk.app.push_screen(PullScreen(desk.engine, desk.jobs))


def load(desk: Workspace) -> None:
    """Ask for an archive, then load it."""
    from tui.screens.pull import LoadScreen

    desk.app.push_screen(LoadScreen(desk.engine, desk.jobs))


def remove(desk: Workspace) -> None:
    """Untag (and with the last tag delete) the image of the row."""
    image = desk.snapshot.image(desk.images.key)
    if image is None:
        text.notify(desk, "no image is chosen", severity="warning", timeout=3)
        return
    users = [c.name for c in desk.snapshot.containers if c.image_id == image.id]
    name = image_name(image)
    size = text.size(image.size).strip()
    lost = ["Its layers that no other image has are deleted; pull or load it again to have it back."]
    others = len(image.tags) - 1
    if others > 0:
        lost = [f"Only this name goes; {others} other {'tag keeps' if others == 1 else 'tags keep'} the image."]
    elif users:
        lost.append(f"Used by {', '.join(users[:5])}: the engine will refuse.")
    reference = image.tags[0] if image.tags else image.id
    desk.ask(
        f"Remove image {name} ({size})?",
        lost,
        "Remove",
        lambda: desk.jobs.run(f"remove image {name}", lambda job: desk.engine.remove_image(reference)),
    )


def run_form(desk: Workspace) -> None:
    """The form for a new container; the image of the row (or of the container in view) is filled in."""
    from tui.screens.run_form import RunScreen

    known = [tag for image in desk.snapshot.images for tag in image.tags]
    image = desk.snapshot.image(desk.images.key) if desk.active == "images" else None
    chosen = image_name(image) if image is not None and image.tags else ""
    networks = [network.name for network in desk.snapshot.networks] or ["bridge"]

    def submitted(spec: ContainerSpec | None) -> None:
        if spec is not None:
            run(desk, spec)

    desk.app.push_screen(RunScreen(chosen, known, networks), submitted)


def run(desk: Workspace, spec: ContainerSpec) -> None:
    """Create and start; an image that is not here is pulled first, as ``docker run`` does."""

    async def work(job: Job) -> Container:
        try:
            made = await desk.engine.create(spec)
        except NotFound:
            job.title = f"pull {spec.image}"
            await desk.jobs.progress(job, desk.engine.pull(spec.image))
            job.title, job.total = f"run {spec.image}", 0
            made = await desk.engine.create(spec)
        return await desk.engine.start(made.id)

    desk.jobs.run(f"run {spec.image}", work, then=lambda made: desk.choose(made.id), can_cancel=True)


def demo(desk: Workspace) -> None:
    """Make the demo image and start its containers."""

    async def work(job: Job) -> None:
        async for line in desk.engine.demo():
            job.title = f"demo: {line}"
            desk.jobs.changed()

    desk.jobs.run("demo", work, done="The demo runs. Look around; d removes a container.", can_cancel=True)
