"""The images pane over a real engine: what its keys do."""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Checkbox

from core.engine import Engine
from core.model import ContainerSpec, Pruned, PruneRule
from tests.engine.test_images_layers import layered, load
from tests.patience import patience
from tests.registry import htpasswd, push, registry
from tests.tui.test_app_live import ended, own_folders, shown, until
from tests.tui.typing import burst
from tui.app import WharfApp
from tui.screens.confirm import ConfirmScreen
from tui.screens.find import FindScreen
from tui.screens.history import ChecksScreen
from tui.screens.jobs import JobsScreen
from tui.screens.layers import LayersScreen
from tui.screens.names import ChooseScreen, LoginScreen, TagScreen
from tui.screens.outcome import ChangesScreen, CommitScreen, ExportScreen
from tui.screens.pull import ImportScreen, LoadScreen, PullScreen, PushScreen, SaveScreen
from tui.screens.registry import SearchScreen
from tui.screens.usage import PruneScreen, UsageScreen
from tui.snapshot import image_name
from tui.widgets.linetable import LineTable

__all__ = ["own_folders"]
pytestmark = pytest.mark.real
SIZES = [(80, 24), (200, 50)]


@pytest.mark.parametrize("size", SIZES)
async def test_layers_tree_and_search(engine: Engine, tmp_path: Path, size: tuple[int, int]) -> None:
    await load(engine, layered(tmp_path))
    app = WharfApp(engine)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2\rkc")  # the third layer, its changes only
        await until(pilot, lambda: isinstance(app.screen, LayersScreen) and "removed" in shown(app))
        words = shown(app)
        assert "111kB (5%) wasted" in words
        assert "kept" not in words
        assert all(name in words for name in ("opt/", "old", "new", "srv/", "changed", "swap"))
        burst(app, "/srv/changed\r")
        await until(pilot, lambda: "2 found" in shown(app) and ("replaced by 3" in shown(app) or size == (80, 24)))
        burst(app, "\r")  # shows it in its layer
        await until(pilot, lambda: "not\ufffdtext" in shown(app))
        assert app.screen.query_one("#layers-files", LineTable).cursor_key == "srv/changed"
        assert app.screen.query_one("#layers-layers", LineTable).cursor_key == "2"
        burst(app, "G\x1b[D/[z-a]\r")
        await until(pilot, lambda: isinstance(app.screen, LayersScreen))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: app.screen is app.desk)


async def test_folders_open_and_close(engine: Engine, tmp_path: Path) -> None:
    await load(engine, layered(tmp_path))
    app = WharfApp(engine)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2l\t")
        await until(pilot, lambda: isinstance(app.screen, LayersScreen) and "srv/" in shown(app))
        files = app.screen.query_one("#layers-files", LineTable)
        await until(pilot, lambda: files.has_focus)
        files.move_to("srv")
        burst(app, "\r")
        await until(pilot, lambda: "srv/kept" in {row.key for row in files.rows})
        burst(app, "jhh")  # to what is in it; out to the folder, which closes
        await until(pilot, lambda: "srv/kept" not in {row.key for row in files.rows})
        assert files.cursor_key == "srv"
        burst(app, "\x1b[C")
        await until(pilot, lambda: "srv/kept" in {row.key for row in files.rows})


@pytest.mark.parametrize("size", SIZES)
async def test_find_in_all_images_opens_the_layer(
    engine: Engine, tmp_path: Path, busybox_image: str, size: tuple[int, int]
) -> None:
    await load(engine, layered(tmp_path))
    app = WharfApp(engine)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 2)
        burst(app, "2fno-such-file\r")
        await until(pilot, lambda: isinstance(app.screen, FindScreen) and "no layer has it" in shown(app))
        await pilot.press("escape")
        burst(app, "f/srv/removed\r")
        await until(pilot, lambda: isinstance(app.screen, FindScreen) and " found" in shown(app))
        widths = {slot.column.key: slot.width for slot in app.screen.query_one("#hits", LineTable)._slots}
        assert widths["path"] >= 30  # not shared with names that are shorter
        burst(app, "\r")
        await until(pilot, lambda: isinstance(app.screen, LayersScreen) and "removed" in shown(app))
        assert app.screen.query_one("#layers-files", LineTable).cursor_key == "srv/removed"


