"""The tables ``[registries."HOST"]`` and ``[credentials]`` of the settings file (see :mod:`core.store.config`)::

    [registries."docker.io"]
    mirrors = ["mirror.example.org", "cache.lan:5000/hub"]   # asked first, in this order; then the registry itself

    [registries."registry.lan:5000"]
    ca = "/etc/wharf/lan-ca.pem"      # also: certs.d/HOST[:PORT]/*.crt, *.cert and *.key, in docker's layout
    cert = "/etc/wharf/client.pem"    # who we are, for registries that ask
    key = "/etc/wharf/client.key"
    insecure = true                   # plain HTTP and untrusted certificates are allowed
    proxy = "http://proxy.lan:3128"   # "none": not even the one that the environment names
    realms = ["auth.example.org"]     # token services elsewhere that may see this registry's credentials

    [registries."*"]                  # mirrors of every registry; they are told which one by ?ns=
    mirrors = ["cache.lan:5000"]

    [credentials]
    store = "encrypted"               # or "file", or the NAME of a docker-credential-NAME
    key = "/etc/wharf/secret"         # a file whose content unlocks the encrypted ones

Registries are insecure by name only: a network range would also hold whoever else is on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.errors import InvalidArgument
from core.units import parse_duration

EVERY = "*"  # the name that stands for every registry
_PROXIES = ("http://", "https://", "socks5://", "socks5h://")
_KEYS = ("mirrors", "insecure", "ca", "cert", "key", "proxy", "realms")
_CREDENTIAL_KEYS = ("store", "key", "remember")
_LONGEST_MEMORY = 86400.0  # seconds
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_HELPER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

Wrong = Callable[[str, str, str], InvalidArgument]  # key, why, fix
Check = Callable[[Mapping[str, object], tuple[str, ...]], None]


@dataclass(frozen=True)
class Mirror:
    """A place that has copies. ``scheme`` is empty where none was given: https, or as its own table allows."""

    host: str  # host[:port]
    path: str = ""  # before the repository's name
    scheme: str = ""


@dataclass(frozen=True)
class RegistrySettings:
    """What the file says about one registry. ``proxy`` is empty where the environment decides."""

    mirrors: tuple[Mirror, ...] = ()
    insecure: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    proxy: str = ""
    realms: tuple[str, ...] = ()


@dataclass(frozen=True)
class CredentialSettings:
    """Where ``wharf login`` keeps passwords: ``file``, ``encrypted``, a helper's name, or "" (its own choice).

    ``remember``: seconds for which the kernel keeps a passphrase that was typed; 0: not at all.
    """

    store: str = ""
    key: str = ""
    remember: float = 0.0


class RegistryReader:
    """Checks both tables; ``wrong`` makes an error that names the line, ``check`` refuses unknown keys."""

    def __init__(self, wrong: Wrong, check: Check) -> None:
        self._wrong = wrong
        self._check = check

    def registries(self, tables: object) -> dict[str, RegistrySettings]:
        """:raises InvalidArgument:"""
        if not isinstance(tables, dict):
            raise self._wrong("registries", "registries is no table", 'Begin each with [registries."HOST"]')
        return {name: self._registry(name, table) for name, table in tables.items()}

    def _registry(self, name: str, table: object) -> RegistrySettings:
        if name != EVERY and not _HOST.fullmatch(name):
            fix = 'Write it like [registries."registry.lan:5000"]'
            raise self._wrong(name, f"{name!r} is not a host name with an optional port", fix)
        if not isinstance(table, dict):
            raise self._wrong(name, f"registries.{name} is no table", f'Begin it with [registries."{name}"]')
        self._check(table, ("mirrors",) if name == EVERY else _KEYS)
        insecure = table.get("insecure", False)
        if not isinstance(insecure, bool):
            raise self._wrong("insecure", "insecure is either true or false", "Write insecure = true")
        realms = self._words(table, "realms")
        for realm in realms:
            if not _HOST.fullmatch(realm):
                raise self._wrong("realms", f"{realm!r} is not a host name", 'Write it like "auth.example.org"')
        made = RegistrySettings(
            mirrors=tuple(self._mirror(text) for text in self._words(table, "mirrors")),
            insecure=insecure,
            ca=self._path(table, "ca"),
            cert=self._path(table, "cert"),
            key=self._path(table, "key"),
            proxy=self._proxy(table),
            realms=realms,
        )
        if bool(made.cert) != bool(made.key):
            given, missing = ("cert", "key") if made.cert else ("key", "cert")
            raise self._wrong(given, f"{given} without {missing}", "A client needs both: its certificate and its key")
        return made

    def credentials(self, table: object) -> CredentialSettings:
        """:raises InvalidArgument:"""
        if not isinstance(table, dict):
            raise self._wrong("credentials", "credentials is no table", "Begin it with [credentials]")
        self._check(table, _CREDENTIAL_KEYS)
        store = table.get("store", "")
        if not isinstance(store, str) or (store and not _HELPER.fullmatch(store)):
            fix = 'Write it like store = "encrypted"'
            raise self._wrong("store", 'store is "file", "encrypted" or a credential helper\'s name', fix)
        return CredentialSettings(store, self._path(table, "key"), self._remember(table.get("remember", "")))

    def _remember(self, value: object) -> float:
        if value == "":
            return 0.0
        try:
            seconds = parse_duration(value) if isinstance(value, str) else -1.0
        except InvalidArgument:
            seconds = -1.0
        if not 0 <= seconds <= _LONGEST_MEMORY:
            raise self._wrong("remember", "remember is a time of up to a day", 'Write it like remember = "15m"')
        return seconds

    def _words(self, table: Mapping[str, object], key: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self._wrong(key, f"{key} is no list of words", f'Write it like {key} = ["one.example.org"]')
        return tuple(value)

    def _path(self, table: Mapping[str, object], key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str) or (value and not value.startswith("/")):
            raise self._wrong(key, f"{key} is no absolute path", f'Write it like {key} = "/etc/wharf/{key}.pem"')
        return value

    def _proxy(self, table: Mapping[str, object]) -> str:
        value = table.get("proxy", "")
        if not isinstance(value, str) or (value not in ("", "none") and not value.startswith(_PROXIES)):
            raise self._wrong(
                "proxy",
                "it is no proxy",
                'Write it like proxy = "http://proxy.lan:3128", "socks5://proxy.lan:1080", or "none"',
            )
        return value

    def _mirror(self, text: str) -> Mirror:
        scheme, mark, rest = text.partition("://")
        if not mark:
            scheme, rest = "", text
        host, _, path = rest.rstrip("/").partition("/")
        if scheme not in ("", "http", "https") or not _HOST.fullmatch(host) or (path and not _PATH.fullmatch(path)):
            fix = 'Write it like "mirror.lan:5000" or "https://mirror.example.org/hub"'
            raise self._wrong("mirrors", f"{text!r} is not a place of a mirror", fix)
        return Mirror(host, path, scheme)
