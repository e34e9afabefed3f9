"""TLS contexts: the system's authorities, those of the settings, and who we are where a registry asks.

Docker's layout is read where docker and podman have it: ``certs.d/HOST[:PORT]/`` with ``*.crt`` (authorities),
``NAME.cert`` and ``NAME.key`` (client). The first folder that exists for a registry counts.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from core.errors import InvalidArgument
from core.store.config import config_file
from core.store.registries import RegistrySettings

_SYSTEM = (Path("/etc/wharf"), Path("/etc/docker"), Path("/etc/containers"))


@dataclass(frozen=True)
class Files:
    """The files of one registry: authorities, and (certificate, key) of clients."""

    authorities: tuple[Path, ...] = ()
    clients: tuple[tuple[Path, Path], ...] = ()


def _bases() -> list[Path]:
    config = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(config) if config.startswith("/") else Path(os.environ.get("HOME") or "/root") / ".config"
    return [config_file().parent, home / "docker", home / "containers", *_SYSTEM]


def find_files(domain: str, settings: RegistrySettings) -> Files:
    """What the settings and ``certs.d`` hold for a registry.

    :raises InvalidArgument: a certificate without its key, or the other way round
    """
    authorities = [Path(settings.ca)] if settings.ca else []
    clients = [(Path(settings.cert), Path(settings.key))] if settings.cert else []
    folder = next((found for base in _bases() if (found := base / "certs.d" / domain).is_dir()), None)
    for path in sorted(folder.iterdir()) if folder else ():
        if path.suffix == ".crt":
            authorities.append(path)
        other = path.with_suffix({".cert": ".key", ".key": ".cert"}.get(path.suffix, path.suffix))
        if not other.exists():
            kind = "key" if path.suffix == ".cert" else "certificate"
            raise InvalidArgument(f"cannot use {path}", f"there is no {other.name}", f"Put the {kind} beside it")
        if path.suffix == ".cert":
            clients.append((path, other))
    return Files(tuple(authorities), tuple(clients))


def configured(domain: str, settings: RegistrySettings) -> bool:
    """True where somebody has given certificates for the registry."""
    return find_files(domain, settings) != Files()


def context(domain: str, settings: RegistrySettings, *, verify: bool, client: bool) -> ssl.SSLContext | bool:
    """What aiohttp takes for ``ssl``.

    :param client: with our own certificate: for the registry itself, never for hosts that it redirects to
    :raises InvalidArgument: a file that cannot be used
    """
    files = find_files(domain, settings)
    clients = files.clients if client else ()
    if not clients and (not verify or not files.authorities):
        return verify
    made = ssl.create_default_context()
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    for path in files.authorities:
        try:
            made.load_verify_locations(path)
        except (ssl.SSLError, OSError) as error:
            raise _unusable(path, error) from error
    for certificate, key in clients:
        try:
            # Without a password of its own OpenSSL would ask for one on the terminal.
            made.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            raise _unusable(certificate if certificate.is_file() else key, error) from error
    return made


def _unusable(path: Path, error: OSError) -> InvalidArgument:
    why = getattr(error, "reason", "") or error.strerror or str(error)
    return InvalidArgument(f"cannot use {path}", str(why), "It must be PEM; a key must not have a password")
