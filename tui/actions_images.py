"""What can be done with images and registries: a part of :mod:`tui.actions`."""

from __future__ import annotations

from collections.abc import Iterable

from tui.action import ALL, IMAGES, MARKED, Action, Handler
from tui.handlers import images, registries, storage


def image_actions() -> Iterable[Action]:
    """In the order of help and palette."""
    yield from _in_and_out()
    yield from _looks()
    yield from _names()
    yield from _disk()
    yield from _registries()


def _image(name: str, label: str, key: str, handler: Handler, about: str, *, footer: int = 0, word: str = "") -> Action:
    return Action(f"image.{name}", label, key, IMAGES, handler, about, "Image", footer=footer, word=word)


def _in_and_out() -> Iterable[Action]:
    group = "Image"
    yield Action(
        "image.pull",
        "Pull an image",
        "P",
        ALL,
        images.pull,
        "Get an image from a registry, with progress per layer.",
        group,
        word="pull",
        footer=8,
    )
    yield Action(
        "image.load",
        "Load an archive",
        "L",
        ALL,
        images.load,
        "Load a docker save or OCI archive from this machine.",
        group,
        word="load",
    )
    yield Action(
        "image.run",
        "Run a container",
        "n",
        MARKED,
        images.run_form,
        "A form for a new container; shows the equivalent command.",
        group,
        word="run",
        footer=7,
    )
    about = "Every tag that the registry has of its repository."
    yield _image("pull_tags", "Pull every tag", "a", images.pull_tags, about)
    about = "An image of one layer from a tar of a file system, as W of a container writes it."
    yield _image("import", "Import a file system", "I", images.import_files, about, word="import")
    yield _image("push", "Push", "p", images.push, "Send a name of it to its registry.", footer=9)
    yield _image("save", "Save to an archive", "s", images.save, "For docker load and podman load.", word="save")


def _looks() -> Iterable[Action]:
    about = "What each layer adds, changes, removes and wastes; the files; a search in all layers (also Enter)."
    yield _image("layers", "Layers", "l", images.layers, about, footer=2)
    about = "A path or a glob, in every layer of every image, also what later layers hide."
    yield _image("find", "Find a file", "f", images.find, about, word="find", footer=11)
    yield _image("history", "History", "h", images.history, "The steps that made it; Enter: the layer.", footer=3)


def _names() -> Iterable[Action]:
    yield _image("tag", "Tag", "t", images.tag, "Give it one more name.", footer=5)
    about = "Take a name away; the image stays."
    yield Action("image.untag", "Untag", "u", IMAGES, images.untag, about, "Image", danger=True)
    about = "Delete it (or all marked) with all its names; untag takes one name."
    yield Action(
        "image.remove",
        "Remove the image",
        "d",
        IMAGES,
        images.remove,
        about,
        "Image",
        danger=True,
        word="remove",
        footer=6,
    )


def _disk() -> Iterable[Action]:
    about = "Which images may go: unused for long, old, all but the newest; shown before anything goes."
    yield Action("image.prune", "Prune images", "B", IMAGES, storage.prune, about, "Image", danger=True)
    about = "Verify every layer and document of the image store; repair what is damaged (asks)."
    yield Action("app.check", "Check the image store", "V", ALL, storage.check, about)
    about = "What images, containers, volumes and logs occupy; the parts add up."
    yield Action("app.usage", "Disk usage", "U", ALL, storage.usage, about)


def _registries() -> Iterable[Action]:
    group = "Registry"
    about = "Ask the registries what they have by the names here; nothing is pulled."
    yield Action("registry.check", "Newer versions?", "v", IMAGES, registries.check, about, group)
    about = "Find a repository by a word, then its tags; Enter pulls."
    yield Action("registry.search", "Search a registry", "R", IMAGES, registries.search, about, group)
    about = "Try credentials and keep them as wharf login does."
    yield Action("registry.login", "Log in", "A", IMAGES, registries.login, about, group)
    about = "Delete the credentials of a registry."
    yield Action("registry.logout", "Log out", "O", IMAGES, registries.logout, about, group)
