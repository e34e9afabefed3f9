"""A compositor that has widgets render only lines that are dirty, and that can hold a frame.

Textual's own asks each widget that overlaps the rectangle around all that is dirty for all of its lines: a clock at
the top and a meter at the bottom make it render everything between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import RenderableType
from textual._compositor import ChopsUpdate, Compositor
from textual.geometry import Region
from textual.screen import Screen
from textual.strip import Strip


class DirtyRowsCompositor(Compositor):
    """Renders dirty rows only; while :attr:`held` says so it renders nothing and keeps what is dirty."""

    held: Callable[[], bool] | None = None
    _rows: tuple[tuple[int, int], ...] = ()  # stretches (first, end) to render; empty: all

    def render_update(
        self, full: bool = False, screen_stack: list[Screen[Any]] | None = None, simplify: bool = False
    ) -> RenderableType | None:
        if not full and not simplify and self.held is not None and self.held():
            return None
        return super().render_update(full=full, screen_stack=screen_stack, simplify=simplify)

    def render_partial_update(self) -> ChopsUpdate | None:
        screen = self.size.region
        # What was held may stem from a larger screen.
        regions = [region for region in map(screen.intersection, self._dirty_regions) if region]
        self._dirty_regions.clear()
        if not regions:
            return None
        self._dirty_regions.update(regions)
        self._rows = _stretches(regions)
        try:
            return super().render_partial_update()
        finally:
            self._rows = ()

    def _get_renders(self, crop: Region | None = None) -> Iterable[tuple[Region, Region, list[Strip]]]:
        rows = self._rows
        if not rows or crop is None:
            yield from super()._get_renders(crop)
            return
        width = self.size.width
        for widget, (region, clip) in self.visible_widgets.items():
            if not crop.overlaps(clip):
                continue
            for first, end in rows:
                part = clip.intersection(Region(0, first, width, end - first))
                shown = region.intersection(part)
                if shown:
                    lines = widget.render_lines(
                        Region(shown.x - region.x, shown.y - region.y, shown.width, shown.height)
                    )
                    yield region, part, lines


def _stretches(regions: Iterable[Region]) -> tuple[tuple[int, int], ...]:
    """The rows of these regions as ascending stretches (first, end) that do not touch."""
    found: list[tuple[int, int]] = []
    for first, end in sorted((region.y, region.bottom) for region in regions):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((first, end))
    return tuple(found)
