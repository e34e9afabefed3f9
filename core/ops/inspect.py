"""``inspect``: one object in the shape that Docker's clients know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import NotFound, WharfError
from core.model import Container, Healthcheck, Image, State
from core.ops import records
from core.ops.health import effective
from core.ops.inspect_host import host_config
from core.ops.inspect_image import health_view, image_view
from core.ops.inspect_network import network_settings, network_view
from core.units import rfc3339

if TYPE_CHECKING:
    from core.ops.context import Context


async def inspect(ctx: Context, ref: str) -> dict[str, object]:
    """A container, else an image, else a network. :raises NotFound: none of them has that name or id"""
    try:
        record = await records.find(ctx, ref)
        image = await _image_or_none(ctx, record.image)
        return container_view(records.snapshot(ctx, record), record.config, image)
    except NotFound:
        pass
    try:
        return image_view(ctx, await ctx.images.get(ref))
    except WharfError as error:
        if not isinstance(error, NotFound):
            raise
    for network in await ctx.net.describe():
        if ref in (network.name, network.id) or (len(ref) >= 4 and network.id.startswith(ref)):
            return await network_view(ctx, network)
    raise NotFound(f"no such object: {ref}", "no container, image or network has that name or id")


async def _image_or_none(ctx: Context, image_id: str) -> Image | None:
    try:
        return await ctx.images.get(image_id)
    except NotFound:
        return None


def container_view(box: Container, config: records.Config, image: Image | None) -> dict[str, object]:
    """``docker inspect`` of a container (Engine API, ContainerInspectResponse)."""
    spec = box.spec
    return {
        "Id": box.id,
        "Created": rfc3339(box.created),
        "Path": box.argv[0] if box.argv else "",
        "Args": list(box.argv[1:]),
        "State": _state_view(box),
        "Image": box.image_id,
        "Name": f"/{box.name}",
        "RestartCount": box.restarts,
        "Driver": "overlay",
        "Platform": "linux",
        "LogPath": box.log_path,
        "Bundle": box.bundle,
        "Config": {
            "Hostname": config.hostname,
            "Domainname": spec.domainname,
            "User": spec.user or config.image.user,
            "Tty": spec.tty,
            "OpenStdin": spec.stdin_open,
            "Env": [*config.image.env, *spec.env],
            "Cmd": list(config.image.cmd if spec.command is None else spec.command),
            "Entrypoint": list(config.image.entrypoint if spec.entrypoint is None else spec.entrypoint) or None,
            "Image": spec.image,
            "WorkingDir": spec.working_dir or config.image.working_dir,
            "Labels": {**config.image.labels, **spec.labels},
            "StopSignal": spec.stop_signal or config.image.stop_signal or "SIGTERM",
            "StopTimeout": round(spec.stop_timeout),
            "Healthcheck": health_view(_check(spec.healthcheck, config.image.healthcheck)),
            "ExposedPorts": {port: {} for port in config.image.exposed_ports},
        },
        "HostConfig": host_config(box),
        "GraphDriver": {"Name": "overlay", "Data": {"LowerDir": ":".join(config.layers)}},
        "Mounts": [
            {"Type": m.kind, "Source": m.source, "Destination": m.target, "RW": not m.read_only} for m in spec.mounts
        ],
        "NetworkSettings": network_settings(box),
        "ImageTags": list(image.tags) if image else [],
    }


def _state_view(box: Container) -> dict[str, object]:
    view: dict[str, object] = {
        "Status": box.state.value,
        "Running": box.state.live,
        "Paused": box.state is State.PAUSED,
        "Restarting": box.state is State.RESTARTING,
        "OOMKilled": box.oom_killed,
        "Dead": box.state is State.DEAD,
        "Pid": box.pid,
        "ExitCode": 0 if box.exit_code is None else box.exit_code,
        "Error": box.error,
        "StartedAt": rfc3339(box.started),
        "FinishedAt": rfc3339(box.finished),
    }
    if box.health:
        view["Health"] = {"Status": box.health}
    return view


def _check(own: Healthcheck | None, images: Healthcheck | None) -> Healthcheck | None:
    """The check that runs; else the word that switched it off."""
    return effective(own, images) or own or images
