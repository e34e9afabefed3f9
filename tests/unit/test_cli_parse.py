"""From words to a ContainerSpec and to other arguments, and every refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.cli import main
from core.cli.command import Arguments, Command, Parser
from core.cli.inspect import COMMANDS as INSPECT
from core.cli.logs import COMMANDS as LOGS
from core.cli.ps import COMMANDS as PS
from core.cli.run import COMMANDS as RUN
from core.cli.spec_options import build_spec
from core.cli.terminal import DetachFinder, parse_keys
from core.cli.verbs import LONG_FORMS, VERBS, find_verb, overview
from core.errors import InvalidArgument
from core.model import (
    ContainerSpec,
    Healthcheck,
    LogOptions,
    Mount,
    PortMapping,
    Resources,
    RestartPolicy,
)
from core.options import parse_link, parse_mount, parse_ports, parse_tmpfs, parse_volume
from core.units import parse_when


def parse(*words: str) -> Arguments:
    return Parser("run", RUN["run"], "Run", stop_early=True).read(words)


def spec(*words: str) -> ContainerSpec:
    return build_spec(parse(*words))


def test_an_image_alone() -> None:
    assert spec("debian:12") == ContainerSpec(image="debian:12")


def test_options_end_at_the_image() -> None:
    made = spec("-i", "-t", "--name", "x", "busybox", "sh", "-c", "exit", "--rm", "--name=y", "--tty=false", "--", "-d")
    assert made.command == ("sh", "-c", "exit", "--rm", "--name=y", "--tty=false", "--", "-d")
    assert (made.name, made.tty, made.stdin_open, made.auto_remove) == ("x", True, True, False)


def test_joined_short_options() -> None:
    args = parse("-itd", "-p8080:80", "-eA=1", "-m", "64m", "busybox", "sh")
    assert (args.interactive, args.tty, args.detach) == (True, True, True)
    made = build_spec(args)
    assert made.ports == (PortMapping(80, 8080),)
    assert made.env == ("A=1",)
    assert made.resources.memory == 64 * 1024 * 1024


def test_booleans_with_a_value() -> None:
    assert spec("--rm=true", "--read-only=1", "--init=false", "x") == ContainerSpec(
        "x", auto_remove=True, read_only=True
    )
    assert [parse(*words, "x").sig_proxy for words in ([], ["--sig-proxy"], ["--sig-proxy=false"])] == [
        True,
        True,
        False,
    ]
    with pytest.raises(InvalidArgument, match="run: invalid value 'maybe' for --rm"):
        spec("--rm=maybe", "x")


def test_booleans_as_gos_flags_read_them() -> None:
    """The value goes to the last of several in one word; the others are on."""
    for words, expected in (
        (["-ti=false"], (True, False)),
        (["-it=F"], (False, True)),
        (["-i=false"], (False, False)),
        (["-ti=TRUE"], (True, True)),
        (["--tty=false", "-i"], (False, True)),
        (["-it", "--tty=0"], (False, True)),
    ):
        args = parse(*words, "x")
        assert (args.tty, args.interactive) == expected, words
    for wrong in ("-ti=yes", "--tty=TrUe", "-t="):
        with pytest.raises(InvalidArgument, match="it takes true or false"):
            parse(wrong, "x")
    assert parse("-e=A=1", "x").env == ["A=1"]  # a value that has one too


def test_the_last_of_several_flags_counts() -> None:
    for words, expected in (
        (["--rm=false", "--rm"], True),
        (["--rm=0", "--rm=1"], True),
        (["--rm", "--rm=false"], False),
        (["--rm=false", "--rm", "--rm=F"], False),
    ):
        assert parse(*words, "x").rm is expected, words
    args = parse("-t=false", "-i=false", "-ite", "A=B", "x")
    assert (args.tty, args.interactive, args.env) == (True, True, ["A=B"])
    assert Parser("ps", PS["ps"], "List").read(["-a=false", "-a"]).all


def test_the_last_of_joined_options_has_a_value() -> None:
    for words, expected in (
        (["-itp=80:80", "-te=A=B"], (["80:80"], ["A=B"])),
        (["-itp80:80", "-teA=B"], (["80:80"], ["A=B"])),
        (["-it=false", "-tp", "80:80", "-e=A==B"], (["80:80"], ["A==B"])),
    ):
        args = parse(*words, "x")
        assert (args.publish, args.env, args.tty) == (*expected, True), words


def test_flags_with_values_behind_names() -> None:
    """A name that ends like an option that takes a value takes none."""
    for words in (["an", "--follow=true"], ["xn", "-f=true"], ["n", "-f"]):
        assert Parser("logs", LOGS["logs"], "Logs").read(words).follow, words
    assert Parser("inspect", INSPECT["inspect"], "Show").read(["xf", "--size=true"]).size


def test_everything_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file, labels = tmp_path / "env", tmp_path / "labels"
    env_file.write_text("# no\n\nFROM_FILE=1\nA=file\nHERE\n")
    labels.write_text("team=blue\n")
    monkeypatch.setenv("HERE", "mine")
    monkeypatch.delenv("NOT_HERE", raising=False)
    words = f"""--name n -p 80 -P -v /a:/b:ro --mount type=volume,src=v,dst=/v --tmpfs /t:size=1m -e A=1 -e NOT_HERE
        --env-file {env_file} -w /w -u 1:2 -h host --domainname d -l k=v -l bare --label-file {labels} -m 1g
        --memory-swap -1 --memory-reservation 512m --cpus 1.5 --cpu-shares 10 --cpuset-cpus 0-1 --cpuset-mems 0
        --pids-limit 9 --network none --restart on-failure:3 --health-cmd true --health-interval 5s
        --health-timeout 1m --health-start-period 10 --health-retries 2 --entrypoint /e --cap-add NET_ADMIN
        --cap-drop ALL --security-opt no-new-privileges --privileged --read-only --init --sysctl a.b=1
        --ulimit nofile=1:2 --dns 9.9.9.9 --add-host h:1.1.1.1 --stop-signal INT --stop-timeout 3 --shm-size 1m
        --log-opt max-size=1m --log-opt max-file=5 img a b"""
    assert spec(*words.split()) == ContainerSpec(
        image="img",
        name="n",
        command=("a", "b"),
        entrypoint=("/e",),
        env=("FROM_FILE=1", "A=1", "HERE=mine"),
        working_dir="/w",
        user="1:2",
        hostname="host",
        domainname="d",
        labels={"team": "blue", "k": "v", "bare": ""},
        network="none",
        ports=(PortMapping(80),),
        publish_all=True,
        mounts=(
            Mount("bind", "/a", "/b", True, make=True),
            Mount("volume", "v", "/v"),
            Mount("tmpfs", "", "/t", False, ("size=1m",)),
        ),
        resources=Resources(
            memory=1024**3,
            memory_swap=-1,
            memory_reservation=512 * 1024**2,
            nano_cpus=1_500_000_000,
            cpu_shares=10,
            cpuset_cpus="0-1",
            cpuset_mems="0",
            pids_limit=9,
        ),
        restart=RestartPolicy("on-failure", 3),
        healthcheck=Healthcheck(("CMD-SHELL", "true"), 5.0, 60.0, 10.0, 2),
        log=LogOptions(1024**2, 5),
        init=True,
        privileged=True,
        read_only=True,
        cap_add=("NET_ADMIN",),
        cap_drop=("ALL",),
        security_opt=("no-new-privileges",),
        sysctls={"a.b": "1"},
        ulimits=("nofile=1:2",),
        dns=("9.9.9.9",),
        extra_hosts=("h:1.1.1.1",),
        stop_signal="INT",
        stop_timeout=3.0,
        shm_size=1024**2,
    )


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--bogus x",
        "--nam x y",  # no abbreviations
        "--cpus much x",
        "--memory lots x",
        "--rm --restart always x",
        "--restart sometimes x",
        "--restart always:3 x",
        "--restart on-failure:x x",
        "--cpus 1 --cpu-quota 5 x",
        "--cpus -1 x",
        "--env =x x",
        "--env-file /nonexistent/file x",
        "--health-cmd a --no-healthcheck x",
        "--health-cmd a --health-interval soon x",
        "--log-opt max-size x",
        "--log-opt max-file=0 x",
        "--log-opt tag=x x",
        "--sysctl a x",
        "--pull perhaps x",
        "-p",
    ],
)
def test_refused(words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        spec(*words.split())
    assert caught.value.what


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [PortMapping(80)]),
        ("8080:80", [PortMapping(80, 8080)]),
        ("53:53/udp", [PortMapping(53, 53, "udp")]),
        ("53:53/UDP", [PortMapping(53, 53, "udp")]),
        ("127.0.0.1:8080:80", [PortMapping(80, 8080, "tcp", "127.0.0.1")]),
        ("127.0.0.1::80", [PortMapping(80, 0, "tcp", "127.0.0.1")]),
        ("[::1]:8080:80/tcp", [PortMapping(80, 8080, "tcp", "::1")]),
        ("8000-8002:80-82", [PortMapping(80, 8000), PortMapping(81, 8001), PortMapping(82, 8002)]),
        ("90-91", [PortMapping(90), PortMapping(91)]),
        ("9899:9899/sctp", [PortMapping(9899, 9899, "sctp")]),
        ("8000-8002:80", [PortMapping(80, 8000, host_port_last=8002)]),
    ],
)
def test_ports(text: str, expected: list[PortMapping]) -> None:
    assert parse_ports(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0",
        "65536",
        "80:",
        "1:2:3:4",
        "8080:80/icmp",
        "8000-8002:80-81",
        "82-80:80-82",
        "300.1.1.1:1:2",
        "a:1:2",
        "²",
    ],
)
def test_ports_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid port"):
        parse_ports(text)


def test_links() -> None:
    assert (parse_link("db"), parse_link("db:Base"), parse_link("/db:b")) == (("db", ""), ("db", "Base"), ("db", "b"))
    for wrong in ("", ":", "db:", ":alias", "a:b:c", "/"):
        with pytest.raises(InvalidArgument, match="NAME:ALIAS"):
            parse_link(wrong)


def test_volumes_and_mounts() -> None:
    assert parse_volume("/a:/b") == Mount("bind", "/a", "/b", make=True)
    assert parse_volume("./a:/b:rw,z,rshared") == Mount(
        "bind", os.path.abspath("a"), "/b", False, ("rshared",), make=True
    )
    assert parse_volume("data:/b:ro") == Mount("volume", "data", "/b", True)
    nameless = parse_volume("/b")
    assert (nameless.kind, len(nameless.source), nameless.target) == ("volume", 64, "/b")
    assert parse_tmpfs("/t") == Mount("tmpfs", "", "/t")
    assert parse_tmpfs("/t:size=1m,mode=700") == Mount("tmpfs", "", "/t", False, ("size=1m", "mode=700"))
    assert parse_mount("type=bind,source=/a,target=/b,readonly") == Mount("bind", "/a", "/b", True)
    assert parse_mount("type=bind,src=/a,dst=/b,bind-propagation=rslave,ro=false") == Mount(
        "bind", "/a", "/b", False, ("rslave",)
    )
    assert parse_mount("type=tmpfs,destination=/t,tmpfs-size=1m") == Mount("tmpfs", "", "/t", False, ("size=1m",))
    assert len(parse_mount("dst=/v").source) == 64


@pytest.mark.parametrize("text", ["", "a:", ":/b", "/a:/b:ro:x", "/a:b", "name:rel"])
def test_volumes_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_volume(text)


@pytest.mark.parametrize(
    "text", ["type=bind,dst=/b", "type=npipe,src=a,dst=/b", "type=bind,src=/a,dst=b", "foo=1,dst=/b"]
)
def test_mounts_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_mount(text)


def test_times() -> None:
    assert parse_when("1714564800.5") == 1714564800.5
    assert parse_when("2024-05-01T12:00:00Z") == 1714564800.0
    assert parse_when("2024-05-01T12:00:00.123456789Z") == pytest.approx(1714564800.123456)
    assert parse_when("2024-05-01T14:00:00.5+02:00") == 1714564800.5
    assert parse_when("2024-05-01") == time.mktime((2024, 5, 1, 0, 0, 0, 0, 0, -1))
    assert parse_when("1h30m", now=10_000.0) == 4600.0
    for wrong in ("", "soon", "2024-13-01"):
        with pytest.raises(InvalidArgument):
            parse_when(wrong)


def test_detach_keys() -> None:
    assert parse_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_keys("a,ctrl-[") == b"a\x1b"
    assert parse_keys("") == b""
    for wrong in ("ctrl-", "ctrl-pp", "ctrl-1", "ab"):
        with pytest.raises(InvalidArgument):
            parse_keys(wrong)
    finder = DetachFinder(b"\x10\x11")
    assert finder.feed(b"ab\x10") == (b"ab", False)
    assert finder.feed(b"c\x10") == (b"\x10c", False)
    assert finder.feed(b"\x10") == (b"\x10", False)
    assert finder.feed(b"\x11x") == (b"", True)
    assert DetachFinder(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


def test_verbs_are_found() -> None:
    assert find_verb(["ps", "-a"]) == ("ps", ["-a"])
    assert find_verb(["container", "ls", "-a"]) == ("ps", ["-a"])
    assert find_verb(["image", "rm", "x"]) == ("rmi", ["x"])
    assert find_verb(["network", "ls"]) == ("network ls", [])
    assert find_verb(["container", "stop", "x"]) == ("stop", ["x"])
    assert find_verb(["network", "bogus"]) is None
    assert find_verb(["pss"]) is None


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: wharf {name}")
    assert "examples:\n  wharf " in text
    assert name in overview()


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--bogus", "x"]) == 125
    assert main(["nonsense"]) == 1
    assert main(["images", "--bogus"]) == 125
    assert main(["create"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "wharf: run: unrecognized arguments: --bogus. See `wharf run --help`",
        "wharf: 'nonsense' is not a wharf command. See `wharf --help`",
        "wharf: images: unrecognized arguments: --bogus. See `wharf images --help`",
        "wharf: create: the following arguments are required: IMAGE. See `wharf create --help`",
    ]


def test_examples_in_the_help_parse() -> None:
    """What the help shows really is understood."""
    import shlex
    from importlib import import_module

    for name, verb in VERBS.items():
        command: Command = import_module(f"core.cli.{verb.module}").COMMANDS[name]
        for example in command.examples:
            words = shlex.split(example, comments=False)
            if words[0] != "wharf" or any(mark in example for mark in ("$(", "|", "&&", ">")):
                continue
            found = find_verb(words[1:])
            assert found is not None, example
            if found[0] == name:
                Parser(name, command, "", stop_early=verb.stop_early).read(found[1])


def test_the_command_line_starts_lightly() -> None:
    """The words, argparse and asyncio: no screen, no web, no netlink library, and no engine before it is needed."""
    code = "import sys, json; from core.cli import main; main(['ps', '--help']); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    heavy = {"textual", "rich", "aiohttp", "pyroute2", "ssl", "sqlite3", "psutil", "core.local", "core.net"}
    assert not heavy & set(modules)


@pytest.mark.parametrize("first", list(LONG_FORMS))
def test_a_group_tells_what_is_in_it(first: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([first]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    found = {name: (find_verb([first, name]) or ("", []))[0] for name in told}
    assert {name: VERBS[verb].summary for name, verb in found.items()} == told
    assert set(found.values()) >= set(LONG_FORMS[first].values())
