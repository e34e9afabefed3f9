"""Which ids a container gets: by the host's files, by what is taken, in order."""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
from pathlib import Path

import pytest

from core import errors
from core.model import ContainerSpec
from core.ops import idranges
from core.store.paths import DEFAULT_ROOT, DEFAULT_RUN, Instance

DEFAULT = Instance(DEFAULT_ROOT, DEFAULT_RUN)
OTHER = Instance(Path("/srv/wharf"), Path("/run/wharf-x"))


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's /etc, of files that the test writes."""
    files = tuple((str(tmp_path / a), str(tmp_path / b)) for a, b in (("passwd", "subuid"), ("group", "subgid")))
    monkeypatch.setattr(idranges, "_FILES", files)
    return tmp_path


def rows(*held: tuple[str, tuple[int, int]]) -> sqlite3.Connection:
    con = sqlite3.connect(":memory:")
    con.row_factory = sqlite3.Row
    con.execute("CREATE TABLE container (spec TEXT, config TEXT)")
    for word, ids in held:
        con.execute("INSERT INTO container VALUES (?, ?)", (json.dumps({"userns": word}), _config(ids)))
    return con


def _config(ids: tuple[int, int]) -> str:
    return json.dumps({"ids": ids, "argv": ["true"]}, separators=(",", ":"))


def spec(word: str) -> ContainerSpec:
    return ContainerSpec("x", userns=word)


def test_the_usual_place_less_what_others_have(etc: Path) -> None:
    (etc / "passwd").write_text("root:x:0:0::/:/bin/sh\nfar:x:600000:1::/:/bin/sh\nbroken\n")
    (etc / "group").write_text("wheel:x:700000:\n")
    (etc / "subuid").write_text("me:524288:65536\n")
    (etc / "subgid").write_text("me:589824:1000\n# comment\nme:x:3\n")
    free = idranges._usual()
    assert free[0] == (590824, 600000)
    assert free[1:] == [(600001, 700000), (700001, idranges.END)]


def test_given_ids_are_preferred_and_must_be_both(etc: Path) -> None:
    (etc / "subuid").write_text("dockremap:1:5\nwharf:100000:1000\nwharf:300000:1000\n")
    (etc / "subgid").write_text("dockremap:1:5\nwharf:100500:5000\nwharf:300000:10\n")
    assert idranges._given() == [(100500, 101000), (300000, 300010)]
    (etc / "subgid").write_text("dockremap:1:5\n")
    assert idranges._given() == []  # no gids; and what dockerd gives to its own containers is not ours


def test_the_first_gap_is_taken() -> None:
    free = [(1000, 1500), (2000, 4000)]
    con = rows(("auto", (1000, 100)), ("auto:size=200", (1150, 200)), ("host", (0, 0)))
    assert idranges.choose(con, DEFAULT, spec("auto:size=50"), free) == (1100, 50)
    assert idranges.choose(con, DEFAULT, spec("auto:size=150"), free) == (1350, 150)
    assert idranges.choose(con, DEFAULT, spec("auto:size=151"), free) == (2000, 151)
    with pytest.raises(errors.Conflict, match="no range of 3000"):
        idranges.choose(con, DEFAULT, spec("auto:size=3000"), free)


def test_remap_shares_one_range() -> None:
    free = [(idranges.FIRST, idranges.END)]
    first = idranges.choose(rows(), DEFAULT, spec("remap"), free)
    con = rows(("remap", first))
    assert idranges.choose(con, DEFAULT, spec("remap"), ()) == first
    own = idranges.choose(con, DEFAULT, spec("auto"), free)
    assert own == (first[0] + first[1], 65536)


def test_another_data_root_begins_elsewhere() -> None:
    free = [(idranges.FIRST, idranges.END)]
    assert idranges.choose(rows(), DEFAULT, spec("auto"), free)[0] == idranges.FIRST
    assert idranges.choose(rows(), OTHER, spec("auto"), free)[0] > idranges.FIRST + 65536 * 100
    # Where its part is full it takes what there is.
    assert idranges.choose(rows(), OTHER, spec("auto"), [(5, 65541)]) == (5, 65536)


def test_whatever_comes_and_goes_nothing_overlaps() -> None:
    chance = random.Random(7)
    free = [(100, 4000), (5000, 9000), (9001, 9050)]
    held: list[tuple[int, int]] = []
    for _ in range(600):
        size = chance.choice((1, 7, 64, 500))
        try:
            held.append(idranges.choose(rows(*(("auto", ids) for ids in held)), OTHER, spec(f"auto:size={size}"), free))
        except errors.Conflict:
            held.pop(chance.randrange(len(held)))
        taken = sorted(held)
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(taken))
        assert all(any(low <= a and a + n <= high for low, high in free) for a, n in taken)
    assert len(held) > 10