async def test_image_that_is_gone_says_so(engine: Engine, busybox_image: str) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        app.desk.ticker.pause()
        await engine.remove_image(busybox_image)
        burst(app, "2l")
        await until(pilot, lambda: isinstance(app.screen, LayersScreen) and "no such image" in shown(app))
        await pilot.press("q")
        await until(pilot, lambda: app.screen is app.desk)


async def ask_of(pilot: Pilot[None], screen: type, *words: str) -> None:
    """Wait for a dialog that says this."""
    await until(pilot, lambda: isinstance(pilot.app.screen, screen) and all(word in shown(pilot.app) for word in words))


async def test_tag_untag_and_remove_marked(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    await load(engine, layered(tmp_path))
    app = WharfApp(engine)

    def names() -> list[str]:
        return sorted(tag for image in app.desk.snapshot.images for tag in image.tags)

    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(names()) == 2)
        burst(app, "2/busybox\rt\r")
        await ask_of(pilot, TagScreen, "that is its name already")
        burst(app, "\x15bad name\r")
        await ask_of(pilot, TagScreen, "bad name", "invalid")
        burst(app, "\x15more:2\r")
        await until(pilot, lambda: "docker.io/library/more:2" in names() and app.screen is app.desk)
        burst(app, "u")
        await ask_of(pilot, ChooseScreen, "busybox:test", "more:2")
        burst(app, "j\r")
        await until(pilot, lambda: "docker.io/library/more:2" not in names())
        burst(app, "u")
        await ask_of(pilot, ConfirmScreen, "Untag busybox:test?", "without a name")
        burst(app, "y")
        await until(pilot, lambda: names() == ["docker.io/library/lab:1"])
        await pilot.press("escape")
        await until(pilot, lambda: app.desk.images.table.row_count == 2)
        burst(app, "*d")
        await ask_of(pilot, ConfirmScreen, "Remove 2 images?", "lab:1", "<none>")
        burst(app, "y")
        await until(pilot, lambda: not app.desk.snapshot.images)
    assert await engine.images() == []


