"""What one start needs: the OCI bundle (``config.json``, and the three files about names that every container gets),
and the monitor's :class:`Launch`."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from core.model import ContainerSpec, EndpointInfo
from core.net import names
from core.ops import records, runtimes
from core.ops.context import Context
from core.ops.health import effective
from core.ops.records import Record
from core.runtime import spec as oci
from core.runtime.defaults import Json
from core.runtime.limits import cgroup_limits
from core.store.paths import Instance
from core.supervise.protocol import Launch

_ETC = ("hosts", "resolv.conf", "hostname")


def launch(ctx: Context, record: Record) -> Launch:
    """What the monitor must know beforehand: nothing of it needs anything to be made."""
    inst, cid, spec = ctx.inst, record.id, record.spec
    folder = inst.container_dir(cid)
    return Launch(
        id=cid,
        bundle=str(folder),
        run_dir=str(inst.container_run(cid)),
        lower=record.config.layers,
        upper=str(folder / "upper"),
        work=str(folder / "work"),
        cgroup=records.cgroup(ctx, cid, record),
        exit_path=str(folder / "exit.json"),
        events=str(inst.events),
        engines=str(inst.engines),
        log_path=str(inst.log_path(cid)),
        tty=spec.tty,
        stdin_open=spec.stdin_open,
        log=spec.log,
        restart=spec.restart,
        healthcheck=effective(spec.healthcheck, record.config.image.healthcheck),
        map_ids=bool(record.config.ids),
        runtime=runtimes.command(spec.runtime),
        cleanup=cleanup_argv(inst),
        attributes={"name": record.name, "image": spec.image},
    )


def config(ctx: Context, record: Record, joined: Mapping[str, str]) -> Json:
    """The OCI configuration. May look at the host's files (:func:`core.ops.validate.names_files`).

    :param joined: kind → path of each namespace that is another container's (see :mod:`core.ops.joins`)
    :raises InvalidArgument: a value that no container can have
    """
    inst, cid, spec = ctx.inst, record.id, record.spec
    folder = inst.container_dir(cid)
    return oci.build_config(
        spec,
        record.config.image,
        cid=cid,
        argv=record.config.argv,
        hostname=record.config.hostname,
        rootfs="rootfs",
        cgroup_path=f"/{records.cgroup(ctx, cid, record)}",
        etc_files={f"/etc/{name}": str(folder / name) for name in _ETC},
        netns="host" if spec.network == "host" else "new",
        first_id=record.config.ids[0] if record.config.ids else 0,
        joined=joined,
        volumes=_volumes(inst, spec),
    )


def for_monitor(config: Json) -> Json:
    """The configuration without the rules of the seccomp filter, by far its largest part."""
    linux = cast(Json, config["linux"])
    if "seccomp" not in linux:
        return config
    rest = {key: value for key, value in cast(Json, linux["seccomp"]).items() if key != "syscalls"}
    return {**config, "linux": {**linux, "seccomp": rest}}


def write(ctx: Context, record: Record, config: Json) -> None:
    """Write everything that the container's side needs to read."""
    folder = ctx.inst.container_dir(record.id)
    _write_names(ctx, record)
    oci.write_bundle(folder, config, ctx.inst.run / "cache")
    # The record of the run before would be taken for this one's.
    (folder / "exit.json").unlink(missing_ok=True)


def rewrite_resources(inst: Instance, cid: str, spec: ContainerSpec) -> Json:
    """Put other limits into the bundle of a container that runs; returns its ``linux.resources``.

    What else it says, device rules with it, stays as it was when the container was started.
    """
    path = inst.container_dir(cid) / "config.json"
    config = json.loads(path.read_bytes())
    resources = {"devices": config["linux"]["resources"]["devices"], **cgroup_limits(spec.resources)}
    config["linux"]["resources"] = resources
    oci.replace_file(path, json.dumps(config).encode())
    return resources


def _volumes(inst: Instance, spec: ContainerSpec) -> dict[str, str]:
    """Folders of the named volumes, made at their first use. Name → host path."""
    folders = {}
    for mount in spec.mounts:
        if mount.kind == "volume":
            folder = inst.root / "volumes" / mount.source / "_data"
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            folders[mount.source] = str(folder)
    return folders


@functools.cache
def cleanup_argv(inst: Instance) -> tuple[str, ...]:
    """The command line of ``ops/cleanup.py``; the monitor appends the container's id."""
    home = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {home!r}); from core.ops.cleanup import main; main()"
    return (sys.executable, "-I", "-S", "-c", code, str(inst.root), str(inst.run))


def _rewrite(path: Path, text: str) -> None:
    """In place: a restarted container's bind mount keeps showing the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)  # whatever our umask
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def gets_address(spec: ContainerSpec) -> bool:
    """Does it get an address of its own, once it is attached to its network?"""
    return spec.network not in ("host", "none") and not spec.network.startswith("container:")


def write_hosts(ctx: Context, record: Record, endpoints: tuple[EndpointInfo, ...]) -> None:
    """Write /etc/hosts."""
    end = endpoints[0] if endpoints else EndpointInfo("")
    text = names.hosts_file(
        end.ip,
        record.config.hostname,
        domainname=record.spec.domainname,
        extra_hosts=record.spec.extra_hosts,
        gateway=end.gateway,
    )
    _rewrite(ctx.inst.container_dir(record.id) / "hosts", text)


def _write_names(ctx: Context, record: Record) -> None:
    """Write resolv.conf and hostname; hosts too, where no address will come."""
    spec, folder = record.spec, ctx.inst.container_dir(record.id)
    resolv = names.resolv_conf(names.host_resolv_conf(), spec.dns, host_network=spec.network == "host")
    _rewrite(folder / "resolv.conf", resolv)
    _rewrite(folder / "hostname", names.hostname_file(record.config.hostname))
    if not gets_address(spec):
        write_hosts(ctx, record, ())
