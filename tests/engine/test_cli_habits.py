"""What somebody's fingers know from docker, on the command line in this process, with real containers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.cli import main
from core.engine import Engine
from core.local_storage import StorageVerbs
from core.model import ContainerSpec, Healthcheck
from core.ops import sizes
from core.store.paths import Instance
from tests.patience import patience
from tests.ports import free_port
from tests.world import assert_world

pytestmark = pytest.mark.real
IMAGE = "busybox:test"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(inst: Instance, archive: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Runs one command line; gives its exit code, its output and what it complains of."""

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["--root", str(inst.root), "--run", str(inst.run), *words])
        return code, *capfd.readouterr()

    assert run("load", "-q", "-i", str(archive))[0] == 0
    yield run
    assert_world(inst)


@pytest.mark.parametrize(("word", "code", "says"), [("nosuch", 127, "nosuch"), ("/etc/passwd", 126, "ermission")])
def test_a_failed_start_is_remembered(cli: Cli, word: str, code: int, says: str) -> None:
    """Until the next start that succeeds, by every engine that looks."""
    assert cli("create", "--name", "cn", IMAGE, "sh", "-c", "ls")[0] == 0
    assert cli("create", "--name", "bad", IMAGE, word)[0] == 0
    assert cli("wait", "bad") == (0, "0\n", "")
    failed, _, complaint = cli("start", "bad")
    assert failed == 1
    assert says in complaint
    state = json.loads(cli("inspect", "-f", "{{json .State}}", "bad")[1])
    assert (state["Status"], state["ExitCode"]) == ("created", code)
    assert says in state["Error"]
    assert cli("wait", "bad") == (0, f"{code}\n", "")


def test_a_start_that_succeeds_clears_the_failure(cli: Cli) -> None:
    """What is no fault of the command is 128; here a port that somebody has."""
    port = f"{free_port()}"
    hold, want = (("create", "--name", name, "-p", f"127.0.0.1:{port}:80", IMAGE, "true") for name in ("one", "two"))
    assert cli("run", "-d", "--name", "zero", "-p", f"127.0.0.1:{port}:80", IMAGE, "sleep", "100")[0] == 0
    assert (cli(*hold)[0], cli(*want)[0]) == (0, 0)
    assert cli("start", "two")[0] == 1
    form = ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", "two")
    assert cli(*form)[1].startswith("created 128 ")
    assert port in cli(*form)[1]
    assert cli("rm", "-f", "zero")[0] == 0
    assert cli("start", "two")[0] == 0
    assert cli("wait", "two") == (0, "0\n", "")
    assert cli(*form)[1] == "exited 0 \n"


def test_what_was_not_removed_is_not_printed(cli: Cli) -> None:
    assert cli("create", "--name", "cn", IMAGE)[0] == 0
    code, out, complaint = cli("rm", "-f", "nosuch")
    assert (code, out) == (0, "")
    assert "no such container: nosuch" in complaint
    code, out, complaint = cli("rm", "-f", "nosuch", "cn")
    assert (code, out) == (0, "cn\n")
    assert "no such container: nosuch" in complaint


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        ("ps", "status=foo"),
        ("ps", "health=well"),
        ("ps", "is-task=maybe"),
        ("ps", "exited=x"),
        ("images", "dangling=maybe"),
        ("network ls", "dangling=maybe"),
        ("network ls", "type=foo"),
        ("network ls", "scope=foo"),
        ("search 127.0.0.1:1/x", "stars=x"),
        ("search 127.0.0.1:1/x", "is-official=maybe"),
    ],
)
def test_filters_refuse_what_no_object_can_be(cli: Cli, verb: str, word: str) -> None:
    code, out, complaint = cli(*verb.split(), "--filter", word)
    assert (code, out) == (1, "")
    assert f"invalid filter '{word}'" in complaint


def test_filters_of_fixed_sets_take_all_of_them(cli: Cli) -> None:
    assert cli("create", "--name", "cn", IMAGE)[0] == 0
    names = ("--format", "{{.Names}}")
    assert cli("ps", "-a", "-f", "is-task=false", *names)[1] == "cn\n"
    assert cli("ps", "-a", "-f", "is-task=true", *names)[1] == ""
    assert cli("ps", "-f", "status=created", "-f", "health=none", *names)[1] == "cn\n"
    assert cli("network", "ls", "-f", "type=custom", "-f", "dangling=TRUE", "-q")[:2] == (0, "")


def test_a_port_for_later_says_so(cli: Cli) -> None:
    port = free_port()
    assert cli("create", "--name", "cn", IMAGE)[0] == 0
    code, out, complaint = cli("port", "add", "cn", f"{port}:80")
    assert (code, out) == (0, "")
    assert f"{port}:80 will be published at its next start" in complaint


def test_a_bad_word_costs_as_much_as_a_missing_one(cli: Cli) -> None:
    assert cli("create", "--name", "cn", IMAGE)[0] == 0
    assert [
        cli("port", *words)[0] for words in (("add", "cn"), ("add", "cn", "abc"), ("rm", "cn", "x"), ("cn", "y"))
    ] == [
        1,
        1,
        1,
        1,
    ]
    assert cli("ps", "--nosuch")[0] == 125
    assert cli("create", "-m", "much", IMAGE)[0] == 125


