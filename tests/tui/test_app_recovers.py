"""The workstation looks thoroughly for what a crash has left, and keeps things ready for the next container."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from core.engine import Engine
from core.model import ContainerSpec
from core.store.paths import Instance
from tests.patience import patience
from tests.tui.test_app_live import own_folders, shown, until
from tests.world import made_ahead
from tui.app import WharfApp

__all__ = ["own_folders"]
pytestmark = pytest.mark.real


async def test_what_a_crash_left_is_gone(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """A folder and an interface that no row names: opening does not look for those."""
    folder = inst.container_dir("0" * 64)
    folder.mkdir()
    name = f"{inst.link_prefix}abcdef0"
    subprocess.run(("ip", "link", "add", name, "type", "veth", "peer", "name", f"p{os.getpid() % 10000}"), check=True)
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: not folder.exists(), 20)
        await until(
            pilot, lambda: subprocess.run(("ip", "link", "show", name), capture_output=True).returncode != 0, 20
        )
        assert "crash" not in shown(app)


async def test_the_next_container_has_its_wire_already(engine: Engine, busybox_image: str, inst: Instance) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        spec = ContainerSpec(busybox_image, command=("sleep", "600"), stop_signal="SIGKILL")

        async def one() -> str:
            made = await engine.start((await engine.create(spec)).id)
            return made.endpoints[0].interface

        # The firewall is watched, and with it the engine is known to stay, a second or so after the first picture.
        await one()
        end = time.monotonic() + patience(60)
        while not (ahead := made_ahead(inst)):
            assert time.monotonic() < end
            await pilot.pause(0.5)
            await one()
            await pilot.pause(0.3)
        assert await one() in ahead
