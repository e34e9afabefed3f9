"""Actions on images: pull, load, import, remove, run; and the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import Conflict, NotFound
from tui import text
from tui.snapshot import familiar, image_name, listed, repository

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.engine import ImageLayers
    from core.errors import WharfError
    from core.model import Container, ContainerSpec, FoundFile, HistoryEntry, Image
    from tui.jobs import Job
    from tui.screens.workspace import Workspace

_SHOWN = 8  # images that the question before a removal tells of one by one


def pull(desk: Workspace) -> None:
    """Ask for a reference, then pull it."""
    from tui.screens.pull import PullScreen

    desk.app.push_screen(PullScreen(desk.engine, desk.jobs))


def pull_tags(desk: Workspace) -> None:
    """Ask for a repository (the row's is filled in), then pull all that it has."""
    from tui.screens.pull import PullScreen

    image = desk.snapshot.image(desk.images.key)
    name = "" if image is None or image_name(image).startswith("<none>") else repository(image_name(image))
    desk.app.push_screen(PullScreen(desk.engine, desk.jobs, name, every_tag=True))


def load(desk: Workspace) -> None:
    """Ask for an archive, then load it."""
    from tui.screens.pull import LoadScreen

    desk.app.push_screen(LoadScreen(desk.engine, desk.jobs))


def import_files(desk: Workspace) -> None:
    """Ask for a tar of a file system, then make an image of it."""
    from tui.screens.pull import ImportScreen

    desk.app.push_screen(ImportScreen(desk.engine, desk.jobs))


def layers(desk: Workspace) -> None:
    """Browse the layers of the row's image."""
    image = _chosen(desk)
    if image is not None:
        show_layers(desk, image.id, image_name(image))


def show_layers(desk: Workspace, image_id: str, name: str, start: str = "", position: int = 0) -> None:
    """The layer browser, opened at a path of a layer (0: the top)."""
    from tui.screens.layers import LayersScreen

    def ask(show: Callable[[ImageLayers | WharfError], None]) -> None:
        desk.jobs.run("layers", lambda job: desk.engine.image_layers(image_id), then=show, failed=show, quiet=True)

    desk.app.push_screen(LayersScreen(name, ask, start, position))


def find(desk: Workspace) -> None:
    """Search the layers of all images; what is chosen of it opens in its layer."""
    from tui.screens.find import FindScreen

    def ask(pattern: str, show: Callable[[list[FoundFile] | WharfError], None]) -> None:
        desk.jobs.run("find", lambda job: desk.engine.search_layers(pattern), then=show, failed=show, quiet=True)

    def chosen(hit: FoundFile | None) -> None:
        if hit is not None:
            show_layers(desk, hit.image, hit.name, hit.path, hit.position)

    desk.app.push_screen(FindScreen(ask), chosen)


def _chosen(desk: Workspace) -> Image | None:
    image = desk.snapshot.image(desk.images.key)
    if image is None:
        text.notify(desk, "no image is chosen", severity="warning", timeout=3)
    return image


def targets(desk: Workspace) -> list[Image]:
    """The marked images, else the one under the cursor."""
    marks = desk.images.table.marks
    if marks:
        return [image for image in desk.snapshot.images if image.id in marks]
    image = _chosen(desk)
    return [image] if image else []


def remove(desk: Workspace) -> None:
    """Delete what is marked or under the cursor, with all its names. (One name of several: :func:`untag`.)"""
    chosen = targets(desk)
    if not chosen:
        return
    names = listed(map(image_name, chosen), 4)
    asked = {image.id: image for image in chosen}

    async def one(image_id: str) -> None:
        image = asked[image_id]
        now = (await desk.engine.image(image_id)).tags
        if lost := [tag for tag in image.tags if tag not in now]:
            raise Conflict(f"{familiar(lost[0])} is not removed", "it names another image by now", "Look at it first")
        if more := [tag for tag in now if tag not in image.tags]:
            raise Conflict(f"{image_name(image)} is not removed", f"it is {familiar(more[0])} by now", "Ask again")
        # By id and with several names it takes force, which would take the names from an image in use as well.
        used = any(container.image_id == image_id for container in desk.snapshot.containers)
        await desk.engine.remove_image(image_id, force=len(now) > 1 and not used)

    def go() -> None:
        desk.images.table.clear_marks()
        desk.jobs.run(f"remove {names}", lambda job: desk.jobs.several(list(asked), one))

    what = f"image {names} ({text.decimal(chosen[0].size).strip()})" if len(chosen) == 1 else f"{len(chosen)} images"
    desk.ask(f"Remove {what}?", _lost(desk, chosen), "Remove", go)


def way_back(chosen: Sequence[Image]) -> str:
    """How removed images come back: those of a registry only are pulled again."""
    own = [image_name(image) for image in chosen if not image.repo_digests]
    if not own:
        return "Pull again to have it back." if len(chosen) == 1 else "Pull them again to have them back."
    if len(own) == len(chosen):
        which = "It was" if len(own) == 1 else "They were"
    else:
        which = f"{listed(own, 6)} {'was' if len(own) == 1 else 'were'}"
    return f"{which} made or loaded here, from no registry: gone for good, unless saved or pushed."


def _lost(desk: Workspace, chosen: list[Image]) -> list[str]:
    """What a removal takes, in sentences: every name, and what stands in the way."""
    lost = []
    for image in chosen[:_SHOWN]:
        names = listed(map(familiar, image.tags), 12) or image_name(image)
        users = [c.name for c in desk.snapshot.containers if c.image_id == image.id]
        if users:
            lost.append(f"Stays, as {listed(users, 5)} {'use' if len(users) > 1 else 'uses'} it: {names}.")
        elif len(image.tags) > 1:
            lost.append(f"Goes, with all its {len(image.tags)} names: {names}.")
        elif len(chosen) > 1:
            lost.append(f"Goes{', with its name' if image.tags else ''}: {names}.")
    if len(chosen) > _SHOWN:
        lost.append(f"And {len(chosen) - _SHOWN} more images with all their names.")
    if any(len(image.tags) > 1 for image in chosen):
        lost.append(f"To take one name only: {desk.keymap.label('image.untag')}.")
    return [*lost, f"Layers that no other image has are deleted. {way_back(chosen)}"]


def tag(desk: Workspace) -> None:
    """Ask for one more name."""
    from tui.screens.names import TagScreen

    image = _chosen(desk)
    if image is not None:
        desk.app.push_screen(TagScreen(desk.engine, desk.jobs, image.id, image_name(image)))


def untag(desk: Workspace) -> None:
    """Take a name away; which, where there are several."""
    from tui.screens.names import ChooseScreen

    image = _chosen(desk)
    if image is None:
        return
    if not image.tags:
        digests = listed(map(familiar, image.repo_digests), 2)
        what = f"it has no tag to take away, it is known as {digests}" if digests else "it has no name"
        remove = desk.keymap.label("image.remove")
        text.notify(desk, f"{what}; {remove} removes the image", severity="warning", timeout=8)
        return

    def go(name: str | None) -> None:
        if name is not None:
            desk.jobs.run(f"untag {familiar(name)}", lambda job: desk.engine.untag(image.id, [name]))

    if len(image.tags) > 1:
        desk.app.push_screen(ChooseScreen("Untag", "Which name goes? The image stays.", image.tags), go)
        return
    lost = ["It stays, without a name; prune and the like may take it."]
    desk.ask(f"Untag {image_name(image)}?", lost, "Untag", lambda: go(image.tags[0]))


def push(desk: Workspace) -> None:
    """Ask which name, then push it."""
    from tui.screens.pull import PushScreen

    image = _chosen(desk)
    if image is not None:
        desk.app.push_screen(PushScreen(desk.engine, desk.jobs, image.tags))


def save(desk: Workspace) -> None:
    """Ask where to, then save what is marked or under the cursor."""
    from tui.screens.pull import SaveScreen

    chosen = targets(desk)
    if chosen:
        names = [image.tags or (image.id,) for image in chosen]
        first = image_name(chosen[0]) if len(chosen) == 1 and chosen[0].tags else "images"
        references = [name for several in names for name in several]
        desk.app.push_screen(SaveScreen(desk.engine, desk.jobs, references, first))


def history(desk: Workspace) -> None:
    """How the image was made; a step opens its layer."""
    from tui.screens.history import HistoryScreen

    image = _chosen(desk)
    if image is None:
        return
    name = image_name(image)

    def ask(show: Callable[[list[HistoryEntry] | WharfError], None]) -> None:
        desk.jobs.run("history", lambda job: desk.engine.history(image.id), then=show, failed=show, quiet=True)

    def chosen(position: int | None) -> None:
        if position:
            show_layers(desk, image.id, name, position=position)

    desk.app.push_screen(HistoryScreen(name, ask), chosen)


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
            await desk.jobs.progress(job, desk.engine.pull(spec.image, platform=spec.platform))
            job.title, job.total = f"run {spec.image}", 0
            made = await desk.engine.create(spec)
        return await desk.engine.start(made.id)

    desk.jobs.run(f"run {spec.image}", work, then=lambda made: desk.choose(made.id), can_cancel=True)


def demo(desk: Workspace) -> None:
    """Make the demo image and start its containers, after a question: it takes a port, and many a name."""

    async def work(job: Job) -> None:
        async for line in desk.engine.demo():
            job.title = f"demo: {line}"
            desk.jobs.changed()

    def go() -> None:
        done = f"The demo runs. Look around; {desk.keymap.label('container.remove')} removes a container."
        desk.jobs.run("demo", work, done=done, can_cancel=True)

    desk.ask(
        "Start the demo?",
        [
            "A small image is made from this host, and about ten containers of it start.",
            "The web server takes port 8080 of the host, or the next free one.",
        ],
        "Start",
        go,
    )
