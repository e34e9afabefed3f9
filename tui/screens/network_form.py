"""Forms about networks: a new one, a container's place on one, ports of a container that is there already."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence

from textual import on
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Static

from core.engine import Engine
from core.errors import InvalidArgument, PortTaken, WharfError
from core.model import Container, Network, PortMapping
from tui import forms_networks as forms
from tui import networking, text
from tui.jobs import Job, Jobs
from tui.screens.task import Field, TaskScreen

DRIVERS = ("bridge", "macvlan", "ipvlan")
_TRIES, _PAUSE = 10, 0.1  # how often, and after how many seconds, a port is tried that was closed just now


class NewNetworkScreen(TaskScreen):
    """Makes a network; below the fields stands the docker command that does the same, live."""

    TITLE_TEXT = "New network"
    CAN_CANCEL = False

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        super().__init__(engine, jobs)
        self._command = Static("", classes="command")

    def fields(self) -> Sequence[Field]:
        return (
            Field("name", "Name"),
            Field("driver", "Driver", "bridge", "bridge, macvlan, ipvlan", needed=False, known=DRIVERS),
            Field("subnets", "Subnets", hint="10.7.0.0/24 fd00:7::/64; free ones where empty", needed=False),
            Field("parent", "Parent", hint="eth0: the interface of a macvlan or ipvlan network", needed=False),
            Field("options", "Options", hint="more: --ip-range 10.7.0.128/25 --label a=b -o KEY=VALUE", needed=False),
        )

    def checks(self) -> Sequence[tuple[str, str]]:
        return (("ipv6", "IPv6 as well"), ("internal", "internal: no way out, and none in"))

    def parts(self) -> list[Widget]:
        return [*super().parts(), self._command]

    def _words(self) -> list[str]:
        return forms.network_words(
            self.typed("name") or "NAME",
            self.typed("driver"),
            self.typed("subnets"),
            self.typed("parent"),
            self.typed("options"),
            ipv6=self.checked("ipv6"),
            internal=self.checked("internal"),
        )

    def on_mount(self) -> None:
        super().on_mount()
        self._show()

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def _show(self) -> None:
        try:
            words = shlex.join(self._words())
        except InvalidArgument as error:
            words = error.what
        self._command.update(text.safe(f"docker network create {words}"))

    def job_title(self) -> str:
        return f"make network {self.typed('name')}"

    async def work(self, job: Job) -> str:
        made = await self._engine.create_network(forms.read_network(self._words()))
        ranges = " and ".join(one.subnet for one in made.subnets)
        return f"network {made.name} is there: {ranges}"


class ConnectScreen(TaskScreen):
    """A container's place on a network that it is not on yet."""

    TITLE_TEXT = "Add to a network"
    CAN_CANCEL = False

    def __init__(self, engine: Engine, jobs: Jobs, container: Container, network: Network) -> None:
        super().__init__(engine, jobs)
        self._container = container
        self._network = network
        self.ASK = f"{container.name} on {network.name}: " + (
            "at once, and whenever it is started." if container.state.live else "from its next start on."
        )

    def fields(self) -> Sequence[Field]:
        ranges = {version: [one.subnet for one in self._network.of_version(version)] for version in (4, 6)}
        asked = []
        if self._network.name != "bridge":  # on the default one there are no names
            asked.append(Field("aliases", "Aliases", hint="further names for it on this network", needed=False))
        if ranges[4]:
            asked.append(Field("ip", "IPv4", hint=f"a free one of {ranges[4][0]} where empty", needed=False))
        if ranges[6]:
            asked.append(Field("ip6", "IPv6", hint=f"a free one of {ranges[6][0]} where empty", needed=False))
        more = "more: --rate 10mbit --gw-priority 1 --link db:database"
        return [*asked, Field("options", "Options", hint=more, needed=False)]

    def _given(self, key: str) -> str:
        return self.typed(key) if key in self._inputs else ""

    def job_title(self) -> str:
        return f"add {self._container.name} to {self._network.name}"

    async def work(self, job: Job) -> str:
        place = forms.read_place(
            self._network.name,
            self._container.name,
            self._given("aliases"),
            self._given("ip"),
            self._given("ip6"),
            self._given("options"),
        )
        box = await self._engine.connect(self._container.id, place)
        end = next((end for end in box.endpoints if end.network == self._network.name), None)
        at = " ".join(address for address in (end.ip, end.ip6) if address) if end else ""
        return f"{box.name} is on {self._network.name}" + (f": {at}" if at else " from its next start on")


class PortsScreen(TaskScreen):
    """The published ports as one line: what is added to it is opened, what is taken out of it is closed."""

    TITLE_TEXT = "Published ports"
    CAN_CANCEL = False

    def __init__(self, engine: Engine, jobs: Jobs, container: Container) -> None:
        super().__init__(engine, jobs)
        self._container = container
        self._before: dict[str, list[PortMapping]] = {}
        for port in container.ports if container.state.live else container.spec.ports:
            self._before.setdefault(networking.port_option(port), []).append(port)
        when = "at once, and whenever it is started" if container.state.live else "from its next start on"
        self.ASK = f"Ports of {container.name}, {when}. Add to the line, or take out of it:"

    def fields(self) -> Sequence[Field]:
        line = " ".join(self._before)
        return (Field("ports", value=line, hint="8080:80 127.0.0.1:5353:53/udp", needed=False),)

    def job_title(self) -> str:
        return f"ports of {self._container.name}"

    async def work(self, job: Job) -> str:
        words = forms.words_of(self.typed("ports"))
        opened = forms.read_ports([word for word in words if word not in self._before])
        closed = [port for word, ports in self._before.items() if word not in words for port in ports]
        # Opened first: where that is refused nothing has been closed. A port that moves is closed before it is free.
        taken = {(port.host_port, port.protocol) for port in closed}
        moves = any((port.host_port, port.protocol) in taken for port in opened)
        box = self._container
        if opened and not moves:
            box = await self._engine.publish_ports(box.id, opened)
        if closed:
            box = await self._engine.unpublish_ports(box.id, closed)
        if opened and moves:
            try:
                box = await self._publish(box, opened)
            except WharfError:
                await self._publish(box, closed)
                raise
        if not opened and not closed:
            return ""
        now = dict.fromkeys(networking.port_option(port) for port in box.ports or box.spec.ports)
        return f"{box.name} publishes {' '.join(now) or 'nothing'}"

    async def _publish(self, box: Container, ports: Sequence[PortMapping]) -> Container:
        """Ports of which some were closed a moment ago: the sockets that held them go a moment later."""
        for _ in range(_TRIES):
            try:
                return await self._engine.publish_ports(box.id, ports)
            except PortTaken:
                await asyncio.sleep(_PAUSE)
        return await self._engine.publish_ports(box.id, ports)
