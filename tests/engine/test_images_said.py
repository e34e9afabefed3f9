"""What the image verbs say of what is not as the user thinks: names the thing, tells the truth, and fails."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from core.errors import InvalidArgument
from core.images.reference import parse_repository
from core.images.remote import _split_term
from tests import images as make
from tests.engine.test_cli import Wharf
from tests.images import directory, member
from tests.patience import patience
from tests.ports import free_port

TREE = make.tar(directory("etc"), member("etc/one", data=b"1" * 5000))


@pytest.fixture
def wharf(instance_env: dict[str, str], busybox_image: str) -> Wharf:
    return Wharf(instance_env, busybox_image)


async def fails(wharf: Wharf, *words: str, code: int = 1, given: bytes | None = None) -> str:
    done = await wharf(*words, given=given)
    assert done.code == code, done
    assert "b'" not in done.err
    return done.err


async def test_what_is_no_archive(wharf: Wharf, tmp_path: Path) -> None:
    plain, packed, cut, tree = (tmp_path / name for name in ("plain", "packed", "cut", "tree"))
    plain.write_bytes(b"root:x:0:0:root:/root:/bin/sh\n" * 100)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    tree.write_bytes(TREE)
    cut.write_bytes(TREE[:2000])
    for verb in (["load", "-i"], ["import"]):
        assert f"{plain} is no tar archive" in await fails(wharf, *verb, str(plain))
        said = await fails(wharf, *verb, str(cut))
        assert "the archive ends too early" in said
        assert "'etc/one'" in said
        assert "Pull the image" not in said
    assert f"{packed} is no tar archive" in await fails(wharf, "load", "-i", str(packed))
    said = await fails(wharf, "import", str(packed))
    assert f"{packed} cannot be imported: it does not begin like a tar archive" in said
    assert "standard input is no tar archive" in await fails(wharf, "import", "-", given=b"short")
    assert "wharf import" in await fails(wharf, "load", "-i", str(tree))


async def test_names_that_mean_nothing_here(wharf: Wharf, tmp_path: Path) -> None:
    said = await fails(wharf, "image", "check", "nothing/like:it", wharf.image)
    assert "nothing/like:it: no such image" in said
    tree = tmp_path / "tree"
    tree.write_bytes(TREE)
    made = (await wharf.ok("import", str(tree))).strip().removeprefix("sha256:")[:12]
    assert f"{made}: it has no name to check" in await fails(wharf, "image", "check", made)
    await wharf.ok("tag", made, "team/one:1")
    await wharf.ok("tag", made, "team/two:2")
    checked = await wharf.ok("image", "check", "--format", "{{.Reference}} {{.Status}}", made)
    assert checked == "team/one:1 only here\nteam/two:2 only here\n"
    for name in ("team/one:1", "team/two:2"):
        assert (await wharf.ok("image", "find", "--format", "{{.Image}}", "/etc/one", name)).split() == [name]
    await wharf.ok("save", "-o", str(tmp_path / "two.tar"), "team/two:2")
    await wharf.ok("untag", made, "team/two:2")
    loaded = await wharf("load", "-q", "-i", str(tmp_path / "two.tar"))
    assert loaded.out == "Loaded image: team/two:2\n", "only what the archive names"
    await wharf.ok("save", "-o", str(tmp_path / "both.tar"), "team/two:2", "team/one:1")
    loaded = await wharf("load", "-q", "-i", str(tmp_path / "both.tar"))
    assert sorted(loaded.out.splitlines()) == ["Loaded image: team/one:1", "Loaded image: team/two:2"]


async def test_an_image_in_use_keeps_its_layers(wharf: Wharf) -> None:
    await wharf.ok("create", "--name", "web", wharf.image, "true")
    said = await fails(wharf, "rmi", wharf.image)
    assert f"the image {wharf.image} cannot be removed: it has no other name, and containers use it: web" in said
    assert f"wharf untag {wharf.image}" in said
    done = await wharf("rmi", "-f", wharf.image)
    assert (done.code, done.out) == (0, f"Untagged: {wharf.image}\n")
    assert "the image stays as long as it is needed" in done.err
    assert "containers use it: web" in done.err


async def test_a_reader_that_has_gone_is_no_failure(wharf: Wharf) -> None:
    await wharf.ok("create", "--name", "web", wharf.image, "true")
    for words in (("export", "web"), ("save", wharf.image)):
        process = await wharf.start(*words)
        assert process.stdout
        assert process.stderr
        await process.stdout.readexactly(10)
        process.stdout._transport.close()  # type: ignore[attr-defined]
        said = await asyncio.wait_for(process.stderr.read(), patience(60))
        assert (await process.wait(), said) == (141, b"")


async def test_a_pull_goes_on_after_one_that_failed(wharf: Wharf) -> None:
    address = f"127.0.0.1:{free_port()}"
    said = await fails(wharf, "pull", f"{address}/one:1", f"{address}/two:1")
    assert said.count(f"the registry {address} cannot be reached: connection refused") == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("images --filter colour=red", 1, "there is no key 'colour'"),
        ("image prune --keep -1", 1, "--keep -1"),
        ("image prune --unused-for abc", 125, "Write it like 7d"),
        ("image prune --unused-for=-5", 125, "less than nothing"),
        ("registry tags 127.0.0.1:5000", 1, "Write it like 127.0.0.1:5000/NAME"),
        ("pull A:b:c", 1, "invalid image reference"),
        ("tag nothing", 1, "required"),
        ("rmi UPPER", 1, "no such image"),
        ("run", 1, "required"),
        ("create --bogus x", 125, "--bogus"),
        ("exec", 1, "required"),
        ("fsck --remove", 1, "without --repair"),
    ],
)
async def test_bad_words(wharf: Wharf, words: str, code: int, says: str) -> None:
    assert says in await fails(wharf, *words.split(), code=code)


async def test_short_flags(wharf: Wharf) -> None:
    assert (await wharf.ok("history", "-h")).startswith("usage: wharf history")
    assert (await wharf.ok("history", "-H=false", wharf.image)) == await wharf.ok(
        "history", "--human=false", wharf.image
    )
    host = await wharf("run", "--rm", "--network", "none", "-h", "here", wharf.image, "hostname")
    assert (host.code, host.out) == (0, "here\n")


def test_a_registry_or_a_word() -> None:
    assert _split_term("node.js") == ("docker.io", "node.js")
    assert _split_term("team/app") == ("docker.io", "team/app")
    assert _split_term("localhost:5000") == ("localhost:5000", "")
    assert _split_term("registry.lan/") == ("registry.lan", "")
    assert _split_term("registry.lan:5000") == ("registry.lan:5000", "")
    assert _split_term("registry.lan/team/app") == ("registry.lan", "team/app")


@pytest.mark.parametrize("text", ["localhost", "a.lan:5000", "127.0.0.1", "a.lan/"])
def test_a_registry_is_no_repository(text: str) -> None:
    with pytest.raises(InvalidArgument, match="names a registry"):
        parse_repository(text)
