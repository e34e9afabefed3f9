"""Shared fixtures. Engine tests run real containers on the real kernel, each under its own data root; after every one
of them the oracle compares the kernel with the database."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from core.engine import Engine
from core.ops import probes
from core.store.paths import Instance, find_instance
from tests.imagemaker import busybox, busybox_archive
from tests.instance import end_instance
from tests.oci import Runtime
from tests.world import assert_world, open_files

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are made of privileged kernel calls")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI archive of busybox named ``busybox:test``."""
    if busybox() is None:
        pytest.skip("needs busybox-static from Debian")
    return busybox_archive(tmp_path_factory.mktemp("image") / "busybox.tar")


@pytest.fixture
def inst(tmp_path: Path) -> Iterator[Instance]:
    """An instance of its own; afterwards nothing of it is left in the kernel."""
    if os.geteuid() != 0:
        pytest.skip("needs root: containers are made of privileged kernel calls")
    made = find_instance(tmp_path / "root", tmp_path / "run")
    made.prepare()
    yield made
    asyncio.run(end_instance(made))


@pytest_asyncio.fixture
async def engine(inst: Instance) -> AsyncIterator[Engine]:
    """An open engine; the oracle runs when the test is over, with its containers still there."""
    from core.local import LocalEngine

    before = open_files()
    opened = await LocalEngine.open(inst.root, inst.run)
    yield opened
    await opened.close()
    assert_world(inst)
    gc.collect()  # descriptors that only a cycle of garbage still holds are no leak
    assert not open_files() - before, "descriptors are left open"


@pytest_asyncio.fixture
async def busybox_image(engine: Engine, archive: Path) -> str:
    """A reference that is loaded in the engine's store."""
    async for _ in engine.load(archive):
        pass
    return "busybox:test"


@functools.cache
def _why_unmappable(folder: Path) -> str:
    with probes.user_namespace() as (namespace, reason):
        return probes.overlay(folder, namespace).idmap if namespace is not None else reason


@pytest.fixture
def mappable(inst: Instance) -> None:
    """Only where the ids of the instance's file system can be mapped (Linux 5.19; tmpfs 6.3)."""
    if why := _why_unmappable(inst.root.parents[1]):
        pytest.skip(f"needs a file system whose ids can be mapped: {why}")


@pytest.fixture
def instance_env(inst: Instance) -> dict[str, str]:
    """The environment in which ``wharf`` as a subprocess uses the same instance."""
    return {**os.environ, "WHARF_ROOT": str(inst.root), "WHARF_RUN": str(inst.run), "NO_COLOR": "1"}


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """``wharf runtime`` with a root of its own; afterwards nothing of its containers is left."""
    made = Runtime(tmp_path)
    yield made
    made.end()