def test_ports_of_the_hosts_network_are_discarded(cli: Cli) -> None:
    """Docker warns and runs."""
    code, out, complaint = cli("run", "--rm", "--network", "host", "-p", "80:80", "-P", IMAGE, "echo", "ran")
    assert (code, out) == (0, "ran\n")
    assert "published ports are discarded" in complaint


def test_a_host_folder_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    """``-v`` makes it, at every start; ``--mount`` refuses."""
    folder = tmp_path / "not" / "there"
    old = os.umask(0o077)
    try:
        assert cli("run", "--name", "cn", "-v", f"{folder}:/x", IMAGE, "touch", "/x/file")[0] == 0
    finally:
        os.umask(old)
    assert (folder / "file").exists()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o755, 0o755]
    shutil.rmtree(folder)
    assert cli("start", "-a", "cn")[0] == 0
    assert (folder / "file").exists()
    code, _, complaint = cli("run", "--mount", f"type=bind,src={tmp_path}/no,dst=/x", IMAGE, "true")
    assert code == 125
    assert "does not exist on this host" in complaint
    assert not (tmp_path / "no").exists()
    code, _, complaint = cli("run", "-v", f"{folder}/file/below:/x", IMAGE, "true")
    assert code == 125
    assert "cannot be made: not a directory" in complaint


@pytest.mark.parametrize(
    ("words", "code", "says", "not_said"),
    [
        ("create -v rel/path:/x IMAGE", 125, "Write a folder of this machine as ./rel/path", "a-z"),
        ("create --env-file nofile IMAGE", 125, "cannot read --env-file nofile: there is no such file", "Errno"),
        ("create --env-file / IMAGE", 125, "it is a folder", "Errno"),
        ("create --stop-timeout=x IMAGE", 125, "invalid value 'x' for --stop-timeout: it is not a number", "float"),
        ("create --cpu-shares=x IMAGE", 125, "for -c/--cpu-shares: it is not a whole number", "int value"),
        ("create --tmpfs /x:size=zz IMAGE", 1, "'zz' is no value for size. Write it like size=64m", "not known"),
        ("create --tmpfs /x:sise=1m IMAGE", 1, "it is not known", "no value"),
        ("load -q -i /dev/null", 1, "/dev/null is empty", "manifest"),
        ("load -i nosuch", 1, "no such file: nosuch", "Reading"),
        ("update --memory 5m cn", 1, "memory limit of 5m: the least is 6m", "bytes"),
        ("pss", 1, "Did you mean `wharf ps`?", "--nothing"),
        ("image lss", 1, "Did you mean `wharf image ls`?", "--nothing"),
        ("cp a b", 1, "'cp' is a command of docker that is not there yet. Out: `wharf export", "mean"),
        ("container rename a b", 1, "'rename' is a command of docker that is not there yet", "mean"),
        ("container prune", 1, "`wharf rm $(wharf ps -aq -f status=exited)`", "mean"),
        ("volume ls", 1, "'volume' is a command of docker", "mean"),
        ("system prune -f", 1, "`wharf image prune`", "mean"),
        ("plugin ls", 1, "'plugin' is a command of docker that is not there yet", "mean"),
    ],
)
def test_words_that_say_what_is_wrong(cli: Cli, words: str, code: int, says: str, not_said: str) -> None:
    assert cli("create", "--name", "cn", IMAGE)[0] == 0
    got, out, complaint = cli(*words.replace("IMAGE", IMAGE).split())
    assert (got, out) == (code, "")
    assert says in complaint
    assert not_said not in complaint
    assert complaint.count("\n") == 1


def test_sizes(cli: Cli) -> None:
    script = "head -c 3000000 /dev/urandom >/file"
    assert cli("run", "--name", "full", IMAGE, "sh", "-c", script)[0] == 0
    assert cli("create", "--name", "none", IMAGE)[0] == 0
    own, whole = json.loads(cli("inspect", "-s", "-f", "[{{.SizeRw}},{{.SizeRootFs}}]", "full")[1])
    assert 3_000_000 <= own < 3_100_000
    image = json.loads(cli("inspect", "--type", "image", "-f", "{{.Size}}", IMAGE)[1])
    assert whole == own + image > own
    table = cli("ps", "-a", "-s")[1].splitlines()
    assert table[0].endswith("SIZE")
    shown = dict(line.split("|") for line in cli("ps", "-a", "--format", "{{.Names}}|{{.Size}}")[1].splitlines())
    assert shown["none"].startswith("0B (virtual ")
    assert shown["full"].startswith("3.")
    assert "SizeRw" not in cli("inspect", "full")[1]


