"""The engine's own store of credentials: one file, 0600, plain or with each entry sealed by a passphrase.

``$XDG_CONFIG_HOME/wharf/credentials.json`` (``WHARF_CREDENTIALS`` names another)::

    {"version": 1, "entries": {"registry.lan:5000": {"user": …, "password": …}}}
    {"version": 1, "kdf": {"n": 65536, "r": 8, "p": 1, "salt": …}, "entries": {"registry.lan:5000": {"sealed": …}}}

Names of registries stay readable, so that a pull from one without an entry needs no passphrase. The key is scrypt's
(RFC 7914) of the passphrase, the seal AES-256-GCM with the registry's name as associated data: an entry moved to
another name does not open.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import Corrupt, Locked, Unauthorized
from core.images.auth import Credentials

_N, _R, _P = 1 << 16, 8, 1  # 64 MiB and about 0.2 s for each guess
_MOST_MEMORY = 1 << 28
_NONCE = 12  # bytes
_LOOSE = 0o077  # permissions that nobody else may have


def vault_file() -> Path:
    """Where the file of this user is."""
    if named := os.environ.get("WHARF_CREDENTIALS", ""):
        return Path(named).absolute()
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "wharf" / "credentials.json"


class Vault:
    """One such file. Methods block: scrypt and the disk."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._keys: dict[tuple[str, bytes], bytes] = {}  # (salt, passphrase) → key: scrypt takes its time

    # -- reading ------------------------------------------------------------------------------------------------
    def names(self) -> list[str]:
        """The registries with an entry. :raises Unauthorized: others may read the file"""
        return sorted(self._read()["entries"])

    @property
    def encrypted(self) -> bool:
        return "kdf" in self._read()

    def get(self, name: str, passphrase: bytes | None) -> Credentials | None:
        """:raises Locked: it is sealed, and the passphrase is missing or wrong"""
        document = self._read()
        entry = document["entries"].get(name)
        if entry is None:
            return None
        if "sealed" in entry:
            entry = json.loads(self._open(document, name, entry["sealed"], passphrase))
        return Credentials(entry.get("user", ""), entry.get("password", ""), entry.get("identity_token", ""))

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.file, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return {"version": 1, "entries": {}}
        if mode & _LOOSE:
            raise Unauthorized(
                f"the credentials in {self.file} can be read by others",
                f"its mode is {mode & 0o777:o}",
                f"Check who has seen them, then: chmod 600 {self.file}",
            )
        try:
            document = json.loads(data)
            if document["version"] == 1 and all(isinstance(entry, dict) for entry in document["entries"].values()):
                return dict(document)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise Corrupt(f"{self.file} is not a file of credentials", "it is damaged or newer", "Remove it, and log in")

    # -- writing ------------------------------------------------------------------------------------------------
    def put(self, name: str, credentials: Credentials, passphrase: bytes | None, *, encrypt: bool = False) -> None:
        """Keep them; a file that is encrypted stays so, and with ``encrypt`` a plain one becomes so.

        :raises Locked: it is, or is to be, encrypted, and the passphrase is missing or not that of the others
        """
        with self._changing() as document:
            if encrypt and "kdf" not in document and not passphrase:
                raise Locked(
                    "a passphrase is needed",
                    f"{self.file} is to be encrypted",
                    "Run it on a terminal, or see `wharf login --help` for key files",
                    step="new",
                )
            plain = {key: value for key, value in vars(credentials).items() if value}
            if encrypt and "kdf" not in document:
                salt = base64.b64encode(secrets.token_bytes(16)).decode()
                document["kdf"] = {"n": _N, "r": _R, "p": _P, "salt": salt}
                for other, entry in document["entries"].items():
                    document["entries"][other] = {"sealed": self._seal(document, other, entry, passphrase)}
            if "kdf" in document:
                for other, entry in document["entries"].items():
                    self._open(document, other, entry["sealed"], passphrase)  # one passphrase for all
                    break
                document["entries"][name] = {"sealed": self._seal(document, name, plain, passphrase)}
            else:
                document["entries"][name] = plain

    def drop(self, name: str) -> bool:
        """Forget them; False where there are none. The file goes with its last entry."""
        if name not in self._read()["entries"]:
            return False
        with self._changing() as document:
            document["entries"].pop(name, None)
        return True

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The document, for changing; written whole or not at all."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.file.with_name(f".{self.file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            document = self._read()
            yield document
            if not document["entries"]:
                self.file.unlink(missing_ok=True)
                return
            beside = self.file.with_name(f".{self.file.name}.new")
            beside.unlink(missing_ok=True)  # of a process that was killed: the lock is ours
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(json.dumps(document, indent=1).encode())
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self.file)
        finally:
            os.close(lock)

    # -- sealing ------------------------------------------------------------------------------------------------
    def _key(self, document: dict[str, Any], passphrase: bytes | None) -> bytes:
        if not passphrase:
            raise Locked(
                "the credentials are encrypted",
                f"{self.file} opens with a passphrase only",
                "Run it on a terminal, or see `wharf login --help` for key files",
            )
        kdf = document["kdf"]
        if (made := self._keys.get((kdf["salt"], passphrase))) is None:
            made = hashlib.scrypt(
                passphrase,
                salt=base64.b64decode(kdf["salt"]),
                n=int(kdf["n"]),
                r=int(kdf["r"]),
                p=int(kdf["p"]),
                maxmem=_MOST_MEMORY,
                dklen=32,
            )
            self._keys[kdf["salt"], passphrase] = made
        return made

    def _seal(self, document: dict[str, Any], name: str, entry: object, passphrase: bytes | None) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # late: it is rarely asked for

        nonce = secrets.token_bytes(_NONCE)
        sealed = AESGCM(self._key(document, passphrase)).encrypt(nonce, json.dumps(entry).encode(), name.encode())
        return base64.b64encode(nonce + sealed).decode()

    def _open(self, document: dict[str, Any], name: str, sealed: str, passphrase: bytes | None) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key, data = self._key(document, passphrase), base64.b64decode(sealed)
        try:
            return AESGCM(key).decrypt(data[:_NONCE], data[_NONCE:], name.encode())
        except InvalidTag:
            raise Locked(
                f"the credentials for {name} do not open",
                "the passphrase is another one, or the file was changed",
                "Try again, or remove the file and log in anew",
            ) from None
