"""Words about images."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.model.container import Healthcheck


@dataclass(frozen=True)
class ImageConfig:
    """The part of an OCI image configuration that decides how a container runs (image-spec, config.md)."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()  # "80/tcp", "8000-8010/udp"
    volumes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """One image in the store. ``id`` is the digest of its configuration, as Docker's."""

    id: str  # sha256:…
    tags: tuple[str, ...]  # full references, registry included
    repo_digests: tuple[str, ...]
    created: float  # seconds since the epoch
    size: int  # bytes of all its unpacked layers
    layers: tuple[str, ...]  # diffIDs, lowest first
    config: ImageConfig
    architecture: str = "amd64"
    os: str = "linux"
    added: float = 0.0  # when it came into this store; seconds since the epoch
    used: float = 0.0  # when a container of it was last created, started or removed; 0: never
    variant: str = ""  # of the architecture: "v7"

    @property
    def short_id(self) -> str:
        return self.id.removeprefix("sha256:")[:12]
