"""The end of a test's instance: nothing of it stays in the kernel, in /run or on the disk."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from core.local import LocalEngine
from core.net import Net
from core.store.db import Store
from core.store.paths import Instance
from tests.patience import patience
from tests.world import assert_world, processes


async def end_instance(made: Instance, *, keep: bool = False) -> None:
    """Kill what still runs of an instance, recover, compare, and take its bridge and table away.

    :param keep: its data root stays
    """
    engine = await LocalEngine.open(made.root, made.run)
    try:
        for box in await engine.containers():
            await engine.remove(box.id, force=True)
        assert await engine.recover() == []
        await take_networks_down(made)
    finally:
        await engine.close()
    for pid in processes(made):
        _end(pid)
    assert_world(made)
    for base in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        if (base / made.cgroup).is_dir():
            (base / made.cgroup).rmdir()
    if not keep:
        shutil.rmtree(made.root, ignore_errors=True)


async def take_networks_down(made: Instance) -> None:
    """Remove the instance's bridges; its firewall table goes with the last one."""
    store = Store.open(made)
    net = Net(made, store)
    try:
        await net.remove_all()
    finally:
        await net.close()
        store.close()


def _end(pid: int) -> None:
    """End one process of the instance (its launcher waits for more work) and wait until it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        end = time.monotonic() + patience(2)
        while time.monotonic() < end:
            if _ended(pid):
                return
            time.sleep(0.01)


def _ended(pid: int) -> bool:
    """True for a zombie too: when it is reaped is its parent's affair, and the host's init may be slow."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
