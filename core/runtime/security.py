"""What a container may do: ``--security-opt``, ``--cap-add``, ``--cap-drop``, ``--privileged``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InvalidArgument, Unsupported
from core.kernel import caps
from core.model.container import ContainerSpec
from core.runtime import defaults, labels

_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
_PROFILES = Path("/sys/kernel/security/apparmor/profiles")


@dataclass(frozen=True)
class Security:
    """The options, read."""

    no_new_privileges: bool = False
    seccomp: str = ""  # "": the default profile; "unconfined", or an absolute path
    apparmor: str = ""  # "": as the engine itself; "unconfined", or a loaded profile's name
    open_paths: bool = False  # nothing in /proc and /sys masked or read-only
    writable_cgroups: bool = False
    process_label: str = ""  # SELinux
    mount_label: str = ""


def parse(spec: ContainerSpec) -> Security:
    """``no-new-privileges``, ``seccomp=…``, ``apparmor=…``, ``label=…``, ``systempaths=unconfined``,
    ``writable-cgroups``; with ``:`` for ``=`` as well, as older Docker has them.

    :raises InvalidArgument: a word that is not understood: half understood, it would leave the container with less
        protection than asked for, or with more
    :raises Unsupported: the host lacks the security module that it needs
    """
    words = [_split(text) for text in spec.security_opt]
    values = {name: (value, text) for name, value, text in words if name != "label"}
    process, mount = labels.container_labels([value for name, value, _ in words if name == "label"])
    if unknown := [text for name, _, text in words if name not in _KNOWN]:
        raise InvalidArgument(
            f"unsupported security option {unknown[0]!r}", f"known are {', '.join(_KNOWN)}", "Leave it out"
        )
    return Security(
        no_new_privileges=_read(values, "no-new-privileges", _truth) == "true",
        seccomp=_read(values, "seccomp", _seccomp),
        apparmor=_read(values, "apparmor", _apparmor) or ("unconfined" if spec.privileged and _has_apparmor() else ""),
        open_paths=_read(values, "systempaths", _unconfined) == "unconfined" or spec.privileged,
        writable_cgroups=_read(values, "writable-cgroups", _truth) == "true" or spec.privileged,
        process_label=process,
        mount_label=mount,
    )


def opens_paths(spec: ContainerSpec) -> bool:
    """Nothing in /proc and /sys is masked or read-only; for a specification that was checked before."""
    return spec.privileged or any(_split(text)[0] == "systempaths" for text in spec.security_opt)


def _split(text: str) -> tuple[str, str, str]:
    """Name, value, and both as they were written. The first separator counts: a value may hold the other one."""
    cut = min((at for at in (text.find("="), text.find(":")) if at >= 0), default=len(text))
    return text[:cut], text[cut + 1 :], text


def _read(values: dict[str, tuple[str, str]], name: str, check: Callable[[str, str], str]) -> str:
    return check(*values[name]) if name in values else ""


def _truth(value: str, text: str) -> str:
    if value not in ("", "true", "false", "1", "0"):
        raise _invalid(text, "it takes true or false")
    return "false" if value in ("false", "0") else "true"


def _unconfined(value: str, text: str) -> str:
    if value != "unconfined":
        raise _invalid(text, "it takes unconfined")
    return value


def _seccomp(value: str, text: str) -> str:
    if value == "builtin":
        return ""
    if value != "unconfined" and not value.startswith("/"):
        raise _invalid(text, "it names no absolute path", "Write seccomp=/path/to/profile.json, or seccomp=unconfined")
    return value


def _apparmor(value: str, text: str) -> str:
    """:raises Unsupported: there is no AppArmor :raises InvalidArgument: the profile is not loaded"""
    if not value:
        raise _invalid(text, "it names no profile", "Write apparmor=PROFILE, or apparmor=unconfined")
    if not _has_apparmor():
        if value == "unconfined":
            return ""  # so it is anyway
        raise Unsupported(f"cannot use AppArmor profile {value!r}", "this host's kernel runs without AppArmor", "")
    if value != "unconfined" and not _is_loaded(value):
        raise _invalid(text, "the kernel has no profile of that name loaded", "Load it with apparmor_parser -r FILE")
    return value


def _has_apparmor() -> bool:
    try:
        return _APPARMOR.read_text().strip() == "Y"
    except OSError:
        return False


def _is_loaded(profile: str) -> bool:
    try:
        lines = _PROFILES.read_text().splitlines()
    except OSError:
        return True  # securityfs is not mounted: the kernel will say it at the exec
    return any(line.rpartition(" (")[0] == profile for line in lines)


def _invalid(text: str, why: str, fix: str = "Write it so") -> InvalidArgument:
    return InvalidArgument(f"invalid security option {text!r}", why, fix)


_KNOWN = ("no-new-privileges", "seccomp", "apparmor", "label", "systempaths", "writable-cgroups")


def capabilities(spec: ContainerSpec) -> list[str]:
    """Names of what the container gets, in the kernel's order (moby, oci/caps ``TweakCapabilities``).

    :raises InvalidArgument: no such capability, or one that this process does not have itself
    """
    available = caps.bounding()
    dropped = {_capability(name) for name in spec.cap_drop}
    added = {_capability(name) for name in spec.cap_add}
    if spec.privileged:
        return available
    if "ALL" in added:
        return [name for name in available if name not in dropped]
    missing = sorted(added - set(available))
    if missing:
        raise InvalidArgument(
            f"cannot add {', '.join(missing)}", "this process does not have it itself", "Leave it out of --cap-add"
        )
    wanted = set() if "ALL" in dropped else set(defaults.CAPABILITIES) - dropped
    return [name for name in available if name in wanted | added]


def _capability(name: str) -> str:
    full = name.upper()
    if full == "ALL":
        return full
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full not in caps.NUMBERS:
        raise InvalidArgument(f"unknown capability {name!r}", "capabilities(7) lists them", "Write it like NET_ADMIN")
    return full


def capability_sets(names: Sequence[str]) -> defaults.Json:
    """``process.capabilities``."""
    # No inheritable and no ambient ones: they would pass to every program started (CVE-2022-24769).
    ordered = list(names)
    return {"bounding": ordered, "effective": ordered, "permitted": ordered}
