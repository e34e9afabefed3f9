"""What an engine does to the data root that it opens: it recovers what others have left, and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.local import LocalEngine
from core.model import ContainerSpec, PortMapping, State
from core.store.paths import Instance
from tests.engine.test_lifecycle import sleeper
from tests.patience import patience

SWEEPER = """
import asyncio, sys
from pathlib import Path
from core.local import LocalEngine

async def main():
    engine = await LocalEngine.open(Path(sys.argv[1]), Path(sys.argv[2]))
    while True:
        assert (found := await engine.recover()) == [], found
        print("swept", flush=True)

asyncio.run(main())
"""


async def test_a_thorough_recovery_disturbs_nobody(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", SWEEPER, str(inst.root), str(inst.run)]
    log = tmp_path / "swept"
    with log.open("wb") as file:
        sweeper = subprocess.Popen(argv, cwd=Path(__file__).parents[2], stdout=file)
    end, rounds = time.monotonic() + patience(120), 0
    try:
        while rounds < 25 or log.read_text().count("swept") <= 5:
            assert time.monotonic() < end, f"{rounds} containers, {log.read_text().count('swept')} recoveries"
            rounds += 1
            spec = ContainerSpec(busybox_image, command=("sleep", "1000"), ports=(PortMapping(80),))
            box = await engine.create(spec)
            await engine.start(box.id)
            await asyncio.sleep(0.03)
            assert (await engine.container(box.id)).state is State.RUNNING
            await engine.remove(box.id, force=True)
        assert sweeper.poll() is None
    finally:
        sweeper.kill()
        sweeper.wait()


async def test_one_data_root_has_one_run_folder(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    cid = await sleeper(engine, busybox_image)
    with pytest.raises(errors.Conflict, match="run folder"):
        await LocalEngine.open(inst.root, tmp_path / "other")
    assert (await engine.container(cid)).state is State.RUNNING


async def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    mode = tmp_path.stat().st_mode
    with pytest.raises(errors.InvalidArgument):
        await LocalEngine.open(tmp_path, tmp_path / "run")
    assert tmp_path.stat().st_mode == mode
