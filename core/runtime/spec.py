"""From what the user asked for and what the image says to an OCI ``config.json`` (runtime-spec 1.2).

Everything that init does is written there, so that any OCI runtime could run the bundle. What the specification has
no field for is an annotation (``io.wharfinger.*``): the user's words where they are not numbers, and ``init``.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from core.errors import InvalidArgument
from core.kernel import caps
from core.model.container import ContainerSpec, ExecSpec, Mount
from core.model.image import ImageConfig
from core.runtime import defaults, seccomp
from core.runtime.defaults import Json
from core.runtime.limits import resources, rlimits
from core.runtime.user import USER_ANNOTATION, check_user

INIT_ANNOTATION = "io.wharfinger.init"
_NAMESPACED_SYSCTLS = ("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.", "net.")
_SECURITY: dict[str, tuple[str, ...]] = {  # option → its values; none listed: a path
    "no-new-privileges": ("", "true", "false", "1", "0"),
    "seccomp": (),
    "systempaths": ("unconfined",),
}
_SYSCTL = re.compile(r"[a-z][a-zA-Z0-9_-]*(\.[a-zA-Z0-9_-]+)+")
_RESERVED = ("/proc", "/sys", "/dev", "/dev/pts", "/dev/console")


def build_config(
    spec: ContainerSpec,
    image: ImageConfig,
    *,
    cid: str,
    argv: Sequence[str],
    hostname: str,
    rootfs: str,
    cgroup_path: str,
    etc_files: Mapping[str, str],
    netns: str,
    volumes: Mapping[str, str] | None = None,
) -> Json:
    """The OCI configuration of a container.

    :param etc_files: container path → host path of the files that are bind mounted (/etc/hosts …)
    :param netns: ``new``, ``host``, or the path of a network namespace to join
    :param volumes: volume name → host folder
    :raises InvalidArgument: a value that no container can have
    """
    security = _security_options(spec)
    capabilities = _capabilities(spec)
    config: Json = {
        "ociVersion": "1.2.0",
        "process": _process(spec, image, argv, hostname, capabilities, "no-new-privileges" in security),
        "root": {"path": rootfs, "readonly": spec.read_only},
        "hostname": hostname,
        "mounts": _mounts(spec, etc_files, volumes or {}),
        "linux": _linux(spec, cgroup_path, netns, capabilities, security),
        "annotations": _annotations(spec, image, cid),
    }
    if spec.domainname:
        config["domainname"] = spec.domainname
    return config


def write_bundle(folder: Path, config: Json, cache: Path | None = None) -> str:
    """Write ``config.json`` and the compiled seccomp filter beside it, each whole or not at all.

    :param cache: see :func:`core.runtime.seccomp.compiled`
    :returns: path of the filter, for :class:`core.supervise.protocol.Launch`; "" for an unconfined container
    :raises InvalidArgument: the seccomp profile cannot be compiled
    """
    filter_path = folder / "seccomp.bpf"
    rules = cast(Json, config["linux"]).get("seccomp")
    _replace(folder / "config.json", json.dumps(config).encode())
    if rules is None:
        filter_path.unlink(missing_ok=True)
        return ""
    _replace(filter_path, seccomp.compiled(cast("dict[str, object]", rules), cache))
    return str(filter_path)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o600)
    temporary.rename(path)


def exec_process(spec: ExecSpec, config: Json) -> Json:
    """The OCI ``process`` of a command to run in a container that has ``config``.

    Environment, folder and user are the container's where ``spec`` names none, as with ``docker exec``.

    :raises InvalidArgument:
    """
    own = cast(Json, config["process"])
    annotations = cast("dict[str, str]", config.get("annotations", {}))
    check_env(spec.env)
    process: Json = {
        **own,
        "terminal": spec.tty,
        "args": list(spec.argv),
        "env": _merge_env(cast("list[str]", own["env"]), spec.env, tty=spec.tty),
        "cwd": _working_dir(spec.working_dir) if spec.working_dir else own["cwd"],
        "user": _user(spec.user) if spec.user else own["user"],
        "annotations": {USER_ANNOTATION: spec.user or annotations.get(USER_ANNOTATION, "")},
    }
    if spec.privileged:
        process["capabilities"] = _capability_sets(caps.bounding())
    return process


def _annotations(spec: ContainerSpec, image: ImageConfig, cid: str) -> dict[str, str]:
    found = {"io.wharfinger.id": cid, USER_ANNOTATION: spec.user or image.user}
    if spec.init:
        found[INIT_ANNOTATION] = "true"
    return found


def _process(
    spec: ContainerSpec,
    image: ImageConfig,
    argv: Sequence[str],
    hostname: str,
    capabilities: list[str],
    no_new_privileges: bool,
) -> Json:
    env = _merge_env([defaults.PATH, f"HOSTNAME={hostname}"], (*image.env, *spec.env), tty=spec.tty)
    process: Json = {
        "terminal": spec.tty,
        "user": _user(spec.user or image.user),
        "args": list(argv),
        "env": env,
        "cwd": _working_dir(spec.working_dir or image.working_dir or "/"),
        "capabilities": _capability_sets(capabilities),
        "noNewPrivileges": no_new_privileges,
        "rlimits": rlimits(spec.ulimits),
    }
    return process


def _user(text: str) -> Json:
    """``process.user`` as far as it is known before the image is mounted; init does the rest by the annotation."""
    uid, gid = check_user(text)
    return {"uid": uid or 0, "gid": gid or 0}


def _working_dir(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid working directory {path!r}", "it is not absolute", "Begin it with /")
    return clean_path(path)


def clean_path(path: str) -> str:
    """``path`` without ``.``, ``..`` and doubled slashes; ``normpath`` keeps two at the front, as POSIX allows."""
    return "/" + os.path.normpath(path).lstrip("/") if path.startswith("/") else os.path.normpath(path)


def _merge_env(base: Sequence[str], more: Sequence[str], *, tty: bool) -> list[str]:
    """Later entries win. A name without ``=`` is dropped: an image must not ask for the value that *we* have of it."""
    merged: dict[str, str] = {"TERM": "xterm"} if tty else {}
    for entry in (*base, *more):
        name, equals, value = entry.partition("=")
        if equals and name:
            merged[name] = value
    return [f"{name}={value}" for name, value in merged.items()]


def check_env(env: Sequence[str]) -> None:
    """Each must be ``NAME=VALUE``. A bare name is expanded where the user's own environment is: by the faces.

    :raises InvalidArgument:
    """
    for entry in env:
        name, equals, _ = entry.partition("=")
        if not name or not equals or "\0" in entry:
            raise InvalidArgument(
                f"invalid environment variable {entry[:100]!r}",
                "it holds a zero byte" if "\0" in entry else "it is not NAME=VALUE",
                "Write it like DEBUG=1",
            )


def _capability_sets(names: Sequence[str]) -> Json:
    # No inheritable and no ambient ones: they would pass to every program started (CVE-2022-24769).
    ordered = list(names)
    return {"bounding": ordered, "effective": ordered, "permitted": ordered}


def _capabilities(spec: ContainerSpec) -> list[str]:
    available = caps.bounding()
    if spec.privileged:
        return available
    wanted = set(defaults.CAPABILITIES)
    dropped = {_capability(name) for name in spec.cap_drop}
    added = {_capability(name) for name in spec.cap_add}
    wanted = set() if "ALL" in dropped else wanted - dropped
    if "ALL" in added:
        return [name for name in available if name not in dropped]
    missing = sorted(added - set(available))
    if missing:
        raise InvalidArgument(
            f"cannot add {', '.join(missing)}", "this process does not have it itself", "Leave it out of --cap-add"
        )
    return [name for name in available if name in wanted | added]


def _capability(name: str) -> str:
    full = name.upper()
    if full == "ALL":
        return full
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full not in caps.NUMBERS:
        raise InvalidArgument(f"unknown capability {name!r}", "capabilities(7) lists them", "Write it like NET_ADMIN")
    return full


def _security_options(spec: ContainerSpec) -> dict[str, str]:
    """``no-new-privileges``, ``seccomp=…``, ``systempaths=unconfined``. :raises InvalidArgument:"""
    options: dict[str, str] = {}
    for text in spec.security_opt:
        name, _, value = text.replace(":", "=", 1).partition("=")
        if name not in _SECURITY:
            raise InvalidArgument(
                f"unsupported security option {text!r}", f"known are {', '.join(_SECURITY)}", "Leave it out"
            )
        if _SECURITY[name] and value not in _SECURITY[name]:
            # A word half understood would leave the container with less protection than asked for, or with more.
            raise InvalidArgument(
                f"invalid security option {text!r}",
                f"{name} takes {', '.join(word for word in _SECURITY[name] if word)}",
                "Write it so",
            )
        if name == "no-new-privileges" and value in ("false", "0"):
            continue
        if name == "seccomp" and value != "unconfined" and not value.startswith("/"):
            raise InvalidArgument(
                f"invalid security option {text!r}", "it names no absolute path", "Write seccomp=/path/to/profile.json"
            )
        options[name] = value
    return options


def _mounts(spec: ContainerSpec, etc_files: Mapping[str, str], volumes: Mapping[str, str]) -> list[Json]:
    mounts = defaults.mounts(spec.shm_size)
    if spec.privileged:
        for mount in mounts:
            options = cast("list[str]", mount["options"])
            mount["options"] = [option for option in options if option != "ro"]
    named = {clean_path(mount.target) for mount in spec.mounts}
    mounts = [mount for mount in mounts if mount["destination"] not in named]
    # Fewest components first: /data before /data/cache, whatever order the user gave.
    for wanted in sorted(spec.mounts, key=lambda mount: clean_path(mount.target).count("/")):
        mounts.append(_mount(wanted, volumes))
    for target, source in etc_files.items():
        if target not in named:
            mounts.append({"destination": target, "type": "bind", "source": source, "options": ["bind", "rprivate"]})
    return mounts


def _mount(mount: Mount, volumes: Mapping[str, str]) -> Json:
    target = clean_path(mount.target)
    if target in _RESERVED or target.startswith("/proc/") or not target.startswith("/") or target == "/":
        # Something else on /proc would receive what init writes there (CVE-2019-16884, CVE-2023-27561).
        raise InvalidArgument(
            f"cannot mount on {mount.target}", "init needs that place itself", "Choose another target"
        )
    if mount.kind == "tmpfs":
        options = ["nosuid", "nodev", "noexec", *mount.options, *(["ro"] if mount.read_only else [])]
        return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}
    source = volumes.get(mount.source, "") if mount.kind == "volume" else mount.source
    if not source.startswith("/"):
        raise InvalidArgument(f"cannot mount {mount.source!r}", "it is neither a volume nor an absolute path", "")
    # Everything below as well: a read-only volume must not have a writable corner.
    options = ["rbind", *(mount.options or ("rprivate",)), *(["ro", "rro"] if mount.read_only else [])]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _linux(
    spec: ContainerSpec, cgroup_path: str, netns: str, capabilities: list[str], security: Mapping[str, str]
) -> Json:
    namespaces: list[Json] = [{"type": kind} for kind in ("pid", "mount", "uts", "ipc", "cgroup")]
    if netns == "new":
        namespaces.append({"type": "network"})
    elif netns != "host":
        namespaces.append({"type": "network", "path": netns})
    open_paths = spec.privileged or security.get("systempaths") == "unconfined"
    linux: Json = {
        "namespaces": namespaces,
        "cgroupsPath": cgroup_path,
        "resources": resources(spec),
        "sysctl": _sysctls(spec.sysctls, netns),
        "maskedPaths": [] if open_paths else [*defaults.MASKED, *_thermal_throttle()],
        "readonlyPaths": [] if open_paths else list(defaults.READONLY),
        "rootfsPropagation": _propagation(spec.mounts),
    }
    if spec.privileged:
        linux["devices"] = _host_devices()
    if not spec.privileged and security.get("seccomp") != "unconfined":
        linux["seccomp"] = _seccomp(security.get("seccomp", ""), capabilities)
    return linux


def _propagation(mounts: Sequence[Mount]) -> str:
    """Of the root: a volume that hears of new mounts, or tells of them, would be cut off by a private one."""
    words = {option for mount in mounts for option in mount.options}
    if words & {"shared", "rshared"}:
        return "shared"
    return "rslave" if words & {"slave", "rslave"} else "rprivate"


def _thermal_throttle() -> list[str]:
    # Reading these tells containers of each other's load (moby's default list, one per CPU).
    base = Path("/sys/devices/system/cpu")
    return sorted(str(path) for path in base.glob("cpu[0-9]*/thermal_throttle"))


def _seccomp(profile_path: str, capabilities: list[str]) -> dict[str, object]:
    return seccomp.rules_for(profile_path, capabilities)


def _sysctls(wanted: Mapping[str, str], netns: str) -> dict[str, str]:
    for name, value in wanted.items():
        if not name.startswith(_NAMESPACED_SYSCTLS) or not _SYSCTL.fullmatch(name):
            raise InvalidArgument(
                f"cannot set sysctl {name}", "it belongs to the whole host, not to a namespace", "Set it on the host"
            )
        if name.startswith("net.") and netns == "host":
            raise InvalidArgument(f"cannot set sysctl {name}", "the container uses the host's network", "Drop it")
        if "\0" in value or "\n" in value:
            raise InvalidArgument(f"cannot set sysctl {name}", "its value has more than one line", "Give one word")
    return dict(wanted)


def _host_devices() -> list[Json]:
    """Every device node below the host's /dev, for a privileged container."""
    made = {name for name, _, _ in defaults.DEVICES} | {"console", "ptmx"}
    found: list[Json] = []
    for folder, subfolders, files in os.walk("/dev"):
        if folder == "/dev":
            subfolders[:] = [name for name in subfolders if name not in ("pts", "shm", "mqueue", "fd")]
        for name in files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            is_char = stat.S_ISCHR(status.st_mode)
            if not (is_char or stat.S_ISBLK(status.st_mode)) or (folder == "/dev" and name in made):
                continue
            found.append(
                {
                    "path": path,
                    "type": "c" if is_char else "b",
                    "major": os.major(status.st_rdev),
                    "minor": os.minor(status.st_rdev),
                    "fileMode": stat.S_IMODE(status.st_mode),
                    "uid": status.st_uid,
                    "gid": status.st_gid,
                }
            )
    return found
