"""Every place where credentials for registries are, in the order in which they are asked:

1. the engine's own store (:mod:`core.images.vault`),
2. the helper that docker's ``config.json`` names for the registry (``credHelpers``), else for all (``credsStore``),
3. ``auths`` in that file (``docker login`` without a helper).

Only the first and the second are ever written to: docker's file has passwords in clear. Nothing is looked up before a
registry asks, so that a pull of what is public neither starts helpers nor needs a passphrase.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InvalidArgument, Locked, Unauthorized
from core.images import helpers
from core.images.auth import Credentials
from core.images.reference import HUB
from core.images.vault import Vault, vault_file
from core.kernel import userkey
from core.store.registries import CredentialSettings

FILE, ENCRYPTED = "file", "encrypted"
HUB_SERVER = "https://index.docker.io/v1/"  # docker's name for its own registry, in files and helpers
_HUB_NAMES = (HUB_SERVER, "index.docker.io", "docker.io")
_PASSPHRASE = "WHARF_CREDENTIALS_PASSPHRASE"
_SYSTEMD = "wharf.passphrase"  # LoadCredential= of a unit
_LOOSE = 0o077


@dataclass(frozen=True)
class DockerConfig:
    """What docker's ``config.json`` says about credentials."""

    auths: Mapping[str, Any]
    store: str
    helpers: Mapping[str, str]

    def helper(self, domain: str) -> str:
        """The helper for a registry; empty where it has none."""
        return next((self.helpers[key] for key in servers(domain) if self.helpers.get(key)), self.store)


def docker_file() -> Path:
    """``config.json`` of docker's command line."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def read_docker_config() -> DockerConfig:
    """Absent or malformed, it says nothing: it is not ours to judge, and a registry that wants more says so."""
    try:
        document = json.loads(docker_file().read_text())
        auths, names = document.get("auths") or {}, document.get("credHelpers") or {}
        store = document.get("credsStore") or ""
    except (OSError, ValueError, AttributeError):
        return DockerConfig({}, "", {})
    return DockerConfig(
        auths if isinstance(auths, dict) else {},
        store if isinstance(store, str) else "",
        {key: value for key, value in names.items() if isinstance(value, str)} if isinstance(names, dict) else {},
    )


def servers(domain: str) -> tuple[str, ...]:
    """The names under which a registry may be stored, the usual one first."""
    return _HUB_NAMES if domain == HUB else (domain, f"https://{domain}", f"http://{domain}")


class Keyring:
    """Find, keep and forget credentials."""

    def __init__(self) -> None:
        self.vault = Vault(vault_file())
        self._passphrase: bytes | None = None

    def unlock(self, passphrase: str) -> None:
        """For the encrypted entries, until this process ends."""
        self._passphrase = passphrase.encode()

    def _secret(self, settings: CredentialSettings) -> bytes | None:
        """What opens the encrypted store: told us, in the environment, a key file, a credential of the systemd unit,
        remembered by the kernel."""
        if self._passphrase:
            return self._passphrase
        if said := os.environ.get(_PASSPHRASE, ""):
            return os.fsencode(said)
        if settings.key:
            return _key_file(Path(settings.key))
        unit = Path(os.environ.get("CREDENTIALS_DIRECTORY", "")) / _SYSTEMD
        if unit.is_absolute() and unit.exists():
            return _key_file(unit)
        return userkey.get(self._memory) if settings.remember else None

    @property
    def _memory(self) -> str:
        return f"wharf:{self.vault.file}"

    def _open(self, domain: str, settings: CredentialSettings) -> Credentials | None:
        """From the own store; a passphrase that opens it is remembered, where that is wanted."""
        try:
            found = self.vault.get(domain, self._secret(settings))
        except Locked:
            userkey.drop(self._memory)  # it is another one by now
            raise
        if found:
            self._remember(settings)
        return found

    def _remember(self, settings: CredentialSettings) -> None:
        """A passphrase that was typed and has opened the store."""
        if self._passphrase and settings.remember and self.vault.encrypted:
            userkey.put(self._memory, self._passphrase, settings.remember)

    async def find(self, domain: str, settings: CredentialSettings) -> Credentials | None:
        """None: nobody has any, be anonymous.

        :raises Unauthorized: they are somewhere, but cannot be had
        """
        own = await asyncio.to_thread(self._open, domain, settings)
        if own:
            return own
        docker = await asyncio.to_thread(read_docker_config)
        if helper := docker.helper(domain):
            for server in servers(domain):
                if found := await helpers.get(helper, server):
                    return found
        entries = (docker.auths.get(server) for server in servers(domain))
        return next((found for entry in entries if entry and (found := read_entry(entry))), None)

    async def keep(self, domain: str, credentials: Credentials, settings: CredentialSettings, store: str = "") -> str:
        """Store them; returns where, in words.

        :param store: ``file``, ``encrypted``, a helper's name; empty: as configured, else docker's helper, else a file
        :raises Locked: the store is encrypted, and no passphrase is known
        """
        helper = (await asyncio.to_thread(read_docker_config)).helper(domain)
        place = store or settings.store or helper or FILE
        if place not in (FILE, ENCRYPTED):
            await helpers.put(helpers.check_name(place), servers(domain)[0], credentials)
            await asyncio.to_thread(self.vault.drop, domain)  # else the older ones would be found first
            return f"the credential helper {place}"
        encrypt = place == ENCRYPTED

        def work() -> str:
            self.vault.put(domain, credentials, self._secret(settings), encrypt=encrypt)
            self._remember(settings)
            return f"{self.vault.file} ({'encrypted' if self.vault.encrypted else 'mode 0600, not encrypted'})"

        return await asyncio.to_thread(work)

    async def forget(self, domain: str, settings: CredentialSettings) -> tuple[bool, str]:
        """(whether any were removed, what is left of others' in words)."""
        gone = await asyncio.to_thread(self.vault.drop, domain)
        docker = await asyncio.to_thread(read_docker_config)
        places = dict.fromkeys((docker.helper(domain), settings.store))
        for helper in [name for name in places if name not in ("", FILE, ENCRYPTED)]:
            for server in servers(domain):
                gone = await helpers.erase(helper, server) or gone
        left = any(read_entry(docker.auths[server]) for server in servers(domain) if docker.auths.get(server))
        return gone, str(docker_file()) if left else ""

    async def names(self) -> list[str]:
        """The registries that the engine's own store has credentials for."""
        return await asyncio.to_thread(self.vault.names)


def _key_file(path: Path) -> bytes:
    """:raises Unauthorized: unreadable, or readable by others"""
    try:
        with open(path, "rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read().strip(b"\r\n")
    except OSError as error:
        raise Unauthorized(f"the key file {path} cannot be read", str(error.strerror), "Check the settings") from error
    if mode & _LOOSE and path.name != _SYSTEMD:
        raise Unauthorized(f"the key file {path} can be read by others", f"mode {mode & 0o777:o}", f"chmod 600 {path}")
    if not data:
        raise InvalidArgument(f"the key file {path} is empty", "", f"head -c 32 /dev/urandom | base64 > {path}")
    return data


def read_entry(entry: Any) -> Credentials | None:
    """An entry of ``auths``; None where it holds nothing (docker leaves those of helpers empty)."""
    if not isinstance(entry, dict):
        return None
    texts = {key: value for key, value in entry.items() if isinstance(value, str)}
    try:
        user, _, password = base64.b64decode(texts.get("auth", "")).decode().rstrip("\0").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, password = user or texts.get("username", ""), password or texts.get("password", "")
    token = texts.get("identitytoken", "")
    return Credentials(user, password, token) if user or token else None
