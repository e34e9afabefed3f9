"""Containers, images and networks as the rows of docker's lists: every value is text, as its formatters have it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from core.cli.output import Row, quoted, shorten
from core.model import Container, Image, Network, PortMapping, State
from core.units import human_age, human_size

_HEALTH = {"starting": " (health: starting)", "healthy": " (healthy)", "unhealthy": " (unhealthy)"}
_DOCKER_HUB = ("docker.io/library/", "docker.io/")


def familiar(reference: str) -> str:
    """``docker.io/library/busybox:1`` as people write it: ``busybox:1``."""
    return next((reference[len(start) :] for start in _DOCKER_HUB if reference.startswith(start)), reference)


def ago(when: float) -> str:
    return f"{human_age(time.time() - when)} ago" if when else ""


def local_time(when: float) -> str:
    """``2024-05-01 12:00:00 +0200 CEST``, as Go prints a time."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(when))


def status(box: Container) -> str:
    """``Up 3 hours (healthy)``, ``Exited (137) 2 minutes ago`` …"""
    if box.state.live and box.started:
        if box.state is State.PAUSED:
            return f"Up {human_age(time.time() - box.started)} (Paused)"
        return f"Up {human_age(time.time() - box.started)}{_HEALTH.get(box.health, '')}"
    code = "unknown" if box.exit_code is None else str(box.exit_code)
    if box.state is State.RESTARTING:
        return f"Restarting ({code}) {ago(box.finished)}".rstrip()
    if box.state in (State.EXITED, State.UNKNOWN):
        return f"Exited ({code}) {ago(box.finished)}".rstrip()
    return "Removal In Progress" if box.state is State.REMOVING else box.state.value.capitalize()


def ports(mappings: Sequence[PortMapping]) -> str:
    """``0.0.0.0:8080->80/tcp``, ranges that lie side by side joined as docker joins them."""
    groups: list[list[PortMapping]] = []
    for port in sorted(mappings, key=lambda p: (p.protocol, p.host_ip, p.container_port, p.host_port)):
        last = groups[-1][-1] if groups else None
        if last and (last.protocol, last.host_ip, last.container_port + 1, last.host_port + 1) == (
            port.protocol,
            port.host_ip,
            port.container_port,
            port.host_port,
        ):
            groups[-1].append(port)
        else:
            groups.append([port])
    return ", ".join(_group(group) for group in groups)


def _group(group: list[PortMapping]) -> str:
    first, last = group[0], group[-1]
    ip = first.host_ip or "0.0.0.0"
    host = f"{first.host_port}-{last.host_port}" if last is not first else str(first.host_port)
    inner = f"{first.container_port}-{last.container_port}" if last is not first else str(first.container_port)
    return f"{f'[{ip}]' if ':' in ip else ip}:{host}->{inner}/{first.protocol}"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def container_row(box: Container, *, truncate: bool = True) -> Row:
    """One line of ``ps``."""
    command = " ".join(box.argv)
    return {
        "ID": box.short_id if truncate else box.id,
        "Image": familiar(box.spec.image),
        "Command": quoted(shorten(command, 20) if truncate else command),
        "CreatedAt": local_time(box.created),
        "RunningFor": ago(box.created),
        "Ports": ports(box.ports) if box.state.live else "",
        "State": box.state.value,
        "Status": status(box),
        "Names": box.name,
        "Labels": _labels(box.spec.labels),
        "Label": lambda key: box.spec.labels.get(key, ""),
        "Mounts": ",".join(shorten(m.source, 15) if truncate else m.source for m in box.spec.mounts if m.source),
        "LocalVolumes": str(sum(m.kind == "volume" for m in box.spec.mounts)),
        "Networks": box.spec.network,
        "RestartCount": str(box.restarts),
    }


def image_rows(image: Image, *, truncate: bool = True, digests: bool = False) -> list[Row]:
    """The lines of one image in ``images``: one per tag; with ``digests`` also for those that have a digest only."""
    known = {_repository(digest, "@"): digest.partition("@")[2] for digest in image.repo_digests}
    names = [(_repository(tag, ":"), tag.rpartition(":")[2]) for tag in image.tags]
    if not names:
        names = [(repository, "<none>") for repository in known] or [("<none>", "<none>")]
    return [
        {
            "ID": image.short_id if truncate else image.id,
            "Repository": familiar(repository),
            "Tag": tag,
            "Digest": known.get(repository, "<none>"),
            "CreatedAt": local_time(image.created),
            "CreatedSince": ago(image.created) or "N/A",
            "Size": human_size(image.size),
            "VirtualSize": human_size(image.size),
            "Architecture": image.architecture,
        }
        for repository, tag in names
    ]


def _repository(reference: str, mark: str) -> str:
    """What stands before the tag (``:``) or the digest (``@``)."""
    return reference.partition("@")[0] if mark == "@" else reference.rpartition(":")[0]


def network_row(network: Network, *, truncate: bool = True) -> Row:
    """One line of ``network ls``."""
    return {
        "ID": network.short_id if truncate else network.id,
        "Name": network.name,
        "Driver": network.driver,
        "Scope": "local",
        "Subnet": network.subnet,
        "Gateway": network.gateway,
        "Internal": "true" if network.internal else "false",
        "Labels": _labels(network.labels),
        "Label": lambda key: network.labels.get(key, ""),
        "CreatedAt": local_time(network.created),
    }
