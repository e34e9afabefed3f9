"""An image's names, and who we are at registries: tag, login, logout; a list to choose from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from core.engine import Engine
from tui import text
from tui.jobs import Job, Jobs
from tui.screens.base import Dialog
from tui.screens.task import Field, TaskScreen
from tui.snapshot import familiar


class TagScreen(TaskScreen):
    """One more name for an image."""

    TITLE_TEXT = "Tag"
    CAN_CANCEL = False

    def __init__(self, engine: Engine, jobs: Jobs, ref: str, name: str) -> None:
        super().__init__(engine, jobs)
        self._ref = ref
        self._given = name
        self.ASK = f"One more name for {name}; an image that has it now loses it:"

    def fields(self) -> Sequence[Field]:
        start = "" if self._given.startswith("<none>") else self._given.partition("@")[0]
        return (Field("name", value=start, hint="registry.lan:5000/team/app:2"),)

    def job_title(self) -> str:
        return f"tag {self._given} {self.typed('name')}"

    def complaint(self) -> str:
        return "that is its name already" if self.typed("name") == self._given else ""

    async def work(self, job: Job) -> str:
        await self._engine.tag(self._ref, self.typed("name"))
        return f"tagged {self.typed('name')}"


class LoginScreen(TaskScreen):
    """Credentials for a registry: tried, then kept."""

    TITLE_TEXT = "Log in to a registry"
    ASK = "They are tried at the registry and kept as wharf login keeps them."

    def __init__(
        self, engine: Engine, jobs: Jobs, registry: str = "", then: Callable[[], object] = lambda: None
    ) -> None:
        """``then``: what to do once they are kept."""
        super().__init__(engine, jobs)
        self._registry, self._then = registry, then
        self.FIRST = "user" if registry else ""

    def fields(self) -> Sequence[Field]:
        return (
            Field("registry", "Registry", self._registry, "Docker Hub where empty; host or host:port", needed=False),
            Field("user", "User"),
            Field("password", "Password", hint="or an access token", secret=True),
            Field("passphrase", "Passphrase", hint="of an encrypted store; else empty", secret=True, needed=False),
        )

    def checks(self) -> Sequence[tuple[str, str]]:
        return (
            ("insecure", "plain HTTP (a registry without TLS)"),
            ("encrypted", "keep them encrypted by the passphrase above"),
        )

    def complaint(self) -> str:
        lacks = self.checked("encrypted") and not self._inputs["passphrase"].value
        return "an encrypted store needs a passphrase" if lacks else ""

    def job_title(self) -> str:
        return f"log in to {self.typed('registry') or 'Docker Hub'}"

    async def work(self, job: Job) -> str:
        if phrase := self._inputs["passphrase"].value:
            await self._engine.unlock_credentials(phrase)
        secret = self._inputs["password"].value  # spaces at its ends are part of it
        login = await self._engine.login(
            self.typed("registry"),
            self.typed("user"),
            secret,
            insecure=self.checked("insecure"),
            store="encrypted" if self.checked("encrypted") else "",
        )
        if not login.asked:
            return f"{login.registry} asks for no credentials: they were not tried. Kept in {login.where}"
        return f"logged in to {login.registry} as {login.user}; kept in {login.where}"

    def finish(self, words: str) -> None:
        super().finish(words)
        self._then()


class LogoutScreen(TaskScreen):
    """Forget the credentials of a registry."""

    TITLE_TEXT = "Log out of a registry"
    ASK = "Its credentials are deleted from where wharf login keeps them."
    CAN_CANCEL = False

    def fields(self) -> Sequence[Field]:
        return (Field("registry", hint="Docker Hub where empty; host or host:port", needed=False),)

    def job_title(self) -> str:
        return f"log out of {self.typed('registry') or 'Docker Hub'}"

    async def work(self, job: Job) -> str:
        done = await self._engine.logout(self.typed("registry"))
        left = f"; {done.left} still has some" if done.left else ""
        return (f"logged out of {done.registry}" if done.removed else f"not logged in to {done.registry}") + left


class ChooseScreen(Dialog[str]):
    """One of a few names."""

    BINDINGS: ClassVar = [("escape,q", "leave", "Back"), ("j", "move(1)", "Down"), ("k", "move(-1)", "Up")]
    KEYS_TEXT = "↵ this one · Esc back"

    def __init__(self, title: str, ask: str, names: Sequence[str]) -> None:
        super().__init__()
        self._words = title
        self._ask = ask
        self._names = names

    def heading(self) -> str:
        return self._words

    def parts(self) -> list[Widget]:
        options = [Option(text.safe(familiar(name)), id=f"n{at}") for at, name in enumerate(self._names)]
        return [Static(text.safe(self._ask), classes="quiet"), OptionList(*options, id="list")]

    def on_mount(self) -> None:
        options = self.query_one(OptionList)
        options.highlighted = 0
        options.focus()

    @on(OptionList.OptionSelected)
    def _chosen(self, message: OptionList.OptionSelected) -> None:
        self.dismiss(self._names[message.option_index])

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        if step > 0:
            options.action_cursor_down()
        else:
            options.action_cursor_up()
