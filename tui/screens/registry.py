"""Look for images at registries: a search, then the tags of what was found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from textual import on
from textual.widget import Widget
from textual.widgets import Input

from core.errors import WharfError
from core.model import FoundRepository
from tui import text
from tui.screens.login_table import Login, LoginTable
from tui.snapshot import registry_of
from tui.widgets.linetable import Cell, Column, Row

Show = Callable[[list[FoundRepository] | WharfError], None]


class SearchScreen(LoginTable[list[FoundRepository], str]):
    """A word to type, then what the registry has; Enter on a line gives back its name."""

    TITLE_TEXT = "Search a registry"
    KEYS_TEXT = "↵ search, then its tags · Tab word/results · ctrl+l log in · Esc back"
    BINDINGS = [("escape", "leave", "Back"), ("tab,shift+tab", "other", "Word or results")]
    COLUMNS = (
        Column("name", "NAME", minimum=24, weight=1, cut="reference"),
        Column("stars", "STARS", 5, align="right", priority=2),
        Column("official", "OFFICIAL", 8, priority=3),
        Column("description", "DESCRIPTION", minimum=20, weight=2, priority=1),
    )
    EMPTY = "the registry has nothing by that word"

    def __init__(self, search: Callable[[str, Show], object], login: Login) -> None:
        super().__init__(lambda show: None, login)
        self._asking = False
        self._search = search
        self._input = Input(placeholder="a word for Docker Hub, or registry.lan:5000/word", id="word")
        self._table.set_empty("")

    def parts(self) -> list[Widget]:
        return [self._input, *super().parts()]

    def begin(self) -> None:
        self._input.cursor_blink = False
        self._input.focus()

    def registry(self) -> str:
        word = self._input.value.strip()
        return registry_of(word if "/" in word else f"{word}/")

    @on(Input.Submitted)
    def _go(self, message: Input.Submitted) -> None:
        message.stop()
        self.again()

    def again(self) -> None:
        word = self._input.value.strip()
        if word and not self._asking:
            self._asking = True
            self.say("searching")
            self._search(word, self._show)

    def rows(self, answer: list[FoundRepository]) -> Sequence[Row]:
        self.say(f"{len(answer)} found")
        if answer:
            self._table.focus()
        return [
            Row(
                each.name,
                (
                    each.name,
                    text.count(each.stars) if each.stars else "",
                    Cell("official" if each.official else "", "success"),
                    Cell(" ".join(each.description.split()), "text-muted"),
                ),
            )
            for each in answer
        ]

    def opened(self, key: str) -> None:
        self.dismiss(key)

    def action_other(self) -> None:
        (self._table if self._input.has_focus else self._input).focus()


def newest_first(tags: Iterable[str]) -> list[str]:
    """``latest``, then the others with numbers compared as numbers, the highest first: the registry gives no times."""

    def parts(tag: str) -> list[tuple[int, int, str]]:
        return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"([0-9]{1,18})", tag)]

    return sorted(set(tags), key=lambda tag: (tag == "latest", parts(tag)), reverse=True)


class TagsScreen(LoginTable[list[str], str]):
    """The tags of a repository; Enter on one gives back the whole name, to be pulled."""

    KEYS_TEXT = "↵ pull it · ctrl+l log in · Esc back"
    COLUMNS = (Column("tag", "TAG", minimum=24, weight=1),)
    EMPTY = "it has no tags"

    def __init__(
        self, repository: str, ask: Callable[[Callable[[list[str] | WharfError], None]], object], login: Login
    ) -> None:
        super().__init__(ask, login)
        self._repository = repository

    def registry(self) -> str:
        return registry_of(self._repository)

    def heading(self) -> str:
        return f"Tags of {self._repository}"

    def rows(self, answer: list[str]) -> Sequence[Row]:
        self.say(f"{len(answer)} tags")
        return [Row(tag, (tag,)) for tag in newest_first(answer)]

    def opened(self, key: str) -> None:
        self.dismiss(f"{self._repository}:{key}")
