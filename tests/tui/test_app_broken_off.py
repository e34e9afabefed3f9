"""An import that was killed in the middle: what it has left is named, counted, and taken away."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import time

import pytest

from core.cli import fsck
from core.engine import Engine
from core.errors import Unavailable
from core.images.remains import half_made
from core.model import Remains
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_cli import Wharf
from tests.images import member
from tests.patience import patience
from tests.tui.test_app_images import ask_of
from tests.tui.test_app_live import ended, own_folders, shown, until
from tests.tui.typing import burst
from tui.app import WharfApp
from tui.screens.confirm import ConfirmScreen

__all__ = ["own_folders"]
pytestmark = pytest.mark.real
TREE = make.tar(member("big", data=os.urandom(3 << 20)))


async def broken_off(wharf: Wharf, inst: Instance, engine: Engine) -> None:
    """Kill −9 in the middle of an import."""
    process = await wharf.start("import", "-", "team/half:1", stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(TREE[: 2 << 20])
    end = time.monotonic() + patience(60)
    while not any(path.stat().st_size for path in (inst.images / "layers").glob("tmp-*/diff/big")):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    process.kill()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.close()
    await process.wait()
    while not half_made(engine._ctx.images):  # type: ignore[attr-defined]  # its workers end a moment later
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def test_fsck_and_prune_tell_of_it(
    engine: Engine, inst: Instance, instance_env: dict[str, str], busybox_image: str
) -> None:
    wharf = Wharf(instance_env, busybox_image)
    assert "half-made" not in await wharf.ok("fsck")
    await broken_off(wharf, inst, engine)
    said = await wharf.ok("fsck")
    assert "1 half-made layer without an image (" in said
    assert "wharf image prune takes it away" in said
    promised = await wharf.ok("image", "prune", "--dry-run")
    assert "deleted: the half-made layer tmp-" in promised
    assert "space: 0B" not in promised
    assert (await wharf.ok("image", "prune", "--dry-run", "--filter", "until=1h")).splitlines()[-1].endswith(" 0B")
    await wharf.ok("image", "prune", "-f")
    assert "half-made" not in await wharf.ok("fsck")
    assert not (await engine.remains()).half


async def test_a_count_that_fails_does_not_spoil_the_verdict(
    engine: Engine, busybox_image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails() -> Remains:
        raise Unavailable("the layers cannot be counted")

    monkeypatch.setattr(engine, "remains", fails)
    assert await fsck.run(engine, argparse.Namespace(repair=False, remove=False, quiet=False)) == 0
    assert "all is well" in capsys.readouterr().out
    app = WharfApp(engine)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        burst(app, "2V")
        await until(pilot, lambda: "all is well" in shown(app))


async def test_the_workstation_says_that_it_was_broken_off(
    engine: Engine, inst: Instance, instance_env: dict[str, str], busybox_image: str
) -> None:
    await broken_off(Wharf(instance_env, busybox_image), inst, engine)
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: "was broken off: 1 half-made layer" in " ".join(shown(app).split()))
        assert not (await engine.remains()).half


async def test_the_check_of_the_store_counts_layers_without_an_image(engine: Engine, busybox_image: str) -> None:
    with engine._ctx.store.disk.write() as con:  # type: ignore[attr-defined]
        con.execute("DELETE FROM image")
    app = WharfApp(engine)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        burst(app, "2V")
        await until(pilot, lambda: "all is well" in shown(app) and "1 layer without an image (" in shown(app))
        burst(app, "q")
        await until(pilot, lambda: app.screen is app.desk)
        burst(app, "B\t\t\t\t \r")
        await ask_of(pilot, ConfirmScreen, "Remove what was broken off?", "given back")
        burst(app, "y")
        await until(pilot, lambda: ended(app, "prune images"))
        assert not await engine.remains()
