"""Words about the host: what `wharf doctor` and `wharf info` report."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """One finding of ``wharf doctor``. ``status``: ok, warn (something is lost), fail (containers cannot run)."""

    name: str
    status: str
    found: str
    consequence: str = ""  # what follows from a gap
    fix: str = ""  # how to mend it


@dataclass(frozen=True)
class HostInfo:
    """Where the engine runs and what it holds."""

    hostname: str
    kernel: str
    os: str
    cpus: int
    memory: int  # bytes
    cgroup_version: str  # "v1", "hybrid", "v2"; "none" where the engine may use none
    data_root: str
    run_root: str
    containers: int = 0
    running: int = 0
    paused: int = 0
    stopped: int = 0
    images: int = 0
    engine_version: str = ""
    runtime: str = ""  # the OCI runtime of containers that name none
    runtimes: dict[str, str] = field(default_factory=dict)  # name → path of every one there is; the engine's own: ""
    checkpoints: bool = False  # criu is there and works on this kernel
    no_networks: str = ""  # an ordinary user's: why containers can have no network here, and what helps
    warnings: tuple[str, ...] = field(default_factory=tuple)