def test_only_what_is_shown_is_measured(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; what is removed meanwhile has nothing on the disk."""
    measured: list[str] = []
    real = sizes._written
    monkeypatch.setattr(sizes, "_written", lambda ctx, record: measured.append(record.name) or real(ctx, record))
    for name in ("a", "b", "c"):
        assert cli("create", "--name", name, IMAGE)[0] == 0
    assert cli("inspect", "-s", "a", "b")[0] == 0
    assert sorted(measured) == ["a", "b"]
    measured.clear()
    assert cli("ps", "-s", "-n", "1")[0] == 0
    assert measured == ["c"]

    async def gone(self: object, ids: object = None) -> dict[str, tuple[int, int]]:
        return {}

    monkeypatch.setattr(StorageVerbs, "container_sizes", gone)
    assert cli("inspect", "-s", "-f", "{{.Name}} {{.SizeRw}}", "a")[:2] == (0, "/a 0\n")


def test_an_image_that_lost_its_name_is_shown_by_its_id(cli: Cli) -> None:
    """Also where another image has the name now; one that was named by its id is shown as it was named."""
    form = ("ps", "-a", "--format", "{{.Names}} {{.Image}}")
    number = cli("images", "-q", "--no-trunc", IMAGE)[1].strip().removeprefix("sha256:")
    assert cli("tag", IMAGE, "other")[0] == 0
    for name, image in (("a", IMAGE), ("b", "docker.io/library/other"), ("c", number[:12])):
        assert cli("create", "--name", name, image)[0] == 0
    assert sorted(cli(*form)[1].splitlines()) == [f"a {IMAGE}", "b other", f"c {number[:12]}"]
    assert cli("run", "--name", "d", "other", "touch", "/new")[0] == 0
    assert cli("commit", "d", IMAGE)[0] == 0
    assert cli("untag", "other:latest")[0] == 0
    lines = sorted(cli(*form)[1].splitlines())
    assert lines == [f"{name} {number[:12]}" for name in "abcd"]
    assert f"sha256:{number}" in cli("ps", "-a", "--no-trunc")[1]


def test_options_that_docker_has(cli: Cli) -> None:
    words = (
        "--log-driver",
        "local",
        "--log-opt",
        "max-size=1m",
        "--health-cmd",
        "true",
        "--health-start-interval",
        "2s",
    )
    assert cli("-D", "create", "--name", "cn", *words, "--health-start-period", "9s", IMAGE)[0] == 0
    form = "{{.Config.Healthcheck.StartInterval}} {{.Config.Healthcheck.StartPeriod}}"
    assert cli("inspect", "-f", form, "cn")[1] == "2000000000 9000000000\n"
    assert cli("create", "--log-driver", "json-file", IMAGE)[0] == 0
    assert cli("run", "--name", "said", IMAGE, "echo", "hello")[0] == 0
    assert cli("logs", "--details", "said")[:2] == (0, "hello\n")
    for option, value, says in (
        ("--log-driver", "none", "--log-driver none is not supported: the log is always kept"),
        ("--log-driver", "syslog", "--log-driver syslog is not supported: the engine writes the log itself"),
        ("--storage-opt", "size=1g", "--storage-opt size=1g is not supported: what a container writes has no limit"),
    ):
        code, _, complaint = cli("create", option, value, IMAGE)
        assert code == 125
        assert says in complaint


@pytest.mark.parametrize("words", [("-H", "tcp://x"), ("-Htcp://x",), ("--host=unix:///x",), ("--context", "x")])
def test_there_is_no_server_to_name(words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "ps"]) == 1
    complaint = capfd.readouterr().err
    assert complaint.startswith(
        "wharf: there is no server for -H" if words[0][1] == "H" else "wharf: there is no server for --"
    )
    assert complaint.count("\n") == 1


def test_debug_keeps_the_exit_code(cli: Cli) -> None:
    code, _, complaint = cli("--debug", "create", "--name", "x y", IMAGE)
    assert (code, "Traceback" in complaint) == (cli("create", "--name", "x y", IMAGE)[0], True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("ps --nosuch", 125),
        ("ps -n x", 125),
        ("logs --tail x cn", 125),
        ("logs --since soon cn", 125),
        ("events --until soon", 125),
        ("stop -t x cn", 125),
        ("update --memory x cn", 125),
        ("update --memory 5m cn", 1),
        ("stop", 1),
        ("stop nosuch", 1),
        ("kill -s NONE cn", 1),
        ("exec cn nosuch", 1),
        ("run --name cn IMAGE", 125),
        ("create --name cn IMAGE", 1),
    ],
)
def test_exit_codes_are_as_the_readme_says(cli: Cli, words: str, code: int) -> None:
    assert cli("create", "--name", "cn", IMAGE)[0] == 0
    assert cli(*words.replace("IMAGE", IMAGE).split())[0] == code


async def test_the_start_period_has_an_interval_of_its_own(engine: Engine, busybox_image: str) -> None:
    """With the interval alone nobody would know for an hour."""
    check = Healthcheck(("CMD", "true"), interval=3600.0, start_period=600.0, start_interval=0.05)
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "100"), healthcheck=check))
    await engine.start(box.id)
    async with asyncio.timeout(patience(20)):
        while (await engine.container(box.id)).health != "healthy":
            await asyncio.sleep(0.02)
