"""The engine's settings, in ``/etc/wharf/config.toml``; an ordinary user's in ``$XDG_CONFIG_HOME/wharf/config.toml``.

::

    runtime = "runc"              # the OCI runtime of containers that name none; "wharf" is the engine's own

    publish_address = "127.0.0.1" # where ports are published that name no address; without it: on every address

    forward_guard = false         # where the engine has switched routing on, route for everybody; see core.net.guard

    [runtimes.gvisor]             # a runtime by a name of your own
    path = "/opt/gvisor/runsc"
    args = ["--platform=systrap"]

    [registries."registry.lan:5000"]   # mirrors, certificates, proxies: see core.store.registries
    insecure = true

``WHARF_CONFIG`` names another file. No file is needed. The workstation keeps its own settings in the user's file too:
its keys are let be.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import InvalidArgument
from core.store.paths import rootless_user
from core.store.registries import CredentialSettings, RegistryReader, RegistrySettings

OWN_RUNTIME = "wharf"
_SYSTEM = Path("/etc/wharf/config.toml")
_KEYS = ("runtime", "publish_address", "forward_guard", "runtimes", "registries", "credentials")
_WORKSTATION = ("theme", "keys", "keymap")
_RUNTIME_KEYS = ("path", "args")
_SETTLED = 1_000_000_000  # ns: a file written to just now could change again within one tick of its clock
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@dataclass(frozen=True)
class RuntimeSettings:
    """An OCI runtime: where it is (absolute), and the arguments of every call."""

    path: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What the file says. ``file`` is where it is, or would be."""

    file: Path
    runtime: str = OWN_RUNTIME
    runtimes: Mapping[str, RuntimeSettings] = field(default_factory=dict)
    registries: Mapping[str, RegistrySettings] = field(default_factory=dict)
    credentials: CredentialSettings = field(default_factory=CredentialSettings)
    publish_address: str = ""  # "": every address of the host
    forward_guard: bool = True


def config_file() -> Path:
    """Where the settings of this process's engine are."""
    named = os.environ.get("WHARF_CONFIG", "")
    if named:
        return Path(named).absolute()
    if rootless_user() is None:
        return _SYSTEM
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # XDG Base Directory Specification: a path that is not absolute is invalid and is ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "wharf" / "config.toml"


_read: dict[Path, tuple[tuple[int, ...], Settings]] = {}  # what a file said, and which file that was


def load() -> Settings:
    """The settings; those by default where there is no file. A file that has not changed is not read again.

    :raises InvalidArgument: the file cannot be used; the error names the line
    """
    file = config_file()
    try:
        status = os.stat(file)
        # The change time too: it tells of a new mode and of an older file's modification time, which mtime does not.
        version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = _read.get(file)
        if known is not None and known[0] == version:
            return known[1]
        settings = _parse(file, file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Settings(file)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot read {file}", str(error), "Correct it, or remove it") from error
    if time.time_ns() - status.st_ctime_ns > _SETTLED:
        _read[file] = version, settings
    return settings


def _parse(file: Path, text: str) -> Settings:
    import tomllib  # here: mostly there is no file

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"cannot use {file}", str(error), "Correct it: it is TOML, see toml.io") from error
    return _Reader(file, text).settings(data)


class _Reader:
    """Checks what was parsed; the text is for finding the line that an error names."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._lines = text.splitlines()

    def settings(self, data: Mapping[str, object]) -> Settings:
        self._check_keys(data, _KEYS, _WORKSTATION)
        runtime = data.get("runtime", OWN_RUNTIME)
        if not isinstance(runtime, str) or not runtime:
            raise self._wrong("runtime", "runtime must be a name in quotes", 'Write it like runtime = "runc"')
        tables = data.get("runtimes", {})
        if not isinstance(tables, dict):
            raise self._wrong("runtimes", "runtimes is no table", "Begin each with [runtimes.NAME]")
        registries = RegistryReader(self._wrong, self._check_keys)
        return Settings(
            self._file,
            runtime,
            {name: self._runtime(name, table) for name, table in tables.items()},
            registries.registries(data.get("registries", {})),
            registries.credentials(data.get("credentials", {})),
            self._address(data.get("publish_address", "")),
            self._yes_or_no(data, "forward_guard"),
        )

    def _yes_or_no(self, data: Mapping[str, object], key: str) -> bool:
        value = data.get(key, True)
        if not isinstance(value, bool):
            raise self._wrong(key, f"{key} is neither true nor false", f"Write it like {key} = false")
        return value

    def _address(self, value: object) -> str:
        if value == "":
            return ""
        import ipaddress  # here: mostly there is none

        try:
            return str(ipaddress.ip_address(str(value)))
        except ValueError:
            key = "publish_address"
            raise self._wrong(key, f"{key} is no IP address", f'Write it like {key} = "127.0.0.1"') from None

    def _runtime(self, name: str, table: object) -> RuntimeSettings:
        if not _NAME.fullmatch(name) or name == OWN_RUNTIME:
            why = "that is the engine's own" if name == OWN_RUNTIME else "names are letters, digits and _ . -"
            raise self._wrong(name, f"no runtime can be called {name!r}: {why}", "Choose another name")
        if not isinstance(table, dict):
            raise self._wrong(name, f"runtimes.{name} is no table", f"Begin it with [runtimes.{name}]")
        self._check_keys(table, _RUNTIME_KEYS)
        path, args = table.get("path"), table.get("args", [])
        if not isinstance(path, str) or not path.startswith("/"):
            example = f'Write it like path = "/usr/local/bin/{name}"'
            raise self._wrong("path" if "path" in table else name, f"runtime {name} has no absolute path", example)
        if not isinstance(args, list) or not all(isinstance(word, str) for word in args):
            raise self._wrong("args", f"the args of runtime {name} are no list of words", 'Write it like args = ["-x"]')
        return RuntimeSettings(path, tuple(args))

    def _check_keys(self, data: Mapping[str, object], known: Collection[str], more: Collection[str] = ()) -> None:
        for key in data:
            if key not in known and key not in more:
                import difflib

                near = difflib.get_close_matches(key, known, 1)
                guess = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}"
                raise self._wrong(key, f"unknown key {key!r}", guess)

    def _wrong(self, key: str, why: str, fix: str) -> InvalidArgument:
        """:param key: what the line is found by"""
        word = re.compile(rf"^\s*(\[.*)?(?<![\w-]){re.escape(key)}(?![\w-])")
        found = next((number for number, line in enumerate(self._lines, 1) if word.search(line.replace('"', " "))), 0)
        return InvalidArgument(f"cannot use {self._file}", f"line {found}: {why}" if found else why, fix)
