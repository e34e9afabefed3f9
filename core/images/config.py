"""The part of an image configuration that decides how a container runs, read strictly: it is a stranger's text.

Sources: OCI image-spec v1.1, config.md; Docker Image Specification v1.2 (``Healthcheck``, ``Shell``). A wrong type is
refused here, when the image comes in. What is well formed but no container can have (an unknown stop signal, a check
every nanosecond) is refused by ``create``, where the user can say something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from core.errors import Corrupt
from core.model import Healthcheck, ImageConfig

_OURS = "io.wharfinger."  # labels that steer the engine: never an image's to set (CVE-2026-53488)
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp)?)?", re.IGNORECASE)
_SECOND = 1_000_000_000  # nanoseconds, in which images write durations
_MOST = 1 << 63  # Go's int64


def broken(why: str) -> Corrupt:
    """The error for a malformed manifest or configuration."""
    return Corrupt("the image's description is malformed", why, "Tell the image's maker, or use another tag")


def image_config(config: Mapping[str, Any]) -> ImageConfig:
    """Read the object ``config`` of an image configuration; null and absent fields take their default.

    :raises Corrupt: a field of the wrong type
    """
    labels = _labels(config)
    return ImageConfig(
        env=_texts(config, "Env"),
        entrypoint=_command(config, "Entrypoint"),
        cmd=_command(config, "Cmd"),
        user=text(config, "User"),
        working_dir=text(config, "WorkingDir"),
        exposed_ports=tuple(dict.fromkeys(_port(key) for key in _keys(config, "ExposedPorts"))),
        volumes=_keys(config, "Volumes"),
        labels={key: value for key, value in labels.items() if not key.startswith(_OURS)},
        stop_signal=text(config, "StopSignal"),
        healthcheck=_healthcheck(config),
        shell=_texts(config, "Shell"),
    )


def _is_text(value: object) -> bool:
    """A text that can be a word of a command: no zero byte, no half of a surrogate pair."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def text(data: Mapping[str, Any], key: str) -> str:
    """:raises Corrupt: another type"""
    value = data.get(key)
    if value is None:
        return ""
    if not _is_text(value):
        raise broken(f"{key!r} of its configuration is not a text")
    return str(value)


def _texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(_is_text(item) for item in value):
        raise broken(f"{key!r} of its configuration is not a list of texts")
    return tuple(value)


def _command(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list; or one text, as the first versions of Docker wrote commands."""
    if isinstance(data.get(key), str):
        line = text(data, key)
        return ("/bin/sh", "-c", line) if line else ()
    return _texts(data, key)


def _object(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(_is_text(name) for name in value):
        raise broken(f"{key!r} of its configuration is not an object")
    return value


def _keys(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(sorted(_object(data, key)))


def _labels(data: Mapping[str, Any]) -> dict[str, str]:
    value = _object(data, "Labels")
    if not all(_is_text(item) for item in value.values()):
        raise broken("'Labels' of its configuration is not an object of texts")
    return dict(value)


def _port(key: str) -> str:
    """``80``, ``80/TCP`` and ``8000-8010/udp`` as ``80/tcp`` and ``8000-8010/udp``."""
    match = _PORT.fullmatch(key)
    if match:
        low, high = int(match[1]), int(match[2] or match[1])
        if 0 < low <= high < 65536:
            span = f"{low}-{high}" if high > low else f"{low}"
            return f"{span}/{(match[3] or 'tcp').lower()}"
    raise broken(f"it exposes {key[:100]!r}, which is not a port like 80/tcp")


def _healthcheck(data: Mapping[str, Any]) -> Healthcheck | None:
    """Durations become seconds; 0 and absent ones are for the engine to choose."""
    if data.get("Healthcheck") is None:
        return None
    check = _object(data, "Healthcheck")
    return Healthcheck(
        test=_texts(check, "Test"),
        interval=_integer(check, "Interval") / _SECOND,
        timeout=_integer(check, "Timeout") / _SECOND,
        start_period=_integer(check, "StartPeriod") / _SECOND,
        retries=_integer(check, "Retries"),
        start_interval=_integer(check, "StartInterval") / _SECOND,
    )


def _integer(data: Mapping[str, Any], key: str) -> int:
    value = data.get(key)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not -_MOST <= value < _MOST:
        raise broken(f"{key!r} of its health check is not a whole number")
    return value
