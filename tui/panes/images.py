"""The images: tags, size, age, and how many containers use each."""

from __future__ import annotations

from collections import Counter

from core.model import Image
from tui import text
from tui.filters import matches
from tui.keymap import bindings_for
from tui.panes.base import ListPane
from tui.snapshot import familiar, image_name
from tui.widgets.linetable import Cell, Column, Row


class ImagesPane(ListPane):
    """All images of the store."""

    PANEL = "images"
    NUMBER = 2
    LABEL = "Images"
    BINDINGS = [*bindings_for("images")]
    COLUMNS = (
        Column("name", "NAME", minimum=14, weight=3, cut="reference"),
        Column("size", "SIZE", 6, align="right"),
        Column("created", "AGE", 5, align="right", priority=1),
        Column("used", "USED", 6, align="right", priority=2),
    )
    ORDERS = (("created", "newest", True), ("name", "name", False), ("size", "size", True), ("used", "users", True))
    EMPTY = "no images yet"

    def build(self) -> tuple[list[Row], int]:
        snapshot = self.snapshot
        users = Counter(container.image_id for container in snapshot.containers)
        shown = [image for image in snapshot.images if self._fits(image, " ".join(image.tags or image.repo_digests))]
        keys = {
            "created": lambda i: i.created,
            "name": lambda i: image_name(i).lower(),
            "size": lambda i: i.size,
            "used": lambda i: users[i.id],
        }
        shown.sort(key=keys[self.order_key], reverse=self.descending)
        return [self._row(image, users[image.id], snapshot.now) for image in shown], len(snapshot.images)

    def _fits(self, image: Image, name: str) -> bool:
        return matches(self.filter, {"name": name, "id": image.id}, image.config.labels)

    def _shown_name(self, image: Image) -> str:
        """Of several tags the one that the filter asks for."""
        fitting = (tag for tag in image.tags if self.filter and self._fits(image, tag))
        return familiar(tag) if (tag := next(fitting, "")) else image_name(image)

    def _row(self, image: Image, users: int, now: float) -> Row:
        more = f" +{len(image.tags) - 1}" if len(image.tags) > 1 else ""
        age = text.age(now - image.created) if image.created > 0 else "-"
        used = Cell(str(users or ""), "text-muted")
        return Row(image.id, (self._shown_name(image) + more, text.decimal(image.size), age, used))

    def status(self) -> str:
        total = text.decimal(sum(image.size for image in self.snapshot.images)).strip()
        words = super().status()
        return f"{words}  {total}" if self.snapshot.images else words
