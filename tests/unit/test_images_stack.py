"""Layers laid on one another by their indexes, against a plain model of what overlayfs does; patterns of searches."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from core.errors import InvalidArgument
from core.images import columns, tar
from core.images.browse import Browser, build_steps
from core.images.index import OPAQUE, WHITEOUT, Index, Writer
from core.images.patterns import matcher
from core.model import Image, ImageConfig

FILE, DIR = tar.FILE, tar.DIRECTORY
Row = tuple[bytes, str, int]  # kind, path, size


def index_of(rows: Iterable[Row], implied: Iterable[str] = (), links: dict[str, str] | None = None) -> Index:
    """An index as the unpacker writes it."""
    writer = Writer()
    for kind, path, size in rows:
        if kind in (WHITEOUT, OPAQUE):
            writer.mark(kind, path.encode())
            continue
        entry = tar.Entry.__new__(tar.Entry)
        entry.name, entry.kind, entry.mode, entry.uid, entry.gid = path.encode(), kind, 0o644, 0, 0
        entry.length = entry.size = size
        entry.mtime, entry.xattrs, entry.link = 0, {}, (links or {}).get(path, "").encode()
        entry.major = entry.minor = 0
        writer.add(entry)
    return Index(columns.unpack(writer.pack([path.encode() for path in implied])))


def browser(*layers: Index) -> Browser:
    image = Image("sha256:1", ("x:1",), (), 0.0, 0, tuple(f"sha256:{n}" for n in range(len(layers))), ImageConfig())
    return Browser(image, [(0.0, "")] * len(layers), layers)


def tree(found: Browser, position: int) -> dict[str, tuple[str, str]]:
    """path → (kind, change)."""
    return {entry.path: (entry.kind, entry.change) for entry in found.walk(position)}


def test_added_changed_removed_and_wasted() -> None:
    found = browser(
        index_of([(DIR, "etc", 0), (FILE, "etc/a", 10), (FILE, "etc/b", 20), (FILE, "etc/c", 40), (FILE, "top", 1)]),
        index_of([(DIR, "etc", 0), (FILE, "etc/a", 11), (WHITEOUT, "etc/b", 0), (FILE, "etc/new", 5)]),
        index_of([(WHITEOUT, "etc", 0)]),
    )
    facts = [
        (each.files, each.added, each.changed, each.removed, each.size, each.wasted, each.wasted_files)
        for each in found.layers
    ]
    assert facts == [(4, 4, 0, 0, 71, 70, 3), (2, 1, 1, 1, 16, 16, 2), (0, 0, 0, 3, 0, 0, 0)]
    assert found.wasted == 86
    assert tree(found, 2) == {
        "etc": ("folder", ""),
        "etc/a": ("file", "changed"),
        "etc/b": ("file", "removed"),
        "etc/c": ("file", ""),
        "etc/new": ("file", "added"),
        "top": ("file", ""),
    }
    assert {path: change for path, (_, change) in tree(found, 3).items()} == {
        "etc": "removed",
        "etc/a": "removed",
        "etc/c": "removed",
        "etc/new": "removed",
        "top": "",
    }


def test_opaque_folder_hides_what_is_below_and_not_its_own() -> None:
    found = browser(
        index_of([(DIR, "d", 0), (FILE, "d/old", 7), (FILE, "d/both", 3), (DIR, "d/sub", 0), (FILE, "d/sub/x", 2)]),
        index_of([(DIR, "d", 0), (FILE, "d/both", 4), (OPAQUE, "d", 0), (FILE, "d/new", 1)]),
    )
    assert tree(found, 2) == {
        "d": ("folder", ""),
        "d/both": ("file", "changed"),
        "d/new": ("file", "added"),
        "d/old": ("file", "removed"),
        "d/sub": ("folder", "removed"),
        "d/sub/x": ("file", "removed"),
    }
    assert (found.layers[1].removed, found.layers[0].wasted) == (2, 12)
    assert found.entry("d", 2).inside == "+~-"  # type: ignore[union-attr]
    assert found.entry("/d/", 2).size == 5  # type: ignore[union-attr]


def test_file_in_the_place_of_a_folder_and_back() -> None:
    found = browser(
        index_of([(DIR, "x", 0), (FILE, "x/a", 8)]),
        index_of([(FILE, "x", 5)]),
        index_of([(FILE, "x/a", 1)], implied=["x"]),
    )
    assert tree(found, 2) == {"x": ("file", "changed")}
    assert tree(found, 3) == {"x": ("folder", "changed"), "x/a": ("file", "added")}
    assert [each.wasted for each in found.layers] == [8, 5, 0]
    assert [each.removed for each in found.layers] == [0, 1, 1]


def test_content_that_another_name_keeps_is_not_wasted() -> None:
    rows = [(FILE, "a", 100), (tar.LINK, "b", 0)]
    found = browser(index_of(rows, links={"b": "a"}), index_of([(WHITEOUT, "a", 0)]))
    assert found.wasted == 0
    gone = browser(index_of(rows, links={"b": "a"}), index_of([(WHITEOUT, "a", 0), (WHITEOUT, "b", 0)]))
    assert gone.wasted == 100


def test_implied_folder_does_not_hide_the_one_below() -> None:
    found = browser(index_of([(DIR, "d", 0), (FILE, "d/a", 1)]), index_of([(FILE, "d/b", 1)], implied=["d"]))
    assert found.entry("d", 2).position == 1  # type: ignore[union-attr]
    assert tree(found, 2) == {"d": ("folder", ""), "d/a": ("file", ""), "d/b": ("file", "added")}


def test_many_whiteouts_of_folders() -> None:
    names = [f"d{n}" for n in range(40)]
    lower = [row for name in names for row in ((DIR, name, 0), (FILE, f"{name}/f", 1))]
    found = browser(index_of(lower), index_of([(WHITEOUT, name, 0) for name in names[:39]]))
    assert [entry.path for entry in found.walk(2) if entry.change != "removed"] == ["d39", "d39/f"]
    assert found.layers[1].removed == 39


class Model:
    """What is seen after each layer, path by path, as overlayfs merges: the slow and plain way."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[bytes, int, int]] = {}  # path → kind, size, layer

    def lay(self, number: int, rows: list[Row]) -> None:
        own = {path: (kind, size, number) for kind, path, size in rows if kind not in (WHITEOUT, OPAQUE)}
        hidden = {path for kind, path, _ in rows if kind == WHITEOUT}
        covered = {path for kind, path, _ in rows if kind == OPAQUE} | hidden
        covered |= {path for path, (kind, _, _) in own.items() if kind != DIR}
        for path in list(self.seen):
            ups = {path[:at] for at, char in enumerate(path) if char == "/"}
            if path in hidden or ups & covered or path in own:
                del self.seen[path]
        self.seen |= own


