"""Namespaces of a container: its own, the host's, or another container's; and what may be set in each (sysctls)."""

from __future__ import annotations

from collections.abc import Mapping

from core.errors import InvalidArgument
from core.model.container import ContainerSpec
from core.runtime import sysctl
from core.runtime.defaults import Json

# Each kind by the OCI's name and by the field of the specification; --network has its own rules.
MODES = {"pid": "pid", "uts": "uts", "ipc": "ipc", "cgroup": "cgroupns"}
USUAL_IDS = 65_536  # of a user namespace: 16 bits, which is what most systems use, and nobody's 65,534
MOST_IDS = 1 << 30
_WORDS = {
    "pid": ("private", "host", "container"),
    "uts": ("private", "host", "container"),
    "ipc": ("private", "host", "container", "shareable", "none"),
    "cgroup": ("private", "host"),
}


def mode(spec: ContainerSpec, kind: str) -> tuple[str, str]:
    """``private``, ``host`` …, and the other container's name where it is ``container``."""
    word, _, other = str(getattr(spec, MODES.get(kind, kind))).partition(":")
    return word or "private", other


def ids(spec: ContainerSpec) -> tuple[str, int]:
    """``--userns``: ``host``, ``auto`` (a range of ids of its own) or ``remap`` (the one that all such containers
    share), and how many ids, 0 for the host's.

    :raises InvalidArgument: another word
    """
    word, _, option = spec.userns.partition(":")
    key, _, count = option.partition("=")
    if word in ("", "host") and not option:
        return "host", 0
    if word in ("auto", "remap") and (not option or (word == "auto" and key == "size" and count.isdecimal())):
        size = int(count or USUAL_IDS)
        if 0 < size <= MOST_IDS:
            return word, size
    raise InvalidArgument(
        f"invalid --userns {spec.userns!r}", f"it is host, remap, auto or auto:size=N, N up to {MOST_IDS}", "Say auto"
    )


def check(spec: ContainerSpec) -> None:
    """:raises InvalidArgument: no such mode, or a name for a machine that is not the container's own"""
    if ids(spec)[1]:
        _check_remapped(spec)
    for kind, known in _WORDS.items():
        word, other = mode(spec, kind)
        if word not in known or (word == "container") != bool(other):
            shown = ", ".join(f"{name}:ID" if name == "container" else name for name in known)
            raise InvalidArgument(f"invalid --{MODES[kind]} {getattr(spec, MODES[kind])!r}", f"it is {shown}", "")
    if mode(spec, "uts")[0] != "private" and (spec.hostname or spec.domainname):
        raise InvalidArgument(
            f"--hostname contradicts --uts {spec.uts}", "the name is that of whoever's namespace it uses", "Drop one"
        )
    if mode(spec, "ipc")[0] in ("host", "container", "none") and spec.shm_size != ContainerSpec.shm_size:
        raise InvalidArgument(
            f"--shm-size contradicts --ipc {spec.ipc}", "there is no /dev/shm of its own to have a size", "Drop one"
        )


def _check_remapped(spec: ContainerSpec) -> None:
    """What the root of a user namespace cannot have (as dockerd with userns-remap)."""
    if spec.privileged:
        raise InvalidArgument(
            "--privileged contradicts --userns",
            "in a user namespace of its own, a container's root has no rights on the host to be given",
            "Drop one of them",
        )
    for kind in ("pid", "ipc", "uts"):
        if mode(spec, kind)[0] == "host":
            raise InvalidArgument(
                f"--{MODES[kind]} host contradicts --userns {spec.userns}",
                "that namespace belongs to the host's root, which the container's is not",
                "Drop one of them",
            )


def namespaces(spec: ContainerSpec, netns: str, joined: Mapping[str, str]) -> list[Json]:
    """``linux.namespaces``: one that is left out is the host's.

    :param netns: ``new``, ``host``, or the path of a network namespace
    :param joined: kind → path of the other container's namespace
    """
    found: list[Json] = [{"type": "mount"}]
    if ids(spec)[1]:
        found.append({"type": "user"})
    for kind in MODES:
        word, _ = mode(spec, kind)
        if word == "container":
            found.append({"type": kind, "path": joined[kind]})
        elif word != "host":
            found.append({"type": kind})
    if netns == "new":
        found.append({"type": "network"})
    elif netns != "host":
        found.append({"type": "network", "path": netns})
    return found


def sysctls(spec: ContainerSpec, netns: str) -> dict[str, str]:
    """``linux.sysctl``. :raises InvalidArgument: one that is not of a namespace of the container"""
    for name, value in spec.sysctls.items():
        if not sysctl.is_name(name):
            raise InvalidArgument(f"cannot set sysctl {name[:100]!r}", "that is no such name", "See sysctl(8)")
        why = _not_ours(name, spec, netns)
        if why:
            raise InvalidArgument(f"cannot set sysctl {name}", why, "Set it on the host, or drop it")
        if "\0" in value or "\n" in value:
            raise InvalidArgument(f"cannot set sysctl {name}", "its value has more than one line", "Give one word")
    return dict(spec.sysctls)


def _not_ours(name: str, spec: ContainerSpec, netns: str) -> str:
    """Why the parameter is not the container's; "" where it is (runc, libcontainer/configs/validate)."""
    kind = sysctl.namespace_of(name)
    if sysctl.path_of(name) == "kernel/hostname":
        return "it has an option of its own: --hostname"
    if kind == "network":
        return "the container uses the host's network" if netns == "host" else ""
    if kind == "ipc":
        return "the container uses the host's IPC namespace" if mode(spec, "ipc")[0] == "host" else ""
    if kind == "uts":
        return "" if mode(spec, "uts")[0] == "private" else "the container's names are another's"
    return "it belongs to the whole host, not to a namespace of the container"