async def test_save_asks_before_it_replaces_and_loads_again(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    target = tmp_path / "out.tar"
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        before = app.desk.snapshot.images[0].id
        burst(app, f"2s\x15{target}\r")
        await until(pilot, lambda: app.screen is app.desk and target.exists())
        burst(app, f"s\x15{target}\r")
        await ask_of(pilot, SaveScreen, "already")
        burst(app, "\x15/nowhere/at/all.tar\r")
        await ask_of(pilot, SaveScreen, "no such folder: /nowhere/at")
        await pilot.press("escape")
        burst(app, "dy")
        await until(pilot, lambda: not app.desk.snapshot.images)
        burst(app, f"L{target}\r")
        await until(pilot, lambda: [image.id for image in app.desk.snapshot.images] == [before])
        assert app.desk.snapshot.images[0].tags == ("docker.io/library/busybox:test",)


async def test_history_opens_the_layer(engine: Engine, tmp_path: Path) -> None:
    await load(engine, layered(tmp_path))
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2hj\r")  # the second from the top is layer 3
        await ask_of(pilot, LayersScreen, "wasted")
        assert app.screen.query_one("#layers-layers", LineTable).cursor_key == "3"
        await pilot.press("escape")
        burst(app, "hq")
        await until(pilot, lambda: app.screen is app.desk)


async def test_push_with_progress_and_what_goes_wrong(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    app = WharfApp(engine)
    with registry(tmp_path / "registry") as host:
        await engine.tag(busybox_image, f"{host}/team/box:1")
        async with app.run_test(size=(100, 30), notifications=True) as pilot:
            await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
            burst(app, "2p\x15127.0.0.1:9/box:1\r")
            await ask_of(pilot, PushScreen, "no image has the tag 127.0.0.1:9/box:1")
            burst(app, f"\x15{host}/team/box:1\r")
            await until(pilot, lambda: "is pushed" in shown(app), 30)
            await pilot.press("J")
            await ask_of(pilot, JobsScreen, f"push {host}/team/box:1", "done")
        async for _ in engine.pull(f"{host}/team/box:1"):
            pass


async def test_login_push_check_and_logout(
    own_settings: Path, engine: Engine, busybox_image: str, tmp_path: Path
) -> None:
    app = WharfApp(engine)
    users = htpasswd(tmp_path / "htpasswd", "ann", "se cret ")
    with registry(tmp_path / "registry", htpasswd=users) as host:
        await engine.tag(busybox_image, f"{host}/team/box:1")
        await engine.untag(busybox_image, [busybox_image])
        async with app.run_test(size=(100, 30), notifications=True) as pilot:
            await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
            burst(app, "2p\r")
            await ask_of(pilot, PushScreen, "wharf login")  # which registry, and how to log in
            await pilot.press("escape")
            burst(app, f"A{host}\tann\tguessed\r")
            await ask_of(pilot, LoginScreen, "refuses the credentials of ann")
            assert "guessed" not in shown(app)  # a password is not shown
            burst(app, "\x15se cret \r")
            await until(pilot, lambda: f"logged in to {host} as ann" in shown(app) and app.screen is app.desk)
            burst(app, "p\r")
            await until(pilot, lambda: "is pushed" in shown(app) and app.screen is app.desk, 30)
            burst(app, "v")
            await ask_of(pilot, ChecksScreen, f"{host}/team/box:1", "current", "0 of 1")
            burst(app, "q")
            await until(pilot, lambda: app.screen is app.desk)
            burst(app, f"O{host}\r")
            await until(pilot, lambda: f"logged out of {host}" in shown(app) and app.screen is app.desk)
            burst(app, "p\r")
            await ask_of(pilot, PushScreen, "wharf login")


@pytest.mark.parametrize("size", SIZES)
async def test_search_then_tags_then_pull(engine: Engine, archive: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    app = WharfApp(engine)
    with registry(tmp_path / "registry") as host:
        for tag in ("1", "2"):
            push(f"oci-archive:{archive}", f"{host}/team/box:{tag}")
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.desk.snapshot.listed)
            burst(app, f"2R{host}/nothing-like-it\r")
            await ask_of(pilot, SearchScreen, "0 found")
            burst(app, f"\x15{host}/box\r")
            await ask_of(pilot, SearchScreen, f"{host}/team/box")
            burst(app, "\rj\r")
            await ask_of(pilot, PullScreen, f"{host}/team/box:1")
            burst(app, "\r")
            await until(pilot, lambda: [image.tags for image in app.desk.snapshot.images] == [(f"{host}/team/box:1",)])


async def test_commit_changes_and_export(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    made = await engine.create(
        ContainerSpec(
            image=busybox_image,
            name="box",
            command=("sh", "-c", "echo new > /new; rm /etc/notexec; exec sleep 600"),
            network="none",
            stop_signal="SIGKILL",
        )
    )
    await engine.start(made.id)
    async with asyncio.timeout(patience(20)):
        while len(await engine.changes(made.id)) < 3:  # both, and the folder of the second
            await asyncio.sleep(0.02)
    app = WharfApp(engine)
    target = tmp_path / "files.tar"
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.desk.chosen == made.id)
        burst(app, "D")
        await ask_of(pilot, ChangesScreen, "/new", "/etc/notexec", "deleted", "1 added")
        burst(app, "qMteam/made:1\t why\t\tCMD [\r")
        await ask_of(pilot, CommitScreen, "CMD")
        assert not any("team/made:1" in tag for image in await engine.images() for tag in image.tags)
        burst(app, "\x1b[F" + "\x7f" * 5 + "\r")
        await until(pilot, lambda: len(app.desk.snapshot.images) == 2 and app.screen is app.desk)
        burst(app, f"W\x15{target}\r")
        await until(pilot, target.exists)
        await until(pilot, lambda: app.screen is app.desk)
    with tarfile.open(target) as archive:
        assert {"new", "etc/passwd"} <= {name.removeprefix("./") for name in archive.getnames()}
    assert list(tmp_path.glob(".*.part")) == []


@pytest.mark.parametrize("size", SIZES)
async def test_disk_usage_leads_to_prune_which_shows_before_it_removes(
    engine: Engine, busybox_image: str, tmp_path: Path, size: tuple[int, int]
) -> None:
    await load(engine, layered(tmp_path))
    await engine.create(ContainerSpec(image=busybox_image, name="keeps", command=("true",), network="none"))
    app = WharfApp(engine)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 2)
        burst(app, "U")
        await ask_of(pilot, UsageScreen, "images", "total", "lab:1", "container keeps")
        burst(app, "B\r")  # only nameless ones: there are none
        await until(pilot, lambda: "nothing to prune" in shown(app) and app.screen is app.desk)
        burst(app, "2Bmany\r")
        await ask_of(pilot, PruneScreen, "invalid duration")
        burst(app, "\x15\tx\r")
        await ask_of(pilot, PruneScreen, "keep is a number")
        app.screen.query_one("#all", Checkbox).value = True
        burst(app, "\x15\r")
        await ask_of(pilot, ConfirmScreen, "Remove 1 image?", "lab:1")
        burst(app, "n")
        await until(pilot, lambda: app.screen is app.desk)
        assert len(await engine.images()) == 2
        burst(app, "B\t\t\t\t \ry")  # down to the box, checked; show; yes
        await until(pilot, lambda: [image_name(image) for image in app.desk.snapshot.images] == ["busybox:test"])
        await until(pilot, lambda: "given back" in shown(app))


async def test_import_of_what_was_exported(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    box = await engine.create(ContainerSpec(busybox_image, name="box"))
    archive = tmp_path / "files.tar"
    await engine.export(box.id, archive)
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: bool(app.desk.snapshot.images))
        burst(app, f"2I{tmp_path}/nothing\r")
        await ask_of(pilot, ImportScreen, "does not exist")
        await pilot.press("escape")
        burst(app, f'I{archive}\tbare:1\tCMD ["echo", "it runs"]\r')
        await until(pilot, lambda: "bare:1" in map(image_name, app.desk.snapshot.images))
    made = await engine.image("bare:1")
    assert made.config.cmd == ("echo", "it runs")
    run = await engine.create(ContainerSpec("bare:1"))
    await engine.start(run.id)
    assert await engine.wait(run.id) == 0


@pytest.mark.parametrize("place", ["~nobody-of-that-name/x.tar", "/" + "x" * 300, "/dev/null/x.tar"])
async def test_places_that_cannot_be(engine: Engine, busybox_image: str, place: str) -> None:
    """What the file system refuses to tell anything of is no end of the workstation."""
    await engine.create(ContainerSpec(busybox_image, name="box"))
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: bool(app.desk.snapshot.images and app.desk.snapshot.containers))
        for keys, screen in (("L", LoadScreen), ("2s\x15", SaveScreen), ("1W\x15", ExportScreen)):
            burst(app, f"{keys}\x1b[200~{place}\x1b[201~\r")  # pasted
            words = "does not exist" if screen is LoadScreen else "too long" if "xxx" in place else "no such folder"
            await ask_of(pilot, screen, words)
            await pilot.press("escape")


