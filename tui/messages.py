"""Messages of the workstation; where only the last one matters, a newer one replaces those still queued."""

from __future__ import annotations

from textual.message import Message

from tui.snapshot import Snapshot


class SnapshotReady(Message):
    """The ticker has a new snapshot; panes repaint what differs."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, SnapshotReady)


class JobsChanged(Message):
    """A job began, moved or ended; the status line repaints."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, JobsChanged)


class PaneStatus(Message):
    """Something that a pane says in its title (filter, sort, marks) changed; ``pane`` is its panel name."""

    def __init__(self, pane: str) -> None:
        super().__init__()
        self.pane = pane


class ContainerChosen(Message):
    """The cursor rests on another container (``None``: there is none)."""

    def __init__(self, container_id: str | None) -> None:
        super().__init__()
        self.container_id = container_id

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, ContainerChosen)


class OpenRequested(Message):
    """Enter on a row: show the detail of it."""

    def __init__(self, pane: str, key: str) -> None:
        super().__init__()
        self.pane = pane
        self.key = key
