"""The form for a new container; below it the docker command that does the same, live."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.containers import Grid, Horizontal, VerticalScroll
from textual.suggester import SuggestFromList
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Select, Static

from core.model import ContainerSpec
from tui import text
from tui.equivalent import docker_run
from tui.forms import RESTARTS, Result, build_spec
from tui.screens.base import Check, Dialog

# field, its words, an example
FIELDS = (
    ("image", "Image", "nginx:1.27"),
    ("name", "Name", "made up where empty"),
    ("command", "Command", "the image's own where empty"),
    ("ports", "Ports", "8080:80 127.0.0.1:5353:53/udp"),
    ("env", "Environment", 'KEY=value OTHER="two words"'),
    ("mounts", "Mounts", "/srv/site:/site:ro data:/var/lib/data"),
    ("memory", "Memory", "64m, 1.5g; no limit where empty"),
    ("cpus", "CPUs", "0.5; all where empty"),
    ("pids", "Processes", "200; no limit where empty"),
    ("user", "User", "the image's own where empty"),
    ("workdir", "Folder", "the image's own where empty"),
    ("options", "Options", "more, as of wharf run: --cap-add NET_ADMIN --device /dev/fuse"),
)
FLAGS = (("tty", "terminal"), ("remove", "remove at end"), ("init", "init"), ("read_only", "read-only"))


class RunScreen(Dialog[ContainerSpec]):
    """Gives back the spec, or ``None``. Nothing runs while a field is wrong; the first wrong one gets the focus."""

    CSS_PATH = ["dialog.tcss", "run_form.tcss"]
    BINDINGS: ClassVar = [("escape", "leave", "Back"), ("ctrl+r,enter", "submit", "Run")]
    TITLE_TEXT = "Run a container"
    KEYS_TEXT = "Tab next · ↵ or ctrl+r run · Esc back"

    def __init__(self, image: str, known: list[str], networks: list[str]) -> None:
        super().__init__()
        self._inputs = {
            key: Input(placeholder=example, id=f"field-{key}", select_on_focus=False) for key, _, example in FIELDS
        }
        self._inputs["image"].value = image
        self._inputs["image"].suggester = SuggestFromList(known, case_sensitive=True)
        # Select reads a str prompt as markup: names go in as safe content.
        self._network = Select(
            [(text.safe(name), name) for name in networks],
            value="bridge" if "bridge" in networks else networks[0],
            allow_blank=False,
            compact=True,
            id="field-network",
        )
        self._restart = Select(
            [(name, name) for name in RESTARTS], value="no", allow_blank=False, compact=True, id="field-restart"
        )
        self._flags = {key: Check(words, compact=True, id=f"flag-{key}") for key, words in FLAGS}
        self._command = Static("", classes="command")
        self._error = Static("", classes="error")

    def parts(self) -> list[Widget]:
        cells: list[Widget] = []
        for key, words, _ in FIELDS:
            cells += [Static(text.safe(words), classes="label"), self._inputs[key]]
        cells += [Static("Network", classes="label"), self._network]
        cells += [Static("Restart", classes="label"), self._restart]
        return [
            VerticalScroll(Grid(*cells, id="fields"), Horizontal(*self._flags.values(), id="flags"), id="form"),
            self._error,
            self._command,
        ]

    def on_mount(self) -> None:
        for field in self._inputs.values():
            field.cursor_blink = False
        self._inputs["name" if self._inputs["image"].value else "image"].focus()
        self._show()

    def _read(self) -> Result:
        values = {key: field.value for key, field in self._inputs.items()}
        values["network"], values["restart"] = str(self._network.value), str(self._restart.value)
        return build_spec(values, {key: box.value for key, box in self._flags.items()})

    @on(Input.Changed)
    @on(Select.Changed)
    @on(Checkbox.Changed)
    def _show(self) -> Result:
        result = self._read()
        self._command.update(text.safe(docker_run(result.spec)))
        for key, field in self._inputs.items():
            field.set_class(key in result.errors and bool(field.value), "-wrong")
        shown = next((why for key, why in result.errors.items() if key != "image" or self._inputs[key].value), "")
        self._error.update(text.safe(shown))
        return result

    @on(Input.Submitted)
    def action_submit(self) -> None:
        result = self._show()
        if not result.errors:
            self.dismiss(result.spec)
            return
        key, why = next(iter(result.errors.items()))
        self._error.update(text.safe(why))
        self.query_one(f"#field-{key}").focus()
