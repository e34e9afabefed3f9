"""``inspect`` of an image, in the shape of Docker's Engine API (ImageInspect)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.images import reference
from core.images.manifest import read_json
from core.ops.health import EVERY_AT_FIRST
from core.units import rfc3339

if TYPE_CHECKING:
    from core.model import Healthcheck, Image
    from core.ops.context import Context

SECOND = 1_000_000_000  # Docker's durations are nanoseconds
_NEVER = ("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce")


def image_view(ctx: Context, image: Image) -> dict[str, object]:
    """All that is known of an image. :raises NotFound: it has just been removed"""
    document = read_json(ctx.images.config_of(image.id))
    history = document.get("history")
    last = history[-1] if isinstance(history, list) and history and isinstance(history[-1], dict) else {}
    view: dict[str, object] = {
        "Id": image.id,
        "RepoTags": [reference.parse(tag).familiar for tag in image.tags],
        "RepoDigests": [reference.parse(name).familiar for name in image.repo_digests],
        "Parent": "",  # nobody keeps those since there are layers by content
        "Comment": str(document.get("comment") or last.get("comment") or ""),
        "Created": document.get("created") or rfc3339(image.created),
        "DockerVersion": str(document.get("docker_version") or ""),
        "Author": str(document.get("author") or ""),
        "Config": _config(image, document),
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay", "Data": _folders(ctx, image)},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "Metadata": {"LastTagTime": rfc3339(0)},
    }
    for key, name in (("variant", "Variant"), ("os.version", "OsVersion")):
        if document.get(key):
            view[name] = document[key]
    if descriptor := ctx.images.descriptor_of(image.id):
        view["Descriptor"] = descriptor
    return view


def _config(image: Image, document: dict[str, Any]) -> dict[str, object]:
    config = image.config
    raw = document.get("config") or {}
    view: dict[str, object] = {"Hostname": "", "Domainname": "", "User": config.user, **dict.fromkeys(_NEVER, False)}
    if config.exposed_ports:
        view["ExposedPorts"] = {port: {} for port in config.exposed_ports}
    view |= {
        "Env": list(config.env),
        "Cmd": list(config.cmd) or None,
        "Image": "",
        "Volumes": {path: {} for path in config.volumes} or None,
        "WorkingDir": config.working_dir,
        "Entrypoint": list(config.entrypoint) or None,
        "OnBuild": raw.get("OnBuild") or None,
        "Labels": dict(config.labels) or None,
    }
    if config.healthcheck:
        view["Healthcheck"] = health_view(config.healthcheck)
    if config.stop_signal:
        view["StopSignal"] = config.stop_signal
    if config.shell:
        view["Shell"] = list(config.shell)
    return view


def _folders(ctx: Context, image: Image) -> dict[str, str]:
    """Where the files are, as overlayfs names them."""
    if not image.layers:
        return {}
    top, *rest = ctx.images.layer_dirs(image)
    lower = {"LowerDir": ":".join(str(path) for path in rest)} if rest else {}
    return {**lower, "UpperDir": str(top)}


def health_view(check: Healthcheck | None) -> dict[str, object] | None:
    """A health check as Docker shows it."""
    if check is None:
        return None
    view: dict[str, object] = {
        "Test": list(check.test),
        "Interval": round(check.interval * SECOND),
        "Timeout": round(check.timeout * SECOND),
        "StartPeriod": round(check.start_period * SECOND),
        "Retries": check.retries,
    }
    # What nobody has asked for is not shown, as by docker.
    if check.start_interval not in (0.0, min(EVERY_AT_FIRST, check.interval)):
        view["StartInterval"] = round(check.start_interval * SECOND)
    return view
