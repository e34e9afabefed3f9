"""What an action is, and the panels in which its key can work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.model import Container

if TYPE_CHECKING:
    from tui.screens.workspace import Workspace

PANELS = ("containers", "images", "networks", "log", "resources")
LISTS = frozenset({"containers", "images", "networks"})
ONE = frozenset({"containers", "log", "resources"})  # where one container is in view
ALL = frozenset(PANELS)
LOG = frozenset({"log"})
CONTAINERS = frozenset({"containers"})
IMAGES = frozenset({"images"})
NETWORKS = frozenset({"networks"})
PLACES = frozenset({"containers", "resources"})  # where keys tell of, and change, the networks of one container
MARKED = CONTAINERS | IMAGES  # lists whose rows can be marked

Handler = Callable[["Workspace"], None]
When = Callable[[Container], bool]


@dataclass(frozen=True)
class Action:
    """One thing that a user can do. ``keys`` are Textual's key names, comma separated ("": palette only)."""

    id: str  # also the id of its key binding
    label: str
    keys: str
    contexts: frozenset[str]
    handler: Handler
    about: str = ""  # one sentence for help and palette
    group: str = "Workstation"
    danger: bool = False  # asks first and says what is lost
    footer: int = 0  # place in the footer, 1 first; 0 not shown there
    word: str = ""  # the footer's word; "" = the label in lower case
    when: When | None = None  # footer only: whether it makes sense for the chosen container
    needs: str = ""  # a field of HostInfo: without it, help and palette do not show the action

    @property
    def footer_word(self) -> str:
        return self.word or self.label.lower()
