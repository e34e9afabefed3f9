"""Words about a pull, load or another transfer under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.model.image import Image


@dataclass(frozen=True)
class LayerProgress:
    """How far one layer, or another part of a transfer, has come.

    ``phase``: waiting, downloading, unpacking, exists, done; on the way out preparing, writing; reading.
    """

    digest: str  # of the layer; a word ("files", "archive") for what is none
    phase: str
    done: int = 0  # bytes
    total: int = 0  # bytes; 0 unknown


@dataclass(frozen=True)
class PullProgress:
    """A transfer at one moment; the last one of a pull or load has ``image`` set."""

    reference: str
    layers: tuple[LayerProgress, ...] = ()
    message: str = ""
    image: Image | None = None
    notices: tuple[str, ...] = ()  # what a user may want to know, since the beginning: a mirror that fails, a limit
    digest: str = ""  # of a pull's last one: what the name stands for at the registry
    changed: bool = True  # of a pull's last one: False where the store had that image by that name already


Watcher = Callable[[PullProgress], None]  # is told how far something has come, a few times a second


@dataclass(frozen=True)
class PushProgress:
    """A push at one moment. ``phase`` of a layer: waiting, preparing, pushing, exists, mounted, done; the last one has
    ``digest`` set."""

    reference: str
    layers: tuple[PushedLayer, ...] = ()
    notices: tuple[str, ...] = ()  # what a user may want to know, since the beginning
    digest: str = ""
    size: int = 0  # bytes of the manifest


@dataclass(frozen=True)
class PushedLayer:
    """How far one layer of a push has come."""

    diffid: str
    phase: str
    done: int = 0  # bytes
    total: int = 0  # bytes; 0 unknown
    source: str = ""  # the repository that it was mounted from
