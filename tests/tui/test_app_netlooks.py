"""What the workstation shows of networks that are in use: the map, the ports, the check, who talks to whom."""

from __future__ import annotations

import re
import socket
import subprocess

import pytest

from core.engine import Engine
from core.model import (
    Container,
    ContainerSpec,
    EndpointInfo,
    Network,
    PortMapping,
    Reach,
    State,
    Subnet,
)
from tests.tui.test_app_live import own_folders, shown, until
from tests.tui.test_app_networks import BACK, OWN, SIZES, ask_of, names, on, web
from tests.tui.typing import burst
from tui import netmap
from tui.app import WharfApp
from tui.screens.confirm import ConfirmScreen
from tui.screens.connections import ConnectionsScreen
from tui.screens.network_check import NetworkCheckScreen
from tui.screens.network_map import MapScreen
from tui.screens.places import PlacesScreen
from tui.screens.reach import ReachScreen
from tui.snapshot import Snapshot
from tui.widgets.linetable import LineTable

__all__ = ["own_folders", "web"]

pytestmark = pytest.mark.real


@pytest.mark.parametrize("size", SIZES)
async def test_map_shows_who_is_where_and_leads_there(engine: Engine, web: Container, size: tuple[int, int]) -> None:
    spec = ContainerSpec(image=web.spec.image, name="sidecar", command=("sleep", "600"), network=f"container:{web.id}")
    side = await engine.start((await engine.create(spec)).id)
    app = WharfApp(engine)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "front" in names(app))
        burst(app, "3")
        await until(pilot, lambda: app.desk.active == "networks")
        on(app, "front")
        burst(app, "m")
        await ask_of(pilot, MapScreen, f"{OWN}.1.0/24", "web", "sidecar  with web", "this host")
        assert app.screen.query_one(LineTable).cursor_row.cells[0].text.endswith("front")
        if size[0] == 200:
            assert "also shop" in shown(app)
            assert "127.0.0.1 (lo)" in shown(app)
        burst(app, "h")
        await until(pilot, lambda: "sidecar" not in shown(app))
        burst(app, "\r")
        await until(pilot, lambda: "sidecar" in shown(app))
        await engine.remove(side.id, force=True)  # it is live
        await until(pilot, lambda: "sidecar" not in shown(app))
        burst(app, "j\r")
        await until(pilot, lambda: app.screen is app.desk and app.desk.active == "containers")
        assert app.desk.chosen == web.id


def test_a_range_of_ports_is_one_row_of_the_map() -> None:
    network = Network("n" * 64, "web", "bridge", 0.0, (Subnet("10.0.0.0/24"),), "wh0")
    box = Container("c" * 64, "one", ContainerSpec("x", network="web"), "sha256:x", State.RUNNING, 0.0,
                    endpoints=(EndpointInfo("web", "10.0.0.2", gateway="10.0.0.1"),))  # fmt: skip
    found = [
        Reach("one", PortMapping(80 + n, 8080 + n), "lan", ("10.1.0.1",), "", ("!",) * (n == 9)) for n in range(10)
    ]
    rows = list(netmap.tree(Snapshot(containers=(box,), networks=(network,)), found, frozenset()))
    assert [row.cells[0] for row in rows[2:]] == ["        8080-8088→80-88", "        8089→89"]
    assert [row.key for row in rows[2:]] == [f"p {network.id} {box.id} 8080→80", f"p {network.id} {box.id} 8089→89"]


