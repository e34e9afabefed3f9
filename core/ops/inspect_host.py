"""``HostConfig`` of a container: what it was asked to be, in the shape that Docker's clients know (Engine API)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.runtime import defaults, limits, security

if TYPE_CHECKING:
    from core.model import Container, ContainerSpec, DeviceLimit, Mount, PortMapping, Resources


def host_config(box: Container) -> dict[str, object]:
    """All of the specification that is not in ``Config``."""
    spec = box.spec
    return {
        "Binds": [_bind(mount) for mount in spec.mounts if mount.kind != "tmpfs"],
        "Tmpfs": {mount.target: ",".join(_options(mount)) for mount in spec.mounts if mount.kind == "tmpfs"},
        "VolumesFrom": list(spec.volumes_from),
        "NetworkMode": spec.network,
        "PortBindings": bindings(spec.ports),
        "RestartPolicy": {"Name": spec.restart.name, "MaximumRetryCount": spec.restart.max_retries},
        "AutoRemove": spec.auto_remove,
        "Dns": list(spec.dns),
        "ExtraHosts": list(spec.extra_hosts),
        "Init": spec.init,
        "Runtime": spec.runtime or "wharf",
        "Isolation": "default",
        "Annotations": dict(spec.annotations),
        "LogConfig": {
            "Type": "cri",
            "Config": {"max-size": str(spec.log.max_size), "max-file": str(spec.log.max_files)},
        },
        **_resources(spec.resources),
        **_mappings(box.ids),
        **_walls(spec),
    }


def _walls(spec: ContainerSpec) -> dict[str, object]:
    open_paths = security.opens_paths(spec)
    return {
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
        "SecurityOpt": list(spec.security_opt),
        "MaskedPaths": [] if open_paths else list(defaults.MASKED),
        "ReadonlyPaths": [] if open_paths else list(defaults.READONLY),
        "Sysctls": dict(spec.sysctls),
        "Ulimits": [_ulimit(rule) for rule in limits.parse_ulimits(spec.ulimits)],
        "GroupAdd": list(spec.group_add),
        "IpcMode": spec.ipc,
        # In Docker an empty word means one of its own.
        "PidMode": "" if spec.pid == "private" else spec.pid,
        "UTSMode": "" if spec.uts == "private" else spec.uts,
        "CgroupnsMode": spec.cgroupns,
        "UsernsMode": spec.userns,
        "CgroupParent": spec.cgroup_parent,
        "OomScoreAdj": spec.oom_score_adj,
        "ShmSize": spec.shm_size,
        "Devices": [
            {"PathOnHost": each.host, "PathInContainer": each.container or each.host, "CgroupPermissions": each.access}
            for each in spec.devices
        ],
        "DeviceCgroupRules": list(spec.device_cgroup_rules),
        "DeviceRequests": [],
    }


def _mappings(ids: tuple[int, ...]) -> dict[str, object]:
    """As podman writes them: id inside, id on the host, how many."""
    pieces = [f"0:{ids[0]}:{ids[1]}"] if ids else []
    return {"IDMappings": {"UidMap": pieces, "GidMap": pieces}} if pieces else {}


def _resources(res: Resources) -> dict[str, object]:
    return {
        "Memory": res.memory,
        "MemorySwap": res.memory_swap,
        "MemoryReservation": res.memory_reservation,
        "MemorySwappiness": None if res.memory_swappiness < 0 else res.memory_swappiness,
        "NanoCpus": res.nano_cpus,
        "CpuShares": res.cpu_shares,
        "CpuPeriod": res.cpu_period,
        "CpuQuota": res.cpu_quota,
        "CpuRealtimePeriod": res.cpu_rt_period,
        "CpuRealtimeRuntime": res.cpu_rt_runtime,
        "CpusetCpus": res.cpuset_cpus,
        "CpusetMems": res.cpuset_mems,
        "PidsLimit": res.pids_limit,
        "OomKillDisable": res.oom_kill_disable,
        "BlkioWeight": res.blkio_weight,
        "BlkioWeightDevice": [{"Path": each.path, "Weight": each.value} for each in res.blkio_weight_device],
        "BlkioDeviceReadBps": _rates(res.device_read_bps),
        "BlkioDeviceWriteBps": _rates(res.device_write_bps),
        "BlkioDeviceReadIOps": _rates(res.device_read_iops),
        "BlkioDeviceWriteIOps": _rates(res.device_write_iops),
    }


def _rates(found: tuple[DeviceLimit, ...]) -> list[dict[str, object]]:
    return [{"Path": each.path, "Rate": each.value} for each in found]


def _bind(mount: Mount) -> str:
    options = _options(mount)
    return ":".join([mount.source, mount.target, *([",".join(options)] if options else [])])


def _options(mount: Mount) -> list[str]:
    return [*mount.options, *(["ro"] if mount.read_only else [])]


def _ulimit(rule: tuple[str, int, int]) -> dict[str, object]:
    name, soft, hard = rule
    return {"Name": name, "Soft": soft, "Hard": hard}


def bindings(ports: tuple[PortMapping, ...]) -> dict[str, list[dict[str, str]]]:
    view: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        key = f"{port.container_port}/{port.protocol}"
        number = f"{port.host_port}-{port.host_port_last}" if port.host_port_last else str(port.host_port)
        view.setdefault(key, []).append({"HostIp": port.host_ip, "HostPort": number})
    return view
