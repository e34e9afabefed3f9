"""Whose rights does a process of the runtime have while others can already see it, and what does it hold?

Attacks from inside on those that come in: a joining process, one that waits for its start, hooks of an image. Through
the engine and through ``wharf runtime``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.engine import Engine
from core.model import ContainerSpec, Mount
from core.store.paths import Instance
from tests import attacks
from tests.engine.test_attacks import execute
from tests.engine.test_lifecycle import output, run, sleeper

DEFAULT_CAPS = 0xA80425FB
SYS_PTRACE = 1 << 19


@pytest.fixture(scope="session")
def spy(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    """``/x/attack_spy``."""
    folder = tmp_path_factory.mktemp("spy")
    attacks.compiled(folder, "attack_spy")
    return Mount("bind", str(folder), "/x", read_only=True)


@pytest.mark.parametrize("options", [(), ("no-new-privileges",)])
async def test_a_joining_process_has_no_more_rights_than_the_command(
    engine: Engine, busybox_image: str, spy: Mount, options: tuple[str, ...]
) -> None:
    """CVE-2016-9962: who has CAP_SYS_PTRACE can trace it, so there must be nothing to be had by that."""
    allowed = f"{DEFAULT_CAPS | SYS_PTRACE:x}"
    watch = ("/x/attack_spy", "spy", "3", allowed, "2")
    box = await engine.create(
        ContainerSpec(busybox_image, command=watch, mounts=(spy,), cap_add=("SYS_PTRACE",), security_opt=options)
    )
    await engine.start(box.id)
    waiting = asyncio.create_task(engine.wait(box.id))
    while not waiting.done():
        try:
            await execute(engine, box.id, "true")
        except Exception:
            break
    await waiting
    lines = await output(engine, box.id)
    assert lines
