"""The folder of the host that ``-v`` makes, while somebody else is at work where it is made."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import InvalidArgument
from core.ops.bundle import _make_source
from tests.conftest import needs_root


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def swap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[Path], None]], None]:
    """Put something in the place of each folder, as soon as it is made."""

    def begin(put: Callable[[Path], None]) -> None:
        real = os.mkdir

        def mkdir(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            real(name, mode, dir_fd=dir_fd)
            os.rmdir(name, dir_fd=dir_fd)
            put(tmp_path / Path(name).name)

        monkeypatch.setattr(os, "mkdir", mkdir)

    return begin


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_in_its_place_leads_nowhere(
    swap: Callable[[Callable[[Path], None]], None], tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.touch() if kind == "file" else secret.mkdir()
    secret.chmod(0o700)
    swap(lambda path: path.symlink_to(secret))
    with pytest.raises(InvalidArgument, match="cannot be made"):
        _make_source(tmp_path / "new", 1234)
    assert (mode(secret), secret.stat().st_uid) == (0o700, os.geteuid())


def test_another_folder_in_its_place_stays_as_it_is(
    swap: Callable[[Callable[[Path], None]], None], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(0o700)
    (secret / "file").touch()
    swap(lambda path: secret.rename(path))
    _make_source(tmp_path / "new", 1234)
    assert (mode(tmp_path / "new"), (tmp_path / "new").stat().st_uid) == (0o700, os.geteuid())


def test_links_that_were_there_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(0o700)
    (tmp_path / "link").symlink_to("there")
    _make_source(tmp_path / "link" / "a" / "b")
    assert [mode(tmp_path / "there" / name) for name in (".", "a", "a/b")] == [0o700, 0o755, 0o755]
    (tmp_path / "nowhere").symlink_to("gone")
    with pytest.raises(InvalidArgument, match="no such file"):
        _make_source(tmp_path / "nowhere" / "a")


@needs_root
def test_an_ordinary_user_may_not_look_there(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(InvalidArgument, match="permission denied"):
            _make_source(tmp_path / "locked" / "a")
    finally:
        os.seteuid(0)
