"""What the layers of an image hold: each layer with what it wastes, the tree as it leaves it, and a search in all."""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from core.engine import ImageLayers
from core.errors import InvalidArgument, WharfError
from core.model import FoundFile, LayerFacts, TreeEntry
from tui import text
from tui.screens.base import Dialog
from tui.snapshot import image_name
from tui.widgets.filterbar import FilterBar
from tui.widgets.linetable import Cell, Column, LineTable, Row

Answer = ImageLayers | WharfError
_MOST_OPENED = 3000  # rows that showing the changes opens by itself
_MOST_FOUND = 2000  # rows of a search
_CHANGES = {"added": ("+", "success"), "changed": ("~", "warning"), "removed": ("-", "error")}
_TYPES = {"folder": stat.S_IFDIR, "symlink": stat.S_IFLNK, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
_TYPES |= {"fifo": stat.S_IFIFO}


class LayersScreen(Dialog[None]):
    """Two tables: layers above, below them the tree with the layers up to the chosen one."""

    CSS_PATH: ClassVar = ["dialog.tcss", "layers.tcss"]
    BINDINGS: ClassVar = [
        ("escape,q", "back", "Back"),
        ("tab,shift+tab", "other", "Layers or files"),
        ("right,l", "unfold(True)", "Open"),
        ("left,h", "unfold(False)", "Close"),
        ("c", "changes", "Changes only"),
        ("slash", "search", "Search"),
        ("y", "copy_path", "Copy path"),
    ]
    TITLE_TEXT = "Layers"
    KEYS_TEXT = "Tab switch · ↵ open · c changes only · / find · y copy path · Esc back"

    LAYERS = (
        Column("position", "#", 3, align="right"),
        Column("size", "SIZE", 6, align="right"),
        Column("added", "ADDED", 5, align="right", priority=2),
        Column("changed", "CHANGED", 7, align="right", priority=2),
        Column("removed", "REMOVED", 7, align="right", priority=2),
        Column("wasted", "WASTED", 6, align="right", priority=1),
        Column("command", "MADE BY", minimum=20, weight=1, priority=3),
    )
    FILES = (
        Column("change", "", 1),
        Column("name", "NAME", minimum=20, weight=1),
        Column("size", "SIZE", 6, align="right", priority=1),
        Column("mode", "MODE", 10, priority=3),
        Column("owner", "OWNER", 11, align="right", priority=4),
        Column("layer", "LAYER", 5, align="right", priority=2),
    )
    HITS = (
        Column("path", "PATH", minimum=20, weight=1, cut="reference"),
        Column("size", "SIZE", 6, align="right", priority=1),
        Column("layer", "LAYER", 5, align="right"),
        Column("fate", "", 15),
    )

    def __init__(
        self, name: str, ask: Callable[[Callable[[Answer], None]], object], start: str = "", position: int = 0
    ) -> None:
        """``ask`` gets the function that takes the layers, or why there are none.

        :param start: a path to show, in the layer ``position`` (0: the top)
        """
        super().__init__()
        self._subject = name
        self._ask = ask
        self._start = start
        self._first = position
        self._image: ImageLayers | None = None
        self._waiting = True
        self._open: set[str] = set()
        self._only_changes = False
        self._hits: list[FoundFile] | None = None  # the tree gives way to them
        self._head = Static("…", id="layers-head")
        self._layers = LineTable(self.LAYERS, empty="", id="layers-layers")
        self._files = LineTable(self.FILES, empty="", id="layers-files")
        self._bar = FilterBar(id="layers-search")

    @property
    def at_work(self) -> bool:
        """True until there is something that keys can act on."""
        return self._waiting

    def heading(self) -> str:
        return f"Layers of {self._subject}"

    def parts(self) -> list[Widget]:
        return [self._head, self._layers, self._files, self._bar]

    def on_mount(self) -> None:
        self._layers.focus()
        self._ask(self._show)

    def _show(self, answer: Answer) -> None:
        self._waiting = False
        if not self.is_attached:
            return
        if isinstance(answer, WharfError):
            words = "\n".join(part for part in (answer.what, answer.why, answer.fix) if part)
            self._head.update(text.safe(words, "$text-error"))
            return
        self._image = answer
        self._head.update(_headline(answer))
        self._layers.styles.height = min(max(4, self.app.size.height // 3), len(answer.layers) + 1)
        self._layers.set_rows([_layer_row(layer) for layer in answer.layers])
        if self._start:
            parts = self._start.split("/")
            self._open = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if answer.layers:
            self._layers.move_to(str(self._first or answer.layers[-1].position))
        self._fill()
        if self._start:
            self._files.move_to(self._start)
            self._files.focus()

    # -- the tree -------------------------------------------------------------------------------------------------
    @property
    def position(self) -> int:
        """The chosen layer, from 1."""
        return int(self._layers.cursor_key or 0)

    @on(LineTable.Highlighted, "#layers-layers")
    def _layer_chosen(self) -> None:
        if self._hits is None:
            self._open_changes()
            self._fill()

    def _fill(self) -> None:
        if self._image is None or not self.position:
            return
        rows: list[Row] = []
        self._rows_of("", 0, rows)
        self._files.set_empty("nothing changes here" if self._only_changes else "nothing here")
        self._files.set_rows(rows)

    def _rows_of(self, folder: str, depth: int, rows: list[Row]) -> None:
        assert self._image is not None
        for entry in self._image.children(folder, self.position):
            if self._only_changes and not entry.change and not entry.inside:
                continue
            opened = entry.path in self._open and entry.kind == "folder"
            rows.append(_file_row(entry, depth, opened))
            if opened:
                self._rows_of(entry.path, depth + 1, rows)

    def _open_changes(self) -> None:
        """Where only changes are shown: open the folders that have any, as far as they can be looked through."""
        if not self._only_changes or self._image is None:
            return
        left = [""]
        count = 0
        while left and count < _MOST_OPENED:
            for entry in self._image.children(left.pop(), self.position):
                count += bool(entry.change or entry.inside)
                if entry.kind == "folder" and entry.inside:
                    self._open.add(entry.path)
                    left.append(entry.path)

    @on(LineTable.Selected, "#layers-layers")
    def action_other(self) -> None:
        """The other table."""
        (self._files if self._layers.has_focus else self._layers).focus()

    @on(LineTable.Selected, "#layers-files")
    def _file_chosen(self, message: LineTable.Selected) -> None:
        if self._hits is not None:
            self._go_to(self._hits[int(message.key)])
        elif message.key in self._open:
            self._open.discard(message.key)
            self._fill()
        else:
            self.action_unfold(True)

    def action_unfold(self, wide: bool) -> None:
        """Open the folder of the row, or close it (or the one that it is in)."""
        path = self._files.cursor_key
        if path is None or self._image is None or self._hits is not None:
            return
        if wide:
            entry = self._image.entry(path, self.position)
            if entry is not None and entry.kind == "folder":
                self._open.add(path)
        else:
            path = path if path in self._open else path.rpartition("/")[0]
            self._open.discard(path)
        self._fill()
        self._files.move_to(path)

    def action_changes(self) -> None:
        """Only what the layer changes, or all."""
        if self._hits is not None:
            self._end_search()
        self._only_changes = not self._only_changes
        self._open_changes()
        self._fill()

    def action_copy_path(self) -> None:
        path = self._files.cursor_key
        if path is not None and self._hits is not None:
            path = self._hits[int(path)].path
        if path:
            path = text.clean(f"/{path}")
            self.app.copy_to_clipboard(path)
            text.notify(self, f"copied {path}", timeout=2)

    # -- search ---------------------------------------------------------------------------------------------------
    def action_search(self) -> None:
        if self._image is not None:
            self._bar.open("search", hint="/etc/passwd, *.so, a part of a path; ↵ searches all layers")

    @on(FilterBar.Submitted)
    def _searched(self, message: FilterBar.Submitted) -> None:
        message.stop()
        self._files.focus()
        if self._image is None or not message.text.strip():
            return
        try:
            found = self._image.find(message.text.strip())
        except InvalidArgument as error:
            text.notify_error(self, error)
            return
        self._hits = found[:_MOST_FOUND]
        self._files.set_rows([])
        self._files.set_columns(self.HITS)
        self._files.set_empty(f"no layer has {message.text.strip()}")
        self._files.set_rows([_hit_row(number, hit) for number, hit in enumerate(self._hits)])
        self.query_one("#box").border_subtitle = text.safe(
            f"{len(found)} found"
            + (f", the first {_MOST_FOUND} shown" if len(found) > _MOST_FOUND else "")
            + " · ↵ show it in its layer · Esc the tree"
        )

    @on(FilterBar.Cancelled)
    def _search_left(self, message: FilterBar.Cancelled) -> None:
        message.stop()
        self._files.focus()

    def _end_search(self) -> None:
        self._hits = None
        self._files.set_rows([])
        self._files.set_columns(self.FILES)
        self.query_one("#box").border_subtitle = text.safe(self.KEYS_TEXT)
        self._fill()

    def _go_to(self, hit: FoundFile) -> None:
        """The tree of the layer that has the found path, with the cursor on it."""
        parts = hit.path.split("/")
        self._open |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        self._only_changes = False
        self._layers.move_to(str(hit.position))
        self._end_search()
        self._files.move_to(hit.path)
        self._files.focus()

    def action_back(self) -> None:
        """Out of the search; then out of here."""
        if self._hits is not None:
            self._end_search()
        else:
            self.dismiss(None)


def _headline(image: ImageLayers) -> Content:
    size = sum(layer.size for layer in image.layers)
    count = sum(layer.wasted_files for layer in image.layers)
    share = 100 * image.wasted / size if size else 0.0
    waste = (f"{text.decimal(image.wasted).strip()} ({share:.0f}%) wasted", "$text-warning" if share >= 5 else "")
    layers = "1 layer" if len(image.layers) == 1 else f"{len(image.layers)} layers"
    parts = [(image_name(image.image), "bold"), (f"  {layers}  {text.decimal(size).strip()}  ", "")]
    why = f"  {count} files that a later layer replaces or removes" if count else ""
    return text.join(*parts, waste if count else ("nothing wasted", ""), (why, "$text-muted"))


def _layer_row(layer: LayerFacts) -> Row:
    command = " ".join(layer.created_by.removeprefix("/bin/sh -c ").removeprefix("#(nop)").split())
    wasted = Cell(text.decimal(layer.wasted), "warning") if layer.wasted else ""
    figures = [text.count(n) if n else "" for n in (layer.added, layer.changed, layer.removed)]
    return Row(str(layer.position), (str(layer.position), text.decimal(layer.size), *figures, wasted, command or "-"))


def _file_row(entry: TreeEntry, depth: int, opened: bool) -> Row:
    sign, words = _CHANGES.get(entry.change, ("", ""))
    if not sign and entry.inside:
        sign, words = text.glyphs().dot, "text-muted"
    folder = entry.kind == "folder"
    fold = ("v " if opened else "> ") if folder and not text.glyphs().unicode else ""
    fold = fold or (("▾ " if opened else "▸ ") if folder else "  ")
    name = f"{'  ' * depth}{fold}{entry.name}{'/' if folder else ''}"
    if entry.target:
        name += f" {text.glyphs().arrow} {entry.target}" if entry.kind == "symlink" else f" = /{entry.target}"
    mode = stat.filemode(_TYPES.get(entry.kind, stat.S_IFREG) | entry.mode)
    quiet = "text-muted"
    return Row(
        entry.path,
        (
            Cell(sign, words),
            Cell(name, words if entry.change else ""),
            text.decimal(entry.size) if entry.change != "removed" or entry.size else "",
            Cell(mode, quiet),
            Cell(f"{entry.uid}:{entry.gid}", quiet),
            Cell(str(entry.position), quiet),
        ),
    )


def _hit_row(number: int, hit: FoundFile) -> Row:
    fate, words = fate_text(hit)
    size = text.decimal(hit.size) if hit.kind in ("file", "link") else ""
    return Row(str(number), (f"/{hit.path}", size, str(hit.position), Cell(fate, words)))


def fate_text(hit: FoundFile) -> tuple[str, str]:
    """What became of a found path, in words and style words."""
    if hit.fate == "kept":
        return "kept", "success"
    if hit.fate == "whiteout":
        return "deletes it", "error"
    return f"{hit.fate} by {hit.ended}", "warning"
