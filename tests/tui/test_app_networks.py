"""The workstation's networks over a real engine: what its keys do, what is then true, and what is refused."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from textual.pilot import Pilot
from textual.widgets import Input, Select

from core.engine import Engine
from core.model import (
    Container,
    ContainerSpec,
    EndpointSpec,
    NetworkSpec,
    PortMapping,
    Subnet,
)
from tests.engine.netlab import private_host
from tests.ports import free_port
from tests.tui.test_app_live import own_folders, shown, until
from tests.tui.typing import burst
from tui.app import WharfApp
from tui.networking import port_option
from tui.screens.confirm import ConfirmScreen
from tui.screens.inspect import InspectScreen
from tui.screens.names import ChooseScreen
from tui.screens.network_form import ConnectScreen, NewNetworkScreen, PortsScreen
from tui.screens.run_form import RunScreen

__all__ = ["own_folders", "private_host"]
pytestmark = pytest.mark.real
SIZES = [(80, 24), (200, 50)]
# Of this test process alone: instances keep off each other's subnets. (As wide as can be shown in 80 columns.)
OWN, OWN6 = (f"{first}{60 + os.getpid() % 39}" for first in ("10.", "fd00:"))
FRONT = NetworkSpec("front", subnets=(Subnet(f"{OWN}.1.0/24"),))
BACK = NetworkSpec("back", internal=True, ipv6=True, subnets=(Subnet(f"{OWN}.2.0/24"), Subnet(f"{OWN6}:2::/64")))


@pytest_asyncio.fixture
async def web(engine: Engine, busybox_image: str) -> AsyncIterator[Container]:
    """A container on ``front`` that serves on 8080; its port is published on a free one of this host only."""
    await engine.create_network(FRONT)
    made = await engine.create(
        ContainerSpec(
            image=busybox_image,
            name="web",
            command=("sh", "-c", "echo ok > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"),
            network="front",
            networks=(EndpointSpec("front", aliases=("shop",)),),
            ports=(PortMapping(8080, 0, "tcp", "127.0.0.1"),),
            stop_signal="SIGKILL",
        )
    )
    yield await engine.start(made.id)


async def ask_of(pilot: Pilot[None], screen: type, *words: str) -> None:
    """Wait for a dialog that says this."""
    await until(pilot, lambda: isinstance(pilot.app.screen, screen) and all(word in shown(pilot.app) for word in words))


def on(app: WharfApp, name: str) -> None:
    """The cursor on that network."""
    found = next(network for network in app.desk.snapshot.networks if network.name == name)
    assert app.desk.networks.table.move_to(found.id)


def names(app: WharfApp) -> list[str]:
    return [network.name for network in app.desk.snapshot.networks]


@pytest.mark.parametrize("size", SIZES)
async def test_list_says_what_each_network_is(engine: Engine, web: Container, size: tuple[int, int]) -> None:
    await engine.create_network(BACK)
    app = WharfApp(engine)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: len(names(app)) == 5)
        burst(app, "3z")
        await until(pilot, lambda: f"{OWN}.2.0/24" in shown(app) and "internal" in shown(app))
        rows = [row.cells[0] for row in app.desk.networks.table.rows]
        assert rows == ["back", "bridge", "front", "host", "none"]
        back = next(line for line in shown(app).splitlines() if "back" in line)
        assert f"{OWN6}:2::/64" in back or f"{OWN}.2.0/24 +1" in back
        if size[0] == 200:
            assert f"{OWN}.2.1 {OWN6}:2::1" in back
            assert f"  {next(n.mtu for n in app.desk.snapshot.networks if n.name == 'back')}" in back
        burst(app, "SS")  # by driver: host and none stay at the end
        last = ["host", "none"]
        await until(
            pilot,
            lambda: "sort driver" in shown(app) and [r.cells[0] for r in app.desk.networks.table.rows][-2:] == last,
        )
        burst(app, "/flags=internal\r")
        await until(pilot, lambda: [row.cells[0] for row in app.desk.networks.table.rows] == ["back"])
        burst(app, "i")
        await ask_of(pilot, InspectScreen, '"Name": "back"')


async def test_new_network_is_made_and_what_is_wrong_is_said_in_the_form(engine: Engine, web: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "front" in names(app))
        burst(app, "3nfront\r")
        await ask_of(pilot, NewNetworkScreen, "network front exists already")
        burst(app, "\x15lan\t\x15macvlan\r")
        await ask_of(
            pilot, NewNetworkScreen, "needs an interface of this host", "docker network create --driver macvlan"
        )
        burst(app, f"\x15bridge\t{OWN}.1.128/25\r")
        await ask_of(pilot, NewNetworkScreen, f"it overlaps {OWN}.1.0/24 of network front")
        burst(app, f"\x15{OWN}.7.0/24 {OWN6}:7::/64\t\t--ip-range {OWN}.7.128/25 --label tier='a b' --no-such\r")
        await until(pilot, lambda: "--no-such\n" in shown(app) or "arguments: --no-such" in shown(app), 30)
        burst(app, "\x7f" * len(" --no-such") + "\r")
        await until(pilot, lambda: app.screen is app.desk and "lan" in names(app), 30)
    (made,) = [network for network in await engine.networks() if network.name == "lan"]
    assert [one.subnet for one in made.subnets] == [f"{OWN}.7.0/24", f"{OWN6}:7::/64"]
    assert made.subnets[0].ip_range == f"{OWN}.7.128/25"
    assert made.labels == {"tier": "a b"}


async def test_remove_names_the_users_and_prune_what_goes(engine: Engine, web: Container) -> None:
    for name in ("one", "two"):
        await engine.create_network(NetworkSpec(name))
    await engine.create(ContainerSpec(image=web.spec.image, name="later", command=("true",), network="one"))
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(pilot, lambda: {"front", "one", "two"} <= set(names(app)))
        burst(app, "3")
        await until(pilot, lambda: app.desk.active == "networks")
        on(app, "bridge")
        burst(app, "d")
        await until(pilot, lambda: "bridge is always there" in shown(app))
        on(app, "front")
        burst(app, "d")
        await ask_of(pilot, ConfirmScreen, "Remove network front?", "On it now: web")
        burst(app, "y")
        await until(pilot, lambda: "attached: web" in shown(app))
        burst(app, "\x1b")
        on(app, "one")
        burst(app, "d")
        await ask_of(pilot, ConfirmScreen, "to be on it: later")
        burst(app, "n")
        await until(pilot, lambda: app.screen is app.desk)
        burst(app, "B")
        await ask_of(pilot, ConfirmScreen, "Remove 1 network?", "two")
        burst(app, "y")
        await until(pilot, lambda: "two" not in names(app))
        assert {"front", "one"} <= set(names(app))
        burst(app, "B")
        await until(pilot, lambda: "nothing to prune" in shown(app))


@pytest.mark.parametrize("size", SIZES)
async def test_a_container_is_added_and_taken_while_it_runs(
    engine: Engine, web: Container, size: tuple[int, int]
) -> None:
    await engine.create_network(BACK)
    app = WharfApp(engine)

    def place(network: str) -> str:
        box = app.desk.snapshot.container(web.id)
        return next((end.ip for end in box.endpoints if end.network == network), "") if box else ""

    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: "back" in names(app))
        burst(app, "3")
        await until(pilot, lambda: app.desk.active == "networks")
        on(app, "back")
        burst(app, "A")
        await ask_of(pilot, ChooseScreen, "Add a container to back", "web")
        burst(app, "\r")
        await ask_of(pilot, ConnectScreen, "web on back: at once", f"a free one of {OWN}.2.0/24")
        burst(app, f"cache\t{OWN}.9.9\r")
        await ask_of(pilot, ConnectScreen, f"address {OWN}.9.9 cannot be used", f"network back has {OWN}.2.0/24")
        burst(app, f"\x15{OWN}.2.77\r")
        await until(pilot, lambda: place("back") == f"{OWN}.2.77" and app.screen is app.desk)
        box = await engine.container(web.id)
        assert next(end for end in box.endpoints if end.network == "back").aliases == ("cache",)
        burst(app, "A")
        await until(pilot, lambda: "no container could be added to back" in shown(app))
        burst(app, "O")
        await ask_of(pilot, ConfirmScreen, "Take web from back?", f"It loses {OWN}.2.77")
        burst(app, "y")
        await until(pilot, lambda: place("back") == "")
        burst(app, "1A")
        await ask_of(pilot, ChooseScreen, "Add web to a network", f"back  {OWN}.2.0/24", "bridge")
        burst(app, "\r\r")
        await until(pilot, lambda: place("back") != "" and app.screen is app.desk)
        burst(app, "O")
        await ask_of(pilot, ChooseScreen, "Take web from a network", "back", "front")
        burst(app, "\x1b")
        await until(pilot, lambda: app.screen is app.desk)


@pytest.mark.parametrize("size", SIZES)
async def test_ports_are_opened_and_closed_while_it_runs(engine: Engine, web: Container, size: tuple[int, int]) -> None:
    app = WharfApp(engine)

    def ports() -> list[str]:
        box = app.desk.snapshot.container(web.id)
        return [port_option(port) for port in box.ports] if box else []

    (first,) = map(port_option, web.ports)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy, free = taken.getsockname()[1], free_port()
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: app.desk.chosen == web.id and f"{web.ports[0].host_port}→8080 ○" in shown(app))
            burst(app, "o")
            await ask_of(pilot, PortsScreen, "Ports of web, at once", first)
            burst(app, f" 127.0.0.1:{busy}:81\r")
            await ask_of(pilot, PortsScreen, str(busy), "python")  # who has it
            burst(app, "\x7f" * len(f"{busy}:81") + f"{free}:8080\r")
            await until(pilot, lambda: ports() == [first, f"127.0.0.1:{free}:8080"], 20)
            await until(pilot, lambda: app.screen is app.desk)
            burst(app, f"o\x15{free}:8080\r")  # the same port on every address: closed, then opened
            await until(pilot, lambda: set(ports()) == {f"{free}:8080"} and app.screen is app.desk)
            assert (await engine.container(web.id)).ports
            burst(app, "o\x15\r")
            await until(pilot, lambda: ports() == [] and app.screen is app.desk)
            await engine.stop(web.id)
            await until(pilot, lambda: app.desk.container() is not None and not app.desk.container().state.live)
            burst(app, "o8080:80\r")
            await until(pilot, lambda: "publishes 8080:80" in shown(app))
    assert [port_option(port) for port in (await engine.container(web.id)).spec.ports] == ["8080:80"]


async def test_run_form_offers_the_networks_and_takes_options_about_them(engine: Engine, web: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: "front" in names(app))
        burst(app, "2n")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and bool(app.screen.query("#field-network")))
        app.screen.query_one("#field-network", Select).value = "front"
        for key, words in (
            ("name", "made"),
            ("command", "sleep 600"),
            ("options", f"--ip {OWN}.1.50 --network-alias cache --dns-search lan --stop-signal SIGKILL"),
        ):
            app.screen.query_one(f"#field-{key}", Input).value = words
        await until(pilot, lambda: f"name=front,alias=cache,ip={OWN}.1.50" in shown(app))
        burst(app, "\r")
        await until(pilot, lambda: app.screen is app.desk)

        def places() -> int:
            box = app.desk.container()
            return len(box.endpoints) if box is not None and box.name == "made" else 0

        await until(pilot, lambda: places() == 1, 20)
    (end,) = (await engine.container("made")).endpoints
    assert (end.network, end.ip, end.aliases) == ("front", f"{OWN}.1.50", ("cache",))
    assert (await engine.container("made")).spec.dns_search == ("lan",)


async def test_the_list_follows_what_the_host_is_set_up_to(
    private_host: None, engine: Engine, web: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host of its own, to which it gives a public address."""
    monkeypatch.setattr("tui.ticker.PORTS", 1.0)  # seconds
    (port,) = [
        port for port in (await engine.publish_ports(web.id, [PortMapping(81)])).ports if port.container_port == 81
    ]
    app = WharfApp(engine)
    async with app.run_test(size=(200, 50)) as pilot:
        burst(app, "z")
        await until(pilot, lambda: f"{port.host_port}→81 ◎" in shown(app) or f"{port.host_port}→81 ○" in shown(app))
        # An address of RFC 7535, which is public and which nobody calls.
        subprocess.run(["ip", "link", "add", "whtuipub", "type", "veth"], check=True)
        try:
            subprocess.run(["ip", "address", "add", "192.31.196.9/32", "dev", "whtuipub"], check=True)
            subprocess.run(["ip", "link", "set", "whtuipub", "up"], check=True)
            await until(pilot, lambda: f"{port.host_port}→81 ◉" in shown(app))
        finally:
            subprocess.run(["ip", "link", "delete", "whtuipub"], check=True)
        await until(pilot, lambda: f"{port.host_port}→81 ◉" not in shown(app))
