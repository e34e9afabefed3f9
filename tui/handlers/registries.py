"""Actions on registries: log in and out, search, what is newer there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.errors import WharfError
    from core.model import FoundRepository, TagCheck
    from tui.screens.workspace import Workspace


def login(desk: Workspace) -> None:
    """Ask for credentials, try and keep them."""
    from tui.screens.names import LoginScreen

    desk.app.push_screen(LoginScreen(desk.engine, desk.jobs))


def _login_to(desk: Workspace) -> Callable[[str, Callable[[], object]], object]:
    """The dialog over another one, with the registry filled in."""
    from tui.screens.names import LoginScreen

    def ask(registry: str, then: Callable[[], object]) -> None:
        desk.app.push_screen(LoginScreen(desk.engine, desk.jobs, registry, then))

    return ask


def logout(desk: Workspace) -> None:
    """Forget the credentials of a registry."""
    from tui.screens.names import LogoutScreen

    desk.app.push_screen(LogoutScreen(desk.engine, desk.jobs))


def search(desk: Workspace) -> None:
    """Find a repository, then one of its tags, then pull that."""
    from tui.screens.registry import SearchScreen

    def ask(word: str, show: Callable[[list[FoundRepository] | WharfError], None]) -> None:
        desk.jobs.run("search", lambda job: desk.engine.search_registry(word), then=show, failed=show, quiet=True)

    def chosen(name: str | None) -> None:
        if name is not None:
            _tags(desk, name)

    desk.app.push_screen(SearchScreen(ask, _login_to(desk)), chosen)


def _tags(desk: Workspace, name: str) -> None:
    from tui.screens.registry import TagsScreen

    def ask(show: Callable[[list[str] | WharfError], None]) -> None:
        desk.jobs.run("tags", lambda job: desk.engine.tags(name), then=show, failed=show, quiet=True)

    desk.app.push_screen(TagsScreen(name, ask, _login_to(desk)), lambda reference: _pull(desk, reference))


def _pull(desk: Workspace, reference: str | None) -> None:
    from tui.screens.pull import PullScreen

    if reference is not None:
        desk.app.push_screen(PullScreen(desk.engine, desk.jobs, reference))


def check(desk: Workspace) -> None:
    """Ask the registries what they have by the names here; nothing is pulled."""
    from tui.screens.history import ChecksScreen

    def ask(show: Callable[[list[TagCheck] | WharfError], None]) -> None:
        desk.jobs.run("newer?", lambda job: desk.engine.check_images(), then=show, failed=show, quiet=True)

    desk.app.push_screen(ChecksScreen(ask, _login_to(desk)), lambda reference: _pull(desk, reference))