async def test_a_question_that_nobody_waits_for_any_more(
    engine: Engine, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Esc while prune still looks: what it finds must not lie below the keys of something else."""
    looked, prune = asyncio.Event(), engine.prune_images

    async def slowly(rule: PruneRule) -> Pruned:
        await looked.wait()
        return await prune(rule)

    monkeypatch.setattr(engine, "prune_images", slowly)
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2B\t\t\t\t \r")
        await until(pilot, lambda: isinstance(app.screen, PruneScreen) and app.screen.at_work)
        while app.screen is not app.desk:
            burst(app, "\x1b")
            await pilot.pause(0.1)
        looked.set()
        await until(pilot, lambda: not app.desk.jobs.running)
        await pilot.pause()
        assert app.screen is app.desk


async def test_only_what_was_shown_is_pruned(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    """What comes while the question stands open is not in it."""
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2B\t\t\t\t \r")
        await ask_of(pilot, ConfirmScreen, "Remove 1 image?", "busybox:test")
        await load(engine, layered(tmp_path))
        burst(app, "y")
        await until(pilot, lambda: ended(app, "prune images"))
    assert [image.tags for image in await engine.images()] == [("docker.io/library/lab:1",)]


async def test_a_name_that_moves_before_the_yes(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    """The image that was asked about goes, or none."""
    await load(engine, layered(tmp_path))
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 2)
        burst(app, "2/busybox\rd")
        await ask_of(pilot, ConfirmScreen, "Remove image busybox:test")
        await engine.tag("lab:1", "busybox:test")
        burst(app, "y")
        await until(pilot, lambda: "names another image by now" in shown(app))
    assert len(await engine.images()) == 2
    assert (await engine.image("busybox:test")).tags == ("docker.io/library/busybox:test", "docker.io/library/lab:1")


async def test_inspect_is_copied_when_it_is_there(engine: Engine, busybox_image: str) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2ic")
        await until(pilot, lambda: "RepoTags" in app.clipboard)
