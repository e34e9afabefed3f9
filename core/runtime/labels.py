"""SELinux labels of a container (``--security-opt label=…``), by the policy's own words for containers.

A label is ``user:role:type:level``. The policy names those of containers in ``contexts/lxc_contexts`` (selinux(8),
container_selinux(8)); ``label=type:…`` and the like replace one part of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from core.errors import InvalidArgument, Unsupported

_ENFORCE = Path("/sys/fs/selinux/enforce")
_CONFIG = Path("/etc/selinux/config")
_PARTS = ("user", "role", "type", "level")


def container_labels(options: Sequence[str]) -> tuple[str, str]:
    """The labels of processes and of files that ``options`` (``type:…``, ``disable`` …) ask for; "" for none.

    Without options there are none, as in a Docker without ``--selinux-enabled``.

    :raises InvalidArgument: an option that is not one
    :raises Unsupported: the host runs without SELinux
    """
    parts: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition(":")
        if option == "disable":
            return "", ""
        if name == "filetype" and value:
            parts["filetype"] = value
        elif name in _PARTS and value:
            parts[name] = value
        else:
            raise InvalidArgument(
                f"invalid security option 'label={option}'",
                "it is not user:…, role:…, type:…, filetype:…, level:… or disable",
                "Write it like label=type:container_t",
            )
    if not parts:
        return "", ""
    if not _ENFORCE.exists():
        raise Unsupported(
            "cannot set an SELinux label", "this host's kernel runs without SELinux", "Leave the label options out"
        )
    process, file = _policy()
    return _with(process, parts), _with(file, {"type": parts.get("filetype", ""), "level": parts.get("level", "")})


def _policy() -> tuple[str, str]:
    """The labels that the host's policy has for containers: of processes, of files."""
    try:
        named = re.search(r"^SELINUXTYPE=(\S+)", _CONFIG.read_text(), re.MULTILINE)
        path = _CONFIG.parent / (named[1] if named else "targeted") / "contexts/lxc_contexts"
        found = dict(re.findall(r'^\s*(process|file)\s*=\s*"([^"]+)"', path.read_text(), re.MULTILINE))
        return found["process"], found["file"]
    except (OSError, KeyError) as error:
        raise Unsupported(
            "cannot set an SELinux label",
            f"the policy has no labels for containers: {error}",
            "Install container-selinux",
        ) from error


def _with(label: str, parts: dict[str, str]) -> str:
    fields = label.split(":", 3)
    for index, name in enumerate(_PARTS[: len(fields)]):
        fields[index] = parts.get(name) or fields[index]
    return ":".join(fields)
