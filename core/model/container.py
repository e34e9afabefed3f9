"""Words about containers: what was asked for (immutable) and what is (a snapshot)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class State(str, Enum):
    """A container's state; exactly one holds at a time."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"  # waiting for its next automatic start
    STOPPING = "stopping"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"  # removal failed half way; `rm` tries again
    UNKNOWN = "unknown"  # it ended, and nobody can know how

    @property
    def live(self) -> bool:
        """True while processes of the container may exist."""
        return self in _LIVE


_LIVE = frozenset({State.STARTING, State.RUNNING, State.PAUSED, State.STOPPING})


@dataclass(frozen=True)
class PortMapping:
    """One published port. ``host_port`` 0 asks for a free one.

    ``host_ip`` "" asks for every address, of both versions of IP, or for what the network or the configuration names
    instead. Of one that is published, "" is every IPv4 and "::" every IPv6 address.
    """

    container_port: int
    host_port: int = 0
    protocol: str = "tcp"
    host_ip: str = ""
    host_port_last: int = 0  # with it: the first free one from ``host_port`` up to this


@dataclass(frozen=True)
class Mount:
    """A bind mount, a named volume or a tmpfs. ``kind`` is ``bind``, ``volume`` or ``tmpfs``."""

    kind: str
    source: str  # host path or volume name; empty for tmpfs
    target: str  # absolute path in the container
    read_only: bool = False
    options: tuple[str, ...] = ()
    make: bool = False  # a bind mount's source that is not there is made, as a folder


@dataclass(frozen=True)
class DeviceMapping:
    """A device of the host, or a folder of devices, that a container gets. ``container`` "": at the same path."""

    host: str
    container: str = ""
    access: str = "rwm"  # read, write, mknod


@dataclass(frozen=True)
class DeviceLimit:
    """A weight (10 to 1000) or a rate (bytes or operations per second) of one block device."""

    path: str  # /dev/sda
    value: int


@dataclass(frozen=True)
class Resources:
    """Limits. 0 means unlimited (kernel default) everywhere but in ``memory_swappiness``."""

    memory: int = 0  # bytes
    memory_swap: int = 0  # bytes, memory + swap; -1 unlimited
    memory_reservation: int = 0  # bytes
    memory_swappiness: int = -1  # 0 to 100; -1: as the host's
    nano_cpus: int = 0  # 1e9 = one CPU
    cpu_shares: int = 0
    cpu_period: int = 0  # microseconds
    cpu_quota: int = 0  # microseconds
    cpu_rt_period: int = 0  # microseconds
    cpu_rt_runtime: int = 0  # microseconds
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0
    oom_kill_disable: bool = False
    blkio_weight: int = 0  # 10 to 1000
    blkio_weight_device: tuple[DeviceLimit, ...] = ()
    device_read_bps: tuple[DeviceLimit, ...] = ()
    device_write_bps: tuple[DeviceLimit, ...] = ()
    device_read_iops: tuple[DeviceLimit, ...] = ()
    device_write_iops: tuple[DeviceLimit, ...] = ()


@dataclass(frozen=True)
class Healthcheck:
    """How to tell whether a container works. Times in seconds (monotonic).

    What is empty or 0 in a user's check is the image's, and where the image has none, Docker's default.
    """

    test: tuple[str, ...] = ()  # ("CMD", argv…) or ("CMD-SHELL", line); ("NONE",) disables the image's
    interval: float = 0.0  # between two checks; default 30
    timeout: float = 0.0  # of one check; default 30
    start_period: float = 0.0  # failures before it do not count
    retries: int = 0  # failures in a row until unhealthy; default 3
    start_interval: float = 0.0  # between two checks in the start period; default 5, or the interval if that is less


@dataclass(frozen=True)
class RestartPolicy:
    """``name`` is ``no``, ``always``, ``unless-stopped`` or ``on-failure`` (``max_retries`` 0: no limit)."""

    name: str = "no"
    max_retries: int = 0


@dataclass(frozen=True)
class LogOptions:
    """Where a container's output goes: capped and rotated by default."""

    max_size: int = 10 * 1024 * 1024  # bytes per file
    max_files: int = 3


@dataclass(frozen=True)
class EndpointSpec:
    """How a container is to be on one network. What is empty is chosen."""

    network: str  # name
    aliases: tuple[str, ...] = ()  # further names for it on this network
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    interface: str = ""  # name in the container; "": eth0, eth1 …
    priority: int = 0  # the network with the highest is the way out (its gateway the default route)
    sysctls: dict[str, str] = field(default_factory=dict)  # like net.ipv4.conf.IFNAME.log_martians
    rate: int = 0  # bits per second that it may send; 0: no limit
    links: tuple[str, ...] = ()  # NAME or NAME:ALIAS of other containers on this network


