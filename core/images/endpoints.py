"""Which hosts serve a registry, and how each may be spoken to.

Certificates are demanded everywhere but on this machine's own loopback and where the user says otherwise by name. A
registry with certificates of its own in the settings is held to them, on loopback too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.images import tls
from core.images.reference import HUB, HUB_HOST, is_local
from core.store.registries import EVERY, Mirror, RegistrySettings


@dataclass(frozen=True)
class Endpoint:
    """One host. ``name`` is whose credentials and certificates it has: ``docker.io``, ``cache.lan:5000``."""

    name: str
    host: str  # host[:port] that is connected to
    scheme: str  # the one that is tried first
    fixed: bool  # that one and no other
    verify: bool  # its certificate must be good
    path: str = ""  # before the name of the repository
    mirror_of: str = ""  # the registry that it has copies of
    settings: RegistrySettings = field(default_factory=RegistrySettings)

    def repository(self, path: str) -> str:
        """The name that ``path`` has there."""
        return f"{self.path}/{path}" if self.path else path


def host_of(domain: str) -> str:
    """host[:port] that serves the registry API of a registry."""
    return HUB_HOST if domain == HUB else domain


def own_endpoint(domain: str, registries: Mapping[str, RegistrySettings], *, insecure: bool = False) -> Endpoint:
    """The registry itself.

    :param insecure: plain HTTP and untrusted certificates are allowed, whatever the settings say
    """
    settings = registries.get(domain, RegistrySettings())
    local = is_local(domain) and not tls.configured(domain, settings)
    unsafe = insecure or settings.insecure or local
    return Endpoint(domain, host_of(domain), "http" if local else "https", not unsafe, not unsafe, settings=settings)


def endpoints(domain: str, registries: Mapping[str, RegistrySettings], *, insecure: bool = False) -> list[Endpoint]:
    """Where to read from, in this order: mirrors, then the registry itself."""
    own = own_endpoint(domain, registries, insecure=insecure)
    mirrors = own.settings.mirrors or registries.get(EVERY, RegistrySettings()).mirrors
    return [_mirror(mirror, domain, registries) for mirror in mirrors if mirror.host != own.host] + [own]


def _mirror(mirror: Mirror, domain: str, registries: Mapping[str, RegistrySettings]) -> Endpoint:
    base = own_endpoint(mirror.host, registries)
    plain = mirror.scheme == "http"
    return Endpoint(
        mirror.host,
        host_of(mirror.host),
        mirror.scheme or base.scheme,
        bool(mirror.scheme) or base.fixed,
        base.verify and not plain,
        mirror.path,
        domain,
        base.settings,
    )