@pytest.mark.parametrize("size", SIZES)
async def test_network_of_a_container(engine: Engine, web: Container, size: tuple[int, int]) -> None:
    await engine.create_network(BACK)
    app = WharfApp(engine)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.desk.chosen == web.id and "back" in names(app))
        burst(app, "N")
        await ask_of(pilot, PlacesScreen, "Network of web", f"{OWN}.1.2/24", "this host", "8080")
        burst(app, "\t")
        await until(pilot, lambda: "table inet" in shown(app))  # the rule of the port
        burst(app, "\tA\r\r")
        await ask_of(pilot, PlacesScreen, f"{OWN}.2.2/24")
        burst(app, "jO")
        await ask_of(pilot, ConfirmScreen, "Take web from back?")
        burst(app, "y")
        await until(pilot, lambda: isinstance(app.screen, PlacesScreen) and f"{OWN}.2.2/24" not in shown(app))
        await engine.remove(web.id, force=True)
        await until(pilot, lambda: app.screen is app.desk)


async def test_who_can_reach_the_ports_of_a_network(engine: Engine, web: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "front" in names(app))
        burst(app, "3")
        await until(pilot, lambda: app.desk.active == "networks")
        on(app, "front")
        burst(app, "w")
        await ask_of(pilot, ReachScreen, "ports of front", "this host", "chain raw drops")
        burst(app, "\x1b")
        on(app, "host")
        burst(app, "w")
        await ask_of(pilot, ReachScreen, "no port is published")


@pytest.mark.parametrize("size", SIZES)
async def test_check_names_the_first_broken_link(engine: Engine, web: Container, size: tuple[int, int]) -> None:
    app = WharfApp(engine)
    (bridge,) = [network.bridge for network in await engine.networks() if network.name == "front"]
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.desk.chosen == web.id and "front" in names(app))
        burst(app, "3")
        await until(pilot, lambda: app.desk.active == "networks")
        on(app, "front")
        try:
            for key in "vrr":  # what an engine mends once it has been opened may come in between
                subprocess.run(["ip", "link", "set", bridge, "down"], check=True)
                burst(app, key)
                await until(pilot, lambda: "check again" in shown(app), 30)
                if "The first broken link" in shown(app):
                    break
            await ask_of(pilot, NetworkCheckScreen, "Check of network front", "The first broken link", bridge)
            found = app.screen.query_one(LineTable)
            assert found.cursor_row.cells[0].text == "✕"
        finally:
            subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
        burst(app, "r")
        await until(pilot, lambda: "✕" not in shown(app) and "check again" in shown(app), 30)
        burst(app, "q1v")
        await until(pilot, lambda: "Check of container web" in shown(app) and "check again" in shown(app), 30)


@pytest.mark.parametrize("size", SIZES)
async def test_connections_with_process_and_rates(engine: Engine, web: Container, size: tuple[int, int]) -> None:
    app = WharfApp(engine)
    port = web.ports[0]
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.desk.chosen == web.id)
        burst(app, "t")
        await ask_of(pilot, ConnectionsScreen, "Connections of web", "no connections")
        burst(app, "a")
        await until(pilot, lambda: "listen" in shown(app) and "httpd" in shown(app))
        burst(app, "a")
        with socket.create_connection((port.host_ip, port.host_port)) as caller:
            mine = caller.getsockname()[1]
            await until(pilot, lambda: "established" in shown(app) and f":{mine}" in shown(app))
            caller.sendall(b"GET /" + b"x" * 300)
            await until(pilot, lambda: re.search(r"\d+(\.\dK|B)/s", shown(app)) is not None)
        await until(pilot, lambda: "established" not in shown(app))


async def test_what_passes_is_shown_where_there_is_room(engine: Engine, web: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(200, 50)) as pilot:
        await until(pilot, lambda: app.desk.chosen == web.id)
        burst(app, "3z")
        await until(pilot, lambda: ("front", web.id) in {(name, cid) for cid, name in app.desk.snapshot.traffic})

        def rates() -> int:
            return sum(str(row.cells[5]).count("/s") for row in app.desk.networks.table.rows if row.cells[0] == "front")

        await until(pilot, lambda: rates() == 2)
        burst(app, "m")
        await ask_of(pilot, MapScreen, "/s")
        burst(app, "q1z")  # nobody looks: nobody reads
        await until(pilot, lambda: app.desk.snapshot.traffic == {})
