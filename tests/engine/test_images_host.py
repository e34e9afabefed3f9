"""What a store does not take over from its host: lists of access and groups of the folders above, a disk's damage."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import Conflict
from core.local import LocalEngine
from core.model import ContainerSpec
from core.store.paths import Instance
from tests import images as make
from tests.images import directory, member, symlink

pytestmark = pytest.mark.real
_NOBODY = 2**32 - 1
# user::rwx user:1000:rwx group::rwx mask::rwx other::--- (linux/posix_acl_xattr.h)
_ENTRIES = ((1, 7, _NOBODY), (2, 7, 1000), (4, 7, _NOBODY), (0x10, 7, _NOBODY), (0x20, 0, _NOBODY))
_LIST = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in _ENTRIES)


def pass_on(folder: Path) -> None:
    os.chown(folder, 0, 33)
    folder.chmod(0o2775)
    try:
        os.setxattr(folder, "system.posix_acl_default", _LIST)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("the file system has no lists of access")


def looks(top: Path) -> dict[str, tuple[str, int, int, list[str]]]:
    found = {}
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        attributes = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(top))] = (oct(status.st_mode), status.st_uid, status.st_gid, attributes)
    return found


@contextlib.asynccontextmanager
async def opened(inst: Instance) -> AsyncIterator[LocalEngine]:
    engine = await LocalEngine.open(inst.root, inst.run)
    try:
        yield engine
    finally:
        await engine.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a group of others needs root")
@pytest.mark.parametrize("within", [False, True], ids=["above the store", "in the store"])
async def test_the_hosts_lists_and_groups_stay_out(tmp_path: Path, within: bool) -> None:
    inst = Instance(tmp_path / "above" / "root", tmp_path / "run")
    inst.root.parent.mkdir()
    pass_on(inst.root.parent)
    if within:
        async with opened(inst):
            pass
        for name in ("images/layers", "containers"):
            (inst.root / name).mkdir(exist_ok=True)
            pass_on(inst.root / name)
    layer = make.tar(
        directory("etc"), member("etc/x", data=b"r", mode=0o4755), directory("tmp", mode=0o1777),
        member("left/out/file", data=b"1", mode=0o666), symlink("link", "etc/x"),
    )  # fmt: skip
    old, image = os.umask(0o077), None
    try:
        async with opened(inst) as engine:
            async for step in engine.load(make.layout(tmp_path / "layout", make.image([layer]), "host:1")):
                image = step.image or image
            assert image is not None
            created = await engine.create(ContainerSpec(image=image.id, command=("/x",)))
            [diff] = (inst.root / "images" / "layers").glob("*/diff")
            upper = inst.container_dir(created.id) / "upper"
            assert looks(upper) == {".": ("0o40755", 0, 0, [])}
            assert looks(diff) == {
                ".": ("0o40755", 0, 0, []),
                "etc": ("0o40755", 0, 0, []),
                "etc/x": ("0o104755", 0, 0, []),
                "tmp": ("0o41777", 0, 0, []),
                "left": ("0o40755", 0, 0, []),
                "left/out": ("0o40755", 0, 0, []),
                "left/out/file": ("0o100666", 0, 0, []),
                "link": ("0o120777", 0, 0, []),
            }
            await engine.remove(created.id)
    finally:
        os.umask(old)


async def test_an_import_does_not_rest_on_a_damaged_layer(engine: LocalEngine, inst: Instance, tmp_path: Path) -> None:
    """The same archive once more mends what the disk has made of the first; not below a container."""
    archive = tmp_path / "files.tar"
    archive.write_bytes(
        make.tar(directory("etc"), member("etc/x", data=b"right" * 100), member("left/out/y", data=b"y"))
    )
    image = await engine.import_image(archive, "host:1")
    [diff] = (inst.images / "layers").glob("*/diff")
    assert (await engine.import_image(archive, "host:2")).layers == image.layers
    (diff / "etc" / "x").write_bytes(b"wrong" * 100)
    box = await engine.create(ContainerSpec(image=image.id, command=("/x",)))
    with pytest.raises(Conflict, match="damaged") as caught:
        await engine.import_image(archive, "host:3")
    assert "etc/x" in caught.value.why
    assert (diff / "etc" / "x").read_bytes() == b"wrong" * 100
    await engine.remove(box.id)
    assert (await engine.import_image(archive, "host:3")).layers == image.layers
    assert (diff / "etc" / "x").read_bytes() == b"right" * 100
    assert not [step async for step in engine.check_store(repair=False)][-1].damages
    assert not [path for path in (inst.images / "layers").iterdir() if path.name.startswith("tmp-")]