@dataclass(frozen=True)
class ContainerSpec:
    """All that ``create`` is asked for. ``None`` means: take the image's value.

    ``ipc``, ``pid``, ``uts`` and ``cgroupns`` say whose namespace of that kind it uses: ``private`` (one of its own),
    ``host``, or (not for ``cgroupns``) ``container:ID``. ``ipc`` may also be ``shareable``: private, and others may
    join it; or ``none``: private and without /dev/shm.
    """

    image: str
    name: str = ""
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    domainname: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    tty: bool = False
    stdin_open: bool = False
    network: str = ""  # a network's name, "none", "host", "container:ID"; "": bridge, or none for an ordinary user's
    networks: tuple[EndpointSpec, ...] = ()  # all of them, ``network`` first; (): that one, as it comes
    links: tuple[str, ...] = ()  # NAME or NAME:ALIAS of other containers, on all of its networks
    ports: tuple[PortMapping, ...] = ()
    publish_all: bool = False
    mounts: tuple[Mount, ...] = ()
    volumes_from: tuple[str, ...] = ()  # ID or ID:ro: the other container's volumes and bind mounts
    devices: tuple[DeviceMapping, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()  # like "c 42:* rmw"
    resources: Resources = Resources()
    restart: RestartPolicy = RestartPolicy()
    healthcheck: Healthcheck | None = None
    log: LogOptions = LogOptions()
    auto_remove: bool = False
    init: bool = False
    privileged: bool = False
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    ulimits: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()  # numbers, or names of the image's /etc/group
    ipc: str = "private"
    pid: str = "private"
    uts: str = "private"
    cgroupns: str = "private"
    userns: str = ""  # "host" (as ""), "auto" or "auto:size=N": ids of its own, "remap": ids shared with all such
    runtime: str = ""  # "": the engine's own
    platform: str = ""  # the image must be for this one: "linux/arm64"
    cgroup_parent: str = ""  # relative to each hierarchy's root; "": the instance's group
    oom_score_adj: int = 0  # -1000 (never killed) to 1000 (first)
    umask: str = ""  # octal; "": 0022
    annotations: dict[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()  # ("."): none
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    stop_signal: str = ""
    stop_timeout: float = 10.0  # seconds
    shm_size: int = 64 * 1024 * 1024  # bytes


@dataclass(frozen=True)
class Change:
    """What ``update`` changes of a container. What holds its default stays as it is."""

    resources: Resources = Resources()
    restart: RestartPolicy | None = None


@dataclass(frozen=True)
class EndpointInfo:
    """A container's place on one network."""

    network: str
    ip: str = ""
    prefix_len: int = 0
    gateway: str = ""
    mac: str = ""
    interface: str = ""  # name on the host side; "" where there is none (macvlan, ipvlan)
    ip6: str = ""
    prefix_len6: int = 0
    gateway6: str = ""
    name: str = "eth0"  # in the container
    network_id: str = ""
    priority: int = 0
    aliases: tuple[str, ...] = ()
    rate: int = 0  # bits per second that it may send; 0: no limit
    sysctls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Container:
    """A snapshot of one container. Times are seconds since the epoch, 0.0 where not yet."""

    id: str  # 64 hex digits
    name: str
    spec: ContainerSpec
    image_id: str  # sha256:…
    state: State
    created: float
    argv: tuple[str, ...] = ()  # entrypoint + command as run
    pid: int = 0
    started: float = 0.0
    finished: float = 0.0
    exit_code: int | None = None  # None while running, or where nobody knows
    oom_killed: bool = False
    error: str = ""
    health: str = ""  # "", starting, healthy, unhealthy
    restarts: int = 0
    endpoints: tuple[EndpointInfo, ...] = ()
    ports: tuple[PortMapping, ...] = ()  # as really bound
    bundle: str = ""  # folder of the OCI config.json
    log_path: str = ""
    ids: tuple[int, ...] = ()  # of its user namespace: what its root is called on the host, and how many ids
    image_moved: bool = False  # told by `Engine.containers`: the name in ``spec.image`` is no longer this image's

    @property
    def short_id(self) -> str:
        return self.id[:12]


@dataclass(frozen=True)
class ExecSpec:
    """A command to run inside a running container."""

    argv: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    privileged: bool = False
    detach: bool = False
