"""What one start needs: the OCI bundle (``config.json``, and the three files about names that every container gets),
and the monitor's :class:`Launch`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from core.dns import ADDRESS
from core.errors import InvalidArgument
from core.model import ContainerSpec, EndpointInfo
from core.model.network import is_network
from core.net import names
from core.ops import etc, records, runtimes, wiring
from core.ops.context import Context
from core.ops.health import effective
from core.ops.records import Record
from core.runtime import seccomp
from core.runtime import spec as oci
from core.runtime.defaults import Json
from core.runtime.limits import cgroup_limits
from core.runtime.points import MOST_ABOVE, lowest_layer
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
        lower=lower(inst, record.config.layers),
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
        firewall=inst.nft_table,
        uplink=ctx.net.way_out(spec.network),
        isolated=wiring.is_isolated(spec),
        attributes={"name": record.name, "image": spec.image},
    )


def lower(inst: Instance, layers: tuple[str, ...]) -> tuple[str, ...]:
    """What lies below the container's own layer; an image may be without any, or have as many as there can be."""
    return (*layers, str(lowest_layer(inst.base))) if 0 < len(layers) <= MOST_ABOVE else layers


def config(ctx: Context, record: Record, joined: Mapping[str, str]) -> Json:
    """The OCI configuration. May look at the host's files (:func:`core.ops.validate.names_files`).

    :param joined: kind → path of each namespace that is another container's (see :mod:`core.ops.joins`)
    :raises InvalidArgument: a value that no container can have
    """
    inst, cid, spec = ctx.inst, record.id, record.spec
    folder = inst.container_dir(cid)
    for mount in spec.mounts:
        if mount.kind == "bind" and mount.make:
            # To be of use to the container's root; where the mount maps ids, the host's is seen as that.
            ids = () if {"idmap", "ridmap"} & set(mount.options) else record.config.ids
            _make_source(Path(mount.source), ids[0] if ids else None)
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


def known_filter(ctx: Context, config: Json) -> bytes | None:
    """The seccomp filter that goes with it (empty: none), where it has been made before; see :func:`make_filter`."""
    rules = cast(Json, config["linux"]).get("seccomp")
    return b"" if rules is None else seccomp.recent(cast("dict[str, object]", rules), ctx.inst.run / "cache")


def make_filter(ctx: Context, config: Json) -> bytes:
    """:raises InvalidArgument: the seccomp profile cannot be compiled"""
    return seccomp.compiled(cast("dict[str, object]", cast(Json, config["linux"])["seccomp"]), ctx.inst.run / "cache")


def write_names(ctx: Context, record: Record, config: Json | None) -> list[etc.Owed]:
    """Write what must be there when the container's mounts are made: resolv.conf and hostname; hosts too, which where
    an address will come stays as it is, or empty.

    :param config: the rest as well
    :returns: for :func:`write_rest`
    """
    folder = ctx.inst.container_dir(record.id)
    # The record of the run before would be taken for this one's.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / "exit.json")
    texts = {"resolv.conf": _resolv_conf(ctx, record), "hostname": names.hostname_file(record.config.hostname)}
    owed = [etc.begin(folder / name, text) for name, text in texts.items()]
    if config is not None:
        oci.write_bundle(folder, config, ctx.inst.run / "cache")
    written = [each for each in owed if each is not None]
    if not gets_address(record.spec):
        return written + begin_hosts(ctx, record, ())
    etc.reserve(folder / "hosts")
    return written


def begin_hosts(
    ctx: Context, record: Record, endpoints: tuple[EndpointInfo, ...], linked: Sequence[str] = ()
) -> list[etc.Owed]:
    """:func:`write_hosts`, for a start. :returns: for :func:`write_rest`"""
    owed = etc.begin(ctx.inst.container_dir(record.id) / "hosts", _hosts(record, endpoints, linked), merge=True)
    return [] if owed is None else [owed]


