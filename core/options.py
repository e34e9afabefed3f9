"""The small languages that people write in options and forms: ports, links, volumes, mounts, environment."""

from __future__ import annotations

import ipaddress
import os
import re

from core.errors import InvalidArgument
from core.model import DeviceLimit, DeviceMapping, Mount, PortMapping
from core.names import check_name, make_id
from core.units import parse_size

_IGNORED = frozenset({"z", "Z", "nocopy", "cached", "delegated", "consistent"})  # have no meaning here, or no effect
_PORT = re.compile(r"(?:(?P<ip>\[[^\]]*\]|[^:\[\]]*):(?=.*:))?(?:(?P<host>[^:]*):)?(?P<box>[^:/]+)(?:/(?P<proto>\w+))?")


def parse_ports(text: str) -> list[PortMapping]:
    """``80``, ``8080:80/udp``, ``127.0.0.1:8080:80``, ``[::1]::80``, ``8000-8009:80-89``; ``8000-8009:80`` is the first
    free one of the range.

    :raises InvalidArgument: not one of these
    """
    match = _PORT.fullmatch(text)
    if not match:
        raise _bad_port(text, "it is not [IP:][HOST:]CONTAINER[/PROTOCOL]")
    ip = (match["ip"] or "").strip("[]")
    try:
        if ip:
            ipaddress.ip_address(ip)
    except ValueError:
        raise _bad_port(text, f"{ip!r} is not an IP address") from None
    protocol = (match["proto"] or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp"):
        raise _bad_port(text, f"{protocol!r} cannot be published: only tcp, udp and sctp can")
    box = _range(text, match["box"])
    host = _range(text, match["host"]) if match["host"] else [0] * len(box)
    if len(box) == 1 and len(host) > 1:
        return [PortMapping(box[0], host[0], protocol, ip, host[-1])]
    if len(host) != len(box):
        raise _bad_port(text, "the two ranges differ in length")
    return [PortMapping(inner, outer, protocol, ip) for inner, outer in zip(box, host, strict=True)]


def _range(text: str, part: str) -> list[int]:
    first, dash, last = part.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise _bad_port(text, f"{part!r} is not a port")
    low, high = int(first), int(last or first)
    if not 0 < low <= high < 65536:
        raise _bad_port(text, f"{part!r} is not between 1 and 65535")
    return list(range(low, high + 1))


def _bad_port(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid port {text!r}", why, "Write it like 8080:80 or 127.0.0.1:53:53/udp")


def parse_link(text: str) -> tuple[str, str]:
    """(container, alias) of ``NAME`` or ``NAME:ALIAS``; "" where no alias is given. A slash before the name, as
    Docker's clients send it, is no part of it.

    :raises InvalidArgument: neither
    """
    name, colon, alias = text.removeprefix("/").partition(":")
    if not name or (colon and not alias) or ":" in alias:
        raise InvalidArgument(f"invalid link {text!r}", "it is not NAME or NAME:ALIAS", "Write it like db:database")
    return name, alias


def parse_volume(text: str) -> Mount:
    """``/host:/inside[:ro]``, ``name:/inside``, or ``/inside`` for a volume without a name of yours. A host folder that
    is not there will be made, as docker does it for this word and not for ``--mount``.

    :raises InvalidArgument: not one of these
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"invalid volume {text!r}", "it is not SOURCE:TARGET[:OPTIONS]", "Say /data:/data:ro")
    if len(parts) == 1:
        return _checked(text, Mount("volume", make_id(), parts[0]))
    source, target = parts[0], parts[1]
    options = [word for word in (parts[2] if len(parts) > 2 else "").split(",") if word and word not in _IGNORED]
    read_only = "ro" in options
    rest = tuple(word for word in options if word not in ("ro", "rw"))
    if source.startswith(("/", ".", "~")):
        return _checked(text, Mount("bind", _host_path(source), target, read_only, rest, make=True))
    if "/" in source:
        raise InvalidArgument(
            f"invalid volume {text!r}",
            f"{source!r} is taken for the name of a volume, which has no slash",
            f"Write a folder of this machine as ./{source}, or from / on",
        )
    return _checked(text, Mount("volume", check_name(source), target, read_only, rest))


def _host_path(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text))


def _checked(text: str, mount: Mount) -> Mount:
    if not mount.target.startswith("/"):
        raise InvalidArgument(f"invalid mount {text!r}", f"the target {mount.target!r} is not an absolute path")
    return mount


def split_env(text: str) -> tuple[str, str | None]:
    """Name and value of ``KEY=VALUE``; the value of ``KEY`` alone is ``None``.

    :raises InvalidArgument: there is no name, or white space in it
    """
    key, equals, value = text.partition("=")
    if not key or any(character.isspace() for character in key):
        raise InvalidArgument(
            f"invalid environment variable {text!r}",
            "its name is empty or has a space in it",
            "Write it like KEY=value",
        )
    return key, value if equals else None


def parse_tmpfs(text: str) -> Mount:
    """``/inside`` or ``/inside:size=64m,mode=1777``. :raises InvalidArgument: not an absolute path"""
    target, _, options = text.partition(":")
    return _checked(text, Mount("tmpfs", "", target, False, tuple(filter(None, options.split(",")))))


def parse_mount(text: str) -> Mount:
    """``type=bind,source=/host,target=/inside,readonly`` and the like, as docker's ``--mount``.

    :raises InvalidArgument: an unknown key, or a target or source is missing
    """
    kind, source, target, read_only = "volume", "", "", False
    options: list[str] = []
    for word in text.split(","):
        key, _, value = word.partition("=")
        if key == "type":
            kind = value
        elif key in ("source", "src"):
            source = value
        elif key in ("target", "dst", "destination"):
            target = value
        elif key in ("readonly", "ro"):
            read_only = value.lower() in ("", "true", "1")
        elif key in ("idmap", "ridmap") and value.lower() in ("", "true", "1"):
            options.append(key)
        elif key == "bind-propagation":
            options.append(value)
        elif key in ("tmpfs-size", "tmpfs-mode"):
            options.append(f"{key.removeprefix('tmpfs-')}={value}")
        elif key not in ("volume-nocopy", "consistency"):
            raise InvalidArgument(f"invalid mount {text!r}", f"{key!r} is not known", "Keys: type, src, dst, readonly")
    if kind not in ("bind", "volume", "tmpfs"):
        raise InvalidArgument(f"invalid mount {text!r}", f"there is no type {kind!r}", "Types: bind, volume, tmpfs")
    if kind == "bind":
        if not source:
            raise InvalidArgument(f"invalid mount {text!r}", "a bind mount needs a source", "Add src=/host/folder")
        source = _host_path(source)
    elif kind == "volume":
        source = source or make_id()
    return _checked(text, Mount(kind, source if kind != "tmpfs" else "", target, read_only, tuple(options)))


def parse_device(text: str) -> DeviceMapping:
    """``/dev/sda``, ``/dev/sda:/dev/xvda``, ``/dev/sda:/dev/xvda:r`` or ``/dev/sda:r``; a folder means all in it.

    :raises InvalidArgument: not one of these
    """
    parts = text.split(":")
    access = parts.pop() if len(parts) > 1 and parts[-1] and set(parts[-1]) <= set("rwm") else "rwm"
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise InvalidArgument(
            f"invalid device {text!r}", "it is not HOST[:CONTAINER[:ACCESS]]", "Write it like /dev/fuse or /dev/sda:r"
        )
    return DeviceMapping(parts[0], parts[1] if len(parts) > 1 else "", access)


def parse_device_limit(text: str, *, size: bool = False) -> DeviceLimit:
    """``/dev/sda:500``; with ``size`` also ``/dev/sda:1mb``. :raises InvalidArgument: not so"""
    path, colon, value = text.rpartition(":")
    if not colon or not path.startswith("/dev/") or not (size or value.isdecimal()):
        raise InvalidArgument(
            f"invalid limit of a device {text!r}",
            "it is not PATH:VALUE",
            f"Write it like /dev/sda:{'1mb' if size else '500'}",
        )
    return DeviceLimit(path, parse_size(value) if size else int(value))
