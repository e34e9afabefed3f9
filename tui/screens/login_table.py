"""Tables of what a registry answers: where it wants a login, that can be had here, and it is asked once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

from textual.binding import BindingType

from core.errors import Unauthorized, WharfError
from tui.screens.table import TableScreen

A = TypeVar("A")
R = TypeVar("R")
Login = Callable[[str, Callable[[], object]], object]

ADVICE = "Or here: ctrl+l logs in, then it is asked once more."


class LoginTable(TableScreen[A, R]):
    """``login`` gets the registry, and what to do once the credentials are kept."""

    BINDINGS: ClassVar[list[BindingType]] = [("ctrl+l", "login", "Log in")]

    def __init__(self, ask: Callable[[Callable[[A | WharfError], None]], object], login: Login) -> None:
        super().__init__(ask)
        self._login = login
        self._refused = False  # the last answer was that it wants a login

    def registry(self) -> str:
        """The one to log in to; "" for Docker Hub."""
        raise NotImplementedError

    def wants_login(self, answer: A) -> bool:
        """True where a part of the answer is that a registry wants a login."""
        return False

    def advice(self, error: WharfError) -> str:
        return ADVICE if isinstance(error, Unauthorized) else ""

    def answered(self, answer: A | WharfError) -> None:
        self._refused = isinstance(answer, Unauthorized) if isinstance(answer, WharfError) else self.wants_login(answer)

    def action_login(self) -> None:
        """The dialog of key A, with the registry filled in."""
        self._login(self.registry(), self._back)

    def _back(self) -> None:
        if self.is_attached and self._refused:
            self.again()

    def again(self) -> None:
        """Put the question once more."""
        self._asking = True
        self._ask(self._show)
