"""Shared fixtures. Engine tests run real containers on the real kernel, each under its own data root; after every one
of them the oracle compares the kernel with the database."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from core.engine import Engine
from core.images.layers import mark_durable
from core.ops import probes
from core.store.paths import Instance, find_instance
from tests.imagemaker import busybox, busybox_archive
from tests.instance import end_instance
from tests.oci import Runtime
from tests.shares import SHARE  # noqa: F401 - taken before any test counts descriptors
from tests.world import assert_world, open_files

# Begun first (see PYTEST in the Makefile): in the end no worker is left alone with a file that takes long.
LONGEST = (
    "rootless_network rootless rootless_limits rootless_ports app_images images_fsck registry_cli app_networks "
    "net_faults attacks attacks_image app_live images_save images_survive images_refused images_engines images_killed "
    "crash oci_verbs app_images_words app_typing app_store"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """What collecting has imported stays: the search for garbage after each test passes it by."""
    gc.collect()
    gc.freeze()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are made of privileged kernel calls")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI archive of busybox named ``busybox:test``."""
    if busybox() is None:
        pytest.skip("needs busybox-static from Debian")
    return busybox_archive(tmp_path_factory.mktemp("image") / "busybox.tar")


async def _load(inst: Instance, archive: Path) -> None:
    from core.local import LocalEngine
    from core.store.db import Store

    opened = await LocalEngine.open(inst.root, inst.run)
    async for _ in opened.load(archive):
        pass
    await opened.close()
    store = Store.open(inst)
    mark_durable(inst, store.disk)  # else the first engine on each copy would have it synced once more
    store.close()


@pytest.fixture(scope="session")
def stock(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root of an instance that has loaded busybox and nothing else; to be copied."""
    folder = tmp_path_factory.mktemp("stock")
    made = find_instance(folder / "root", folder / "run")
    made.prepare()
    asyncio.run(_load(made, archive))
    asyncio.run(end_instance(made, keep=True))
    return made.root


@pytest.fixture
def inst(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Instance]:
    """An instance of its own; afterwards nothing of it is left in the kernel."""
    if os.geteuid() != 0:
        pytest.skip("needs root: containers are made of privileged kernel calls")
    made = find_instance(tmp_path / "root", tmp_path / "run")
    made.prepare()
    if "busybox_image" in request.fixturenames:
        stock = request.getfixturevalue("stock")
        subprocess.run(("cp", "-a", stock / "images", stock / "wharf.db", made.root), check=True)
    yield made
    asyncio.run(end_instance(made))


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings, certificates and credentials of this test alone; the file that the settings are in (there is none)."""
    from core.images import transport

    monkeypatch.setattr(transport, "_PAUSE", 0.01)  # before it is tried again: the servers are on this machine
    folder = tmp_path / "settings"
    folder.mkdir()
    monkeypatch.setenv("WHARF_CONFIG", str(folder / "config.toml"))
    monkeypatch.setenv("WHARF_CREDENTIALS", str(folder / "credentials.json"))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "WHARF_CREDENTIALS_PASSPHRASE",
        "CREDENTIALS_DIRECTORY",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return folder / "config.toml"


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


@pytest.fixture
def busybox_image(engine: Engine) -> str:
    """A reference in the engine's store: loaded once for all tests, each of which has a copy (``inst``)."""
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
def short() -> Iterator[Path]:
    """A folder with a short name: one of more than 107 bytes is no address of a socket (unix(7)), and pytest's own may
    be long."""
    with tempfile.TemporaryDirectory(prefix="wharf-") as folder:
        yield Path(folder)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """``wharf runtime`` with a root of its own; afterwards nothing of its containers is left."""
    made = Runtime(tmp_path)
    yield made
    made.end()
