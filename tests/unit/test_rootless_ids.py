"""Which ids an ordinary user's containers have, and whom a file of an image can belong to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import Unsupported
from core.images.owners import Owners
from core.kernel.userns import Range, contained, mapped, read_map, subordinate, with_root
from core.rootless import ids

SUBUID = """\
# a comment
ada:100000:65536
1234:300000:10
ada:200000:5
bob:400000:65536
ada:none:7
ada:500000
ada:600000:0
ada:-5:3
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    paths = {kind: str(tmp_path / f"sub{kind}") for kind in ("uid", "gid")}
    for path in paths.values():
        Path(path).write_text(SUBUID)
    monkeypatch.setattr(ids, "_SUBORDINATE", paths)
    monkeypatch.setattr(ids, "_names", lambda uid: ["ada", str(uid)])
    monkeypatch.setattr(ids, "_find_helper", lambda kind: f"/usr/bin/new{kind}map")
    return tmp_path


def test_subordinate_ids_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    assert subordinate(str(path), ["ada"]) == []
    path.write_text(SUBUID)
    assert subordinate(str(path), ["ada", "1234"]) == [(100000, 65536), (300000, 10), (200000, 5)]
    assert subordinate(str(path), ["eve"]) == []
    assert max(first for first, _ in subordinate(str(path), None)) == 400000


def test_the_map_of_many_ids(files: Path) -> None:
    found = ids.plan(1234, 99)
    assert found.uids == (
        Range(0, 1234, 1), Range(1, 100000, 65536), Range(65537, 300000, 10), Range(65547, 200000, 5)
    )  # fmt: skip
    assert found.gids[0] == Range(0, 99, 1)
    assert found.count == 65552
    assert found.helpers == ("/usr/bin/newuidmap", "/usr/bin/newgidmap")
    assert found.single == ""


def test_a_single_id_says_why(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "subgid").write_text("bob:1:2\n")
    found = ids.plan(7, 8)
    assert (found.uids, found.gids, found.helpers) == ((Range(0, 7, 1),), (Range(0, 8, 1),), None)
    assert found.single == f"{files}/subgid gives ada no ids"
    # The range that is advised belongs to nobody yet.
    assert found.fix == "usermod --add-subuids 465536-531071 --add-subgids 465536-531071 ada"
    monkeypatch.setattr(ids, "_find_helper", lambda kind: "")
    found = ids.plan(7, 8)
    assert found.single == "newuidmap and newgidmap are not installed"
    assert found.fix.startswith("apt-get install uidmap; usermod")


def test_a_map_has_at_most_340_lines() -> None:
    assert len(with_root(1000, ((number, 1) for number in range(1000)))) == 340


def test_this_process(files: Path) -> None:
    assert mapped(read_map(), os.getuid())
    assert contained() == (read_map() != (Range(0, 0, 4294967295),))


def test_owners_of_files() -> None:
    host = Owners()
    assert not host.limited
    assert host.of(4_000_000_000, 7) == (4_000_000_000, 7)
    many = Owners((Range(0, 1000, 1), Range(1, 100000, 65536)), (Range(0, 1000, 1), Range(1, 100000, 10)))
    assert many.limited
    assert many.of(65536, 10) == (65536, 10)
    with pytest.raises(Unsupported, match="user 65537") as caught:
        many.of(65537, 0)
    assert "/etc/subuid" in caught.value.fix
    with pytest.raises(Unsupported, match="group 11"):
        many.of(0, 11)
    assert Owners((Range(0, 1000, 1),), (Range(0, 1000, 1),)).of(33, 4_000_000_000) == (0, 0)