@pytest.mark.parametrize("seed", range(30))
def test_random_layers_as_the_model_says(seed: int) -> None:
    chance = random.Random(seed)
    model, indexes, states = Model(), [], []
    for number in range(1, 6):
        rows: dict[str, Row] = {}
        for _ in range(chance.randrange(1, 12)):
            parts = [chance.choice("abc") for _ in range(chance.randrange(1, 4))]
            for depth in range(1, len(parts)):
                rows["/".join(parts[:depth])] = (DIR, "/".join(parts[:depth]), 0)
            path = "/".join(parts)
            rows[path] = (chance.choice([FILE, FILE, DIR, WHITEOUT]), path, 0)
        listed = []
        for path, (kind, _, _) in rows.items():
            ups = [path[:at] for at, char in enumerate(path) if char == "/"]
            if any(rows[up][0] != DIR for up in ups):
                continue  # nothing lies below a file or a whiteout of the same layer
            listed.append((kind, path, chance.randrange(1, 100) if kind == FILE else 0))
            if kind == DIR and chance.random() < 0.2:
                listed.append((OPAQUE, path, 0))
        chance.shuffle(listed)
        model.lay(number, listed)
        indexes.append(index_of(listed))
        states.append(dict(model.seen))
    found = browser(*indexes)
    for number, state in enumerate(states, 1):
        seen = {e.path: (e.kind, e.position) for e in found.walk(number) if e.change != "removed"}
        assert seen == {path: ("folder" if kind == DIR else "file", layer) for path, (kind, _, layer) in state.items()}
        before = states[number - 2] if number > 1 else {}
        removed = {e.path for e in found.walk(number) if e.change == "removed"}
        files = {path for path, (kind, _, _) in state.items() if kind == FILE}
        gone = set(before) - set(state)
        # What was in a folder that is a file now is not shown: a file has no content to look into.
        assert removed == {p for p in gone if not any(p.startswith(f"{file}/") for file in files)}
        total = sum(size for _, size, _ in state.values())
        assert sum(entry.size for entry in found.children("", number) if entry.change != "removed") == total
    files = {path: size for path, (kind, size, _) in states[-1].items() if kind == FILE}
    assert sum(each.size for each in found.layers) - found.wasted == sum(files.values())


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/etc/passwd", ["etc/passwd"], ["etc/passwd-", "x/etc/passwd"]),
        ("/etc/", ["etc"], ["etc/x"]),
        ("ssl", ["usr/lib/libssl.so", "ssl/x"], ["usr/lib"]),
        ("*.pem", ["a.pem", "etc/ssl/a.pem"], ["a.pem/x", "a.pemx"]),
        ("/usr/*/x", ["usr/lib/x"], ["usr/lib/y/x", "x/usr/lib/x"]),
        ("/usr/**/x.so", ["usr/x.so", "usr/lib/a/x.so"], ["usr/lib/ax.sox"]),
        ("/opt/**", ["opt/a", "opt/a/b"], ["opt"]),
        ("[a-c]?[!0-9]", ["x/abc", "cxx"], ["dxx", "ab1", "ab"]),
        ("[]x]y", ["]y", "xy"], ["y"]),
        ("a[", ["a[", "x/a["], ["a", "xa["]),
        ("a.b*", ["a.bc"], ["axbc"]),
        ("[[:]*", ["[x", ":x"], ["a"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    match = matcher(pattern)
    assert [path for path in (*yes, *no) if match(path.encode())] == yes


@pytest.mark.parametrize("pattern", ["", "/", "[z-a]x"])
def test_patterns_that_cannot_be_read(pattern: str) -> None:
    with pytest.raises(InvalidArgument):
        matcher(pattern)


def test_names_that_are_no_text_are_found() -> None:
    match = matcher("b\udcffc")
    assert match(b"a/b\xffc")


def test_fates() -> None:
    found = browser(
        index_of([(FILE, "a", 1), (FILE, "b", 2), (FILE, "c", 3)]), index_of([(FILE, "a", 4), (WHITEOUT, "b", 0)])
    )
    assert [(each.path, each.position, each.fate, each.ended) for each in found.find("[abc]")] == [
        ("a", 1, "replaced", 2),
        ("b", 1, "removed", 2),
        ("c", 1, "kept", 0),
        ("a", 2, "kept", 0),
        ("b", 2, "whiteout", 0),
    ]


def test_folder_that_comes_again_is_the_same_folder() -> None:
    found = browser(
        index_of([(DIR, "d", 0), (DIR, "e", 0), (DIR, "f", 0)]),
        index_of([(DIR, "d", 0), (DIR, "e", 0), (DIR, "f", 0)]),
        index_of([(DIR, "d", 0), (WHITEOUT, "e", 0), (FILE, "f", 1)]),
    )
    assert [(each.path, each.position, each.fate, each.ended) for each in found.find("?")] == [
        ("d", 1, "kept", 0),
        ("e", 1, "removed", 3),
        ("f", 1, "replaced", 3),
        ("e", 3, "whiteout", 0),
        ("f", 3, "kept", 0),
    ]


@pytest.mark.parametrize(
    "config",
    [b"{}", b'{"history": 3}', b'{"history": [{}]}', b'{"history": [{"empty_layer": true}, 7, {"created_by": "x"}]}'],
)
def test_history_that_does_not_fit_tells_nothing(config: bytes) -> None:
    assert build_steps(config, 2) == [(0.0, ""), (0.0, "")]


def test_history_skips_steps_without_a_layer() -> None:
    config = b"""{"history": [{"created": "2024-01-02T03:04:05Z", "created_by": "one"},
        {"created_by": "ENV", "empty_layer": true}, {"comment": "two"}]}"""
    assert build_steps(config, 2) == [(1704164645.0, "one"), (0.0, "two")]
