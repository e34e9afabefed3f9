"""The docker command that does the same: shown with the run form and copied by its key. Pure; no Textual."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from core.model import ContainerSpec, DeviceMapping, EndpointSpec, Mount, PortMapping, Resources


def _port(port: PortMapping) -> str:
    address = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    host = f"{address}:" if address else ""
    number = str(port.host_port) if port.host_port else ""
    number += f"-{port.host_port_last}" if port.host_port_last else ""
    # Docker's grammar: an address needs its colon even where the host port is left open.
    left = f"{host}{number}:" if host or number else ""
    protocol = "" if port.protocol == "tcp" else f"/{port.protocol}"
    return f"{left}{port.container_port}{protocol}"


def _mount(mount: Mount) -> list[str]:
    if mount.kind == "tmpfs":
        return ["--tmpfs", mount.target + (":" + ",".join(mount.options) if mount.options else "")]
    if mount.kind == "bind" and not mount.make:
        return ["--mount", _csv(_bind(mount))]
    options = [*mount.options, *(["ro"] if mount.read_only else [])]
    return ["-v", ":".join([mount.source, mount.target, *([",".join(options)] if options else [])])]


def _bind(mount: Mount) -> Iterator[str]:
    """Unlike ``-v``, it makes no folder where there is none."""
    yield from ("type=bind", f"source={mount.source}", f"target={mount.target}")
    yield from ("readonly" for _ in range(mount.read_only))
    for option in mount.options:
        yield option if option in ("idmap", "ridmap") else f"bind-propagation={option}"


def _device(device: DeviceMapping) -> str:
    access = "" if device.access == "rwm" else f":{device.access}"
    return f"{device.host}{f':{device.container}' if device.container else ''}{access}"


def _memory(count: int) -> str:
    for unit, size in (("g", 1024**3), ("m", 1024**2), ("k", 1024)):
        if count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def _resources(limits: Resources) -> Iterator[str]:
    if limits.memory:
        yield from ("--memory", _memory(limits.memory))
    if limits.memory_swap:
        yield from ("--memory-swap", "-1" if limits.memory_swap < 0 else _memory(limits.memory_swap))
    if limits.memory_reservation:
        yield from ("--memory-reservation", _memory(limits.memory_reservation))
    if limits.memory_swappiness >= 0:
        yield from ("--memory-swappiness", str(limits.memory_swappiness))
    if limits.nano_cpus:
        yield from ("--cpus", f"{limits.nano_cpus / 1e9:g}")
    for flag, value in (
        ("--cpu-shares", limits.cpu_shares),
        ("--cpu-period", limits.cpu_period),
        ("--cpu-quota", limits.cpu_quota),
        ("--cpu-rt-period", limits.cpu_rt_period),
        ("--cpu-rt-runtime", limits.cpu_rt_runtime),
        ("--cpuset-cpus", limits.cpuset_cpus),
        ("--cpuset-mems", limits.cpuset_mems),
        ("--pids-limit", limits.pids_limit),
        ("--blkio-weight", limits.blkio_weight),
    ):
        if value:
            yield from (flag, str(value))
    for flag, found in (
        ("--blkio-weight-device", limits.blkio_weight_device),
        ("--device-read-bps", limits.device_read_bps),
        ("--device-write-bps", limits.device_write_bps),
        ("--device-read-iops", limits.device_read_iops),
        ("--device-write-iops", limits.device_write_iops),
    ):
        for each in found:
            yield from (flag, f"{each.path}:{each.value}")


def _restart(spec: ContainerSpec) -> Iterator[str]:
    policy = spec.restart
    if policy.name and policy.name != "no":
        yield from ("--restart", policy.name + (f":{policy.max_retries}" if policy.max_retries else ""))


def _health(spec: ContainerSpec) -> Iterator[str]:
    check = spec.healthcheck
    if check is None:
        return
    if check.test[:1] == ("NONE",):
        yield "--no-healthcheck"
        return
    if check.test:
        words = check.test[1:] if check.test[0] in ("CMD", "CMD-SHELL") else check.test
        yield from ("--health-cmd", words[0] if check.test[0] == "CMD-SHELL" else shlex.join(words))
    for flag, seconds in (
        ("--health-interval", check.interval),
        ("--health-timeout", check.timeout),
        ("--health-start-period", check.start_period),
        ("--health-start-interval", check.start_interval),
    ):
        if seconds:  # 0: the image's, as docker says it too
            yield from (flag, f"{seconds:g}s")
    if check.retries:
        yield from ("--health-retries", str(check.retries))


def _flags(spec: ContainerSpec) -> Iterator[str]:
    for flag, on in (
        ("--rm", spec.auto_remove),
        ("-t", spec.tty),
        ("-i", spec.stdin_open),
        ("--init", spec.init),
        ("--privileged", spec.privileged),
        ("--read-only", spec.read_only),
        ("-P", spec.publish_all),
        ("--oom-kill-disable", spec.resources.oom_kill_disable),
    ):
        if on:
            yield flag
    for flag, value in (
        ("--hostname", spec.hostname),
        ("--domainname", spec.domainname),
        ("--user", spec.user),
        ("--workdir", spec.working_dir),
        ("--network", "" if spec.network in ("", "bridge") or spec.networks else spec.network),
        ("--stop-signal", spec.stop_signal),
        ("--stop-timeout", "" if spec.stop_timeout == ContainerSpec.stop_timeout else f"{spec.stop_timeout:g}"),
        ("--shm-size", "" if spec.shm_size == ContainerSpec.shm_size else _memory(spec.shm_size)),
        ("--ipc", "" if spec.ipc == "private" else spec.ipc),
        ("--pid", "" if spec.pid == "private" else spec.pid),
        ("--uts", "" if spec.uts == "private" else spec.uts),
        ("--cgroupns", "" if spec.cgroupns == "private" else spec.cgroupns),
        ("--userns", spec.userns),
        ("--runtime", spec.runtime),
        ("--platform", spec.platform),
        ("--cgroup-parent", spec.cgroup_parent and f"/{spec.cgroup_parent}"),
        ("--oom-score-adj", str(spec.oom_score_adj or "")),
    ):
        if value:
            yield from (flag, value)


def _lists(spec: ContainerSpec) -> Iterator[str]:
    for flag, values in (
        ("-e", spec.env),
        ("--label", tuple(f"{key}={value}" for key, value in spec.labels.items())),
        ("--cap-add", spec.cap_add),
        ("--cap-drop", spec.cap_drop),
        ("--security-opt", spec.security_opt),
        ("--sysctl", tuple(f"{key}={value}" for key, value in spec.sysctls.items())),
        ("--ulimit", spec.ulimits),
        ("--group-add", spec.group_add),
        ("--device", tuple(_device(each) for each in spec.devices)),
        ("--device-cgroup-rule", spec.device_cgroup_rules),
        ("--volumes-from", spec.volumes_from),
        ("--annotation", tuple(f"{key}={value}" for key, value in spec.annotations.items())),
        ("--network", tuple(_network(end) for end in spec.networks)),
        ("--link", spec.links),
        ("--dns", spec.dns),
        ("--dns-search", spec.dns_search),
        ("--dns-option", spec.dns_options),
        ("--add-host", spec.extra_hosts),
    ):
        for value in values:
            yield from (flag, value)


def _network(end: EndpointSpec) -> str:
    """``name=web,alias=db,…``: what has no words in docker's is left out."""
    options = [f"com.docker.network.endpoint.ifname={end.interface}"] if end.interface else []
    if end.sysctls:
        pairs = ",".join(f"{key}={value}" for key, value in end.sysctls.items())
        options.append(f"com.docker.network.endpoint.sysctls={pairs}")
    words = [("alias", alias) for alias in end.aliases] + [("ip", end.ip), ("ip6", end.ip6), ("mac-address", end.mac)]
    words += [("gw-priority", str(end.priority or "")), *(("driver-opt", option) for option in options)]
    given = [f"{key}={value}" for key, value in words if value]
    return _csv([f"name={end.network}", *given]) if given else end.network


def _csv(words: Iterable[str]) -> str:
    """As docker reads it: a line of CSV."""
    return ",".join(f'"{word}"' if "," in word else word for word in words)


def docker_run(spec: ContainerSpec, *, name: str = "") -> str:
    """``docker run -d …`` for ``spec``, quoted for a shell."""
    words = ["docker", "run", "-d"]
    if name or spec.name:
        words += ["--name", name or spec.name]
    words += _flags(spec)
    for port in spec.ports:
        words += ["-p", _port(port)]
    words += _lists(spec)
    for mount in spec.mounts:
        words += _mount(mount)
    words += [*_resources(spec.resources), *_restart(spec), *_health(spec)]
    rest = list(spec.command or ())
    if spec.entrypoint:
        # On the command line an entrypoint is one word; its further words go before the command's.
        words += ["--entrypoint", spec.entrypoint[0]]
        rest = [*spec.entrypoint[1:], *rest]
    return shlex.join([*words, spec.image or "IMAGE", *rest])
