"""The engine's settings file: what it says, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InvalidArgument
from core.store import config
from core.store.config import RuntimeSettings


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("WHARF_CONFIG", str(path))
    return path


def test_no_file_is_no_error(file: Path) -> None:
    assert config.load() == config.Settings(file)
    assert config.load().runtime == "wharf"


def test_everything(file: Path) -> None:
    file.write_text(
        'theme = "nord"\nruntime = "g"\n[runtimes.g]\npath = "/opt/runsc"\nargs = ["--x", "y"]\n'
        '[runtimes."r-2"]\npath = "/r"\n[keymap]\n"a.b" = "c"\n'
    )
    found = config.load()
    assert found.runtime == "g"
    assert found.runtimes == {"g": RuntimeSettings("/opt/runsc", ("--x", "y")), "r-2": RuntimeSettings("/r")}


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHARF_CONFIG", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert config.config_file() == Path("/etc/wharf/config.toml")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config.config_file() == tmp_path / "wharf" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "not/absolute")
    assert config.config_file() == Path.home() / ".config" / "wharf" / "config.toml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('# x\nruntme = "runc"\n', ("line 2", "unknown key 'runtme'", "Did you mean runtime?")),
        ("[run]\n", ("line 1", "unknown key 'run'")),
        ('zzz = 1\nruntime = "runc"\n', ("line 1", "unknown key 'zzz'", "There are runtime, publish_address")),
        ('runtime = "runc\n', ("line 1", "TOML")),
        ("runtime = 3\n", ("line 1", "runtime must be a name")),
        ('\nruntime = ""\n', ("line 2", "runtime must be a name")),
        ("publish_address = 3\n", ("line 1", "publish_address is no IP address")),
        ("forward_guard = 0\n", ("line 1", "forward_guard is neither true nor false", "forward_guard = false")),
        ('\npublish_address = "home"\n', ("line 2", "publish_address is no IP address")),
        ("runtimes = 3\n", ("line 1", "no table")),
        ("[runtimes]\nx = 3\n", ("line 2", "runtimes.x is no table")),
        ("\n\n[runtimes.x]\n", ("line 3", "no absolute path")),
        ('[runtimes.x]\npath = "runc"\n', ("line 2", "no absolute path")),
        ('[runtimes.x]\npath = "/x"\nargs = "--y"\n', ("line 3", "no list of words")),
        ('[runtimes.x]\npath = "/x"\nargs = [1]\n', ("line 3", "no list of words")),
        ('[runtimes.x]\npat = "/x"\n', ("line 2", "unknown key 'pat'", "Did you mean path?")),
        ('[runtimes.wharf]\npath = "/x"\n', ("line 1", "the engine's own")),
        ('[runtimes."a b"]\npath = "/x"\n', ("line 1", "'a b'")),
    ],
)
def test_errors_name_the_line(file: Path, text: str, words: tuple[str, ...]) -> None:
    file.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        config.load()
    assert str(file) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_cannot_be_read(file: Path) -> None:
    file.mkdir()
    with pytest.raises(InvalidArgument, match="cannot read"):
        config.load()
    file.rmdir()
    file.write_bytes(b"runtime = '\xff'\n")
    with pytest.raises(InvalidArgument, match="cannot read"):
        config.load()
