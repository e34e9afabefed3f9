"""The pure parts of the workstation: filter language, run form, equivalent command, rates, settings, themes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from core.model import (
    ContainerSpec,
    DeviceMapping,
    EndpointSpec,
    Healthcheck,
    HostSample,
    Mount,
    PortMapping,
    Resources,
    RestartPolicy,
    Sample,
)
from tui import settings
from tui.equivalent import docker_run
from tui.filters import matches, needle
from tui.forms import build_spec
from tui.screens.registry import newest_first
from tui.snapshot import Rates
from tui.theming import load_themes, read_theme, shipped_dir

ROW = {"name": "Web-1", "state": "running", "image": "nginx:1.27", "id": "sha256:abcdef"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", True),
        ("web", True),
        ("web nginx", True),
        ("web redis", False),
        ("!redis", True),
        ("!web", False),
        ("state=run", True),
        ("!state=run", False),
        ("state=exited", False),
        ("team=blue", True),
        ("team=red", False),
        ("nolabel=x", False),
        ("~wb1", True),
        ("~1bw", False),
        ("!", False),
        ("abc", True),
        ("bcd", False),
        ("id=bcd", True),
    ],
)
def test_filter(words: str, found: bool) -> None:
    assert matches(words, ROW, {"team": "blue"}) is found


def test_needle_is_the_first_plain_word() -> None:
    assert needle("!x state=run web y") == "web"
    assert needle("!x") == ""


def test_form_reads_ports_and_mounts_as_the_command_line_does() -> None:
    result = build_spec({"image": "x", "ports": "8080:80 [::1]::53/udp", "mounts": "/srv/a:/a:ro data:/b"}, {})
    assert result.errors == {}
    assert result.spec.ports == (PortMapping(80, 8080), PortMapping(53, 0, "udp", "::1"))
    assert result.spec.mounts == (Mount("bind", "/srv/a", "/a", True, make=True), Mount("volume", "data", "/b"))
    wrong = build_spec({"image": "x", "ports": "80/icmp", "mounts": "a:b", "env": "=1"}, {})
    assert set(wrong.errors) == {"ports", "mounts", "env"}


def test_form_gathers_all_errors_and_keeps_the_rest() -> None:
    result = build_spec({"image": "x", "memory": "lots", "cpus": "0", "env": "A=1 B", "command": 'sh -c "a'}, {})
    assert set(result.errors) == {"memory", "cpus", "env", "command"}
    assert result.spec.image == "x"
    assert set(build_spec({}, {}).errors) == {"image"}


def test_form_refuses_what_contradicts_itself() -> None:
    assert "restart" in build_spec({"image": "x", "restart": "always"}, {"remove": True}).errors
    assert "ports" in build_spec({"image": "x", "network": "host", "ports": "80"}, {}).errors


def test_form_takes_a_line_of_options() -> None:
    line = "--cap-add NET_ADMIN --memory 1g --env A=1 --network none --restart always --device /dev/null"
    values = {"image": "x", "options": line, "memory": "64m", "env": "B=2", "network": "bridge", "restart": "no"}
    result = build_spec(values, {})
    assert result.errors == {}
    assert result.spec == ContainerSpec(
        "x",
        cap_add=("NET_ADMIN",),
        env=("A=1", "B=2"),
        network="none",
        restart=RestartPolicy("always"),
        resources=Resources(memory=64 << 20),
        devices=(DeviceMapping("/dev/null"),),
    )
    assert set(build_spec({"image": "x", "options": "--bogus"}, {}).errors) == {"options"}
    assert set(build_spec({"image": "x", "options": "word"}, {}).errors) == {"options"}


@pytest.mark.parametrize(
    ("network", "line", "mode", "places"),
    [
        ("bridge", "--network web", "web", ()),  # nothing was chosen in the field
        ("web", "--ip 10.7.0.9 --network-alias db", "web", (EndpointSpec("web", ("db",), "10.7.0.9"),)),
        ("web", "--network name=web,alias=db", "web", (EndpointSpec("web", ("db",)),)),
        ("web", "--network back", "web", (EndpointSpec("web"), EndpointSpec("back"))),
        ("none", "--network host", "host", ()),
        ("web", "--dns-search lan --link db:x", "web", ()),
    ],
)
def test_the_networks_of_the_field_and_of_the_options(
    network: str, line: str, mode: str, places: tuple[EndpointSpec, ...]
) -> None:
    result = build_spec({"image": "x", "network": network, "options": line}, {})
    assert result.errors == {}
    assert (result.spec.network, result.spec.networks) == (mode, places)


def test_form_whole() -> None:
    result = build_spec(
        {
            "image": "nginx",
            "name": "web",
            "command": "sh -c 'echo a b'",
            "ports": "8080:80 53/udp",
            "env": "A=1 B='two words'",
            "memory": "64m",
            "cpus": "0.5",
            "pids": "100",
            "restart": "on-failure",
        },
        {"tty": True},
    )
    assert result.errors == {}
    assert result.spec.command == ("sh", "-c", "echo a b")
    assert result.spec.env == ("A=1", "B=two words")
    assert result.spec.resources == Resources(memory=64 << 20, nano_cpus=500_000_000, pids_limit=100)


def test_equivalent_command() -> None:
    spec = ContainerSpec(
        image="nginx",
        name="web",
        command=("echo", "[/] a b"),
        entrypoint=("/bin/sh", "-c"),
        ports=(PortMapping(80, 8080), PortMapping(53, 0, "udp", "127.0.0.1")),
        env=("B=two words",),
        mounts=(Mount("bind", "/srv", "/srv", True, make=True), Mount("tmpfs", "", "/tmp", options=("size=1m",))),
        resources=Resources(memory=64 << 20, nano_cpus=500_000_000),
        restart=RestartPolicy("on-failure", 3),
        healthcheck=Healthcheck(("CMD-SHELL", "true"), interval=2),
    )
    words = shlex.split(docker_run(spec))
    assert words[:5] == ["docker", "run", "-d", "--name", "web"]
    for flag, value in (
        ("-p", "8080:80"),
        ("-p", "127.0.0.1::53/udp"),
        ("-e", "B=two words"),
        ("-v", "/srv:/srv:ro"),
        ("--tmpfs", "/tmp:size=1m"),
        ("--memory", "64m"),
        ("--cpus", "0.5"),
        ("--restart", "on-failure:3"),
        ("--health-cmd", "true"),
        ("--entrypoint", "/bin/sh"),
    ):
        assert any(words[at : at + 2] == [flag, value] for at in range(len(words))), flag
    assert words[-4:] == ["nginx", "-c", "echo", "[/] a b"]


def test_rates_need_two_readings_and_begin_anew_with_a_new_run() -> None:
    rates = Rates()
    assert rates.add([Sample("a", 10.0, cpu_ns=10**9)])["a"].cpu is None
    used = rates.add([Sample("a", 12.0, cpu_ns=2 * 10**9, net_rx=4096)])["a"]
    assert used.cpu == pytest.approx(50.0)
    assert used.net_rx == pytest.approx(2048.0)
    assert rates.add([Sample("a", 13.0, cpu_ns=5)])["a"].cpu is None
    rates.keep([])
    assert rates.add([Sample("a", 14.0, cpu_ns=10**9)])["a"].cpu is None


def test_host_rate() -> None:
    rates = Rates()

    def sample(busy: float, total: float) -> HostSample:
        return HostSample(0.0, 2, busy, total, 0, 0, 0.0, 0, 0)

    assert rates.host(sample(10, 100)).cpu is None
    assert rates.host(sample(11, 104)).cpu == pytest.approx(25.0)
    assert rates.host(sample(11, 104)).cpu is None


def test_shipped_themes_are_whole() -> None:
    themes, problems = load_themes()
    assert problems == []
    assert {"dark", "light", "ansi16", "high-contrast", "nord", "gruvbox"} <= {theme.name for theme in themes}
    for path in shipped_dir().glob("*.toml"):
        assert "text-muted" in read_theme(path).variables


def test_settings_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert settings.load() == settings.Settings()
    folder = tmp_path / "config/wharf"
    (folder / "themes").mkdir(parents=True)
    (folder / "config.toml").write_text('theme = "nord"\nkeys = "k9s"\n[keymap]\n"app.quit" = "Q"\n')
    (folder / "themes/mine.toml").write_text('primary = "#ff0000"\n')
    (folder / "themes/broken.toml").write_text('primary = "no colour"\n')
    loaded = settings.load()
    assert (loaded.theme, loaded.keys, loaded.keymap) == ("nord", "k9s", {"app.quit": "Q"})
    settings.remember_theme("mine")
    assert settings.load().theme == "mine"
    themes, problems = load_themes()
    assert "mine" in {theme.name for theme in themes}
    assert len(problems) == 1
    assert "broken" in problems[0]
    (folder / "config.toml").write_text("theme = [")
    assert len(settings.load().problems) == 1


def test_tags_stand_newest_first() -> None:
    tags = ["1.9", "1.10", "latest", "1.10-slim", "2", "1.10"]
    assert newest_first(tags) == ["latest", "2", "1.10-slim", "1.10", "1.9"]
