"""Containers, images and networks as the rows of docker's lists: every value is text, as its formatters have it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.cli.output import Row, quoted, shorten
from core.model import State
from core.model.netlook import port_numbers, port_ranges
from core.names import familiar as familiar
from core.units import human_age, human_size

if TYPE_CHECKING:
    from core.model import Container, Image, Network, PortMapping

_HEALTH = {"starting": " (health: starting)", "healthy": " (healthy)", "unhealthy": " (unhealthy)"}


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
    return ", ".join(map(_group, port_ranges(mappings, lambda port: port)))


def _group(group: list[PortMapping]) -> str:
    ip = group[0].host_ip or "0.0.0.0"
    host, inner = port_numbers(group)
    return f"{f'[{ip}]' if ':' in ip else ip}:{host}->{inner}/{group[0].protocol}"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def container_row(box: Container, *, truncate: bool = True, size: tuple[int, int] | None = None) -> Row:
    """One line of ``ps``.

    :param size: bytes of what it has written, and of that with its image, where they were asked for
    """
    command = " ".join(box.argv)
    return {
        "ID": box.short_id if truncate else box.id,
        "Image": _image(box, truncate=truncate),
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
        "Networks": ",".join(end.network for end in box.spec.networks) or box.spec.network,
        "RestartCount": str(box.restarts),
        "Size": f"{human_size(size[0])} (virtual {human_size(size[1])})" if size else "",
    }


def _image(box: Container, *, truncate: bool) -> str:
    """As it was named; by its id where that name is no longer this image's, as docker has it."""
    if not box.image_moved:
        return familiar(box.spec.image)
    return box.image_id.removeprefix("sha256:")[:12] if truncate else box.image_id


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
        "Subnet": ", ".join(one.subnet for one in network.subnets),
        "Gateway": ", ".join(one.gateway for one in network.subnets),
        "IPv6": "true" if network.ipv6 else "false",
        "IPv4": "true" if network.of_version(4) else "false",
        "Internal": "true" if network.internal else "false",
        "Labels": _labels(network.labels),
        "Label": lambda key: network.labels.get(key, ""),
        "CreatedAt": local_time(network.created),
    }