def write_rest(ctx: Context, record: Record, config: Json, owed: Sequence[etc.Owed]) -> None:
    """Write what only those read who come after the start: another monitor, whoever looks."""
    for path, text in owed:
        etc.note(path, text)
    oci.write_bundle(ctx.inst.container_dir(record.id), config, ctx.inst.run / "cache")


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


def _make_source(path: Path, owner: int | None = None) -> None:
    """The host's folder, and those above it, where there is nothing.

    :param owner: user and group of what is made; None: ours
    :raises InvalidArgument: it cannot be made
    """
    at = -1
    try:
        at = os.open("/", os.O_PATH | os.O_DIRECTORY)
        for name in path.parts[1:]:
            try:  # what is there already may be a link, as docker has it
                below = os.open(name, os.O_PATH, dir_fd=at)
            except FileNotFoundError:
                below = _made_in(at, name, owner)
            os.close(at)
            at = below
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidArgument(f"cannot mount {path}", f"it does not exist, and cannot be made: {reason}", "") from error
    finally:
        if at >= 0:
            os.close(at)


def _made_in(parent: int, name: str, owner: int | None) -> int:
    """A new folder in another, open. By descriptors: whoever may write there can put a link, or a folder that was there
    before, in its place at any moment, and what that leads to must keep its mode and owner."""
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:  # somebody was faster
        return os.open(name, os.O_PATH, dir_fd=parent)
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        if os.fstat(made).st_uid == os.geteuid() and not os.listdir(made):
            os.fchmod(made, 0o755)  # whatever our umask is, as a daemon would make it
            if owner is not None:
                os.fchown(made, owner, owner)
    except BaseException:
        os.close(made)
        raise
    return made


@functools.cache
def cleanup_argv(inst: Instance) -> tuple[str, ...]:
    """The command line of ``ops/cleanup.py``; the monitor appends the container's id."""
    home = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {home!r}); from core.ops.cleanup import main; main()"
    return (sys.executable, "-I", "-S", "-c", code, str(inst.root), str(inst.run))


def gets_address(spec: ContainerSpec) -> bool:
    """Does it get an address of its own, once it is attached to its network?"""
    return is_network(spec.network)


def write_hosts(ctx: Context, record: Record, endpoints: tuple[EndpointInfo, ...], linked: Sequence[str] = ()) -> None:
    """Write /etc/hosts.

    :param linked: see :func:`core.ops.links.linked`
    """
    etc.renew(ctx.inst.container_dir(record.id) / "hosts", _hosts(record, endpoints, linked), merge=True)


def _hosts(record: Record, endpoints: tuple[EndpointInfo, ...], linked: Sequence[str] = ()) -> str:
    return names.hosts_file(
        [address for end in endpoints for address in (end.ip, end.ip6) if address],
        record.config.hostname,
        domainname=record.spec.domainname,
        extra_hosts=(*record.spec.extra_hosts, *linked),
        gateway=next((end.gateway for end in endpoints if end.gateway), ""),
    )


def write_resolv_conf(ctx: Context, record: Record) -> None:
    """Write /etc/resolv.conf."""
    etc.renew(ctx.inst.container_dir(record.id) / "resolv.conf", _resolv_conf(ctx, record))


def _resolv_conf(ctx: Context, record: Record) -> str:
    spec = record.spec
    # An ordinary user's container reaches the host's servers, which may be on its loopback, by the way out.
    forwarded = ctx.net.forwarded_dns if gets_address(spec) else ""
    text = names.resolv_conf(
        names.host_resolv_conf(),
        spec.dns or tuple([forwarded] * bool(forwarded)),
        search=spec.dns_search,
        options=spec.dns_options,
        host_network=spec.network == "host",
        resolver=ADDRESS if wiring.has_resolver(spec) else "",
    )
    kind, _, other = spec.network.partition(":")
    if kind == "container" and not spec.dns:
        # The servers are those of the network that it shares.
        with contextlib.suppress(FileNotFoundError):
            text = (ctx.inst.container_dir(other) / "resolv.conf").read_text()
    return text
