"""From what the user asked for and what the image says to an OCI ``config.json`` (runtime-spec 1.2).

Everything that init does is written there, so that any OCI runtime could run the bundle. What the specification has
no field for is an annotation (``io.wharfinger.*``): users and groups by name, and ``init``.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from core.errors import InvalidArgument
from core.kernel import caps
from core.model.container import ContainerSpec, ExecSpec
from core.model.image import ImageConfig
from core.runtime import defaults, nodes, seccomp, spaces
from core.runtime.defaults import Json
from core.runtime.limits import oom_score_adj, resources, rlimits
from core.runtime.mounts import clean_path, mounts, root_propagation
from core.runtime.security import Security, capabilities, capability_sets
from core.runtime.security import parse as parse_security
from core.runtime.user import GROUPS_ANNOTATION, USER_ANNOTATION, check_user

OUR_ANNOTATIONS = "io.wharfinger."
_UMASK = re.compile(r"[0-7]{1,4}")


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
    first_id: int = 0,
    joined: Mapping[str, str] | None = None,
    volumes: Mapping[str, str] | None = None,
) -> Json:
    """The OCI configuration of a container.

    :param etc_files: container path → host path of the files that are bind mounted (/etc/hosts …)
    :param netns: ``new``, ``host``, or the path of a network namespace to join
    :param first_id: what the container's root is called on the host, where it has a user namespace
    :param joined: kind → path of each other namespace that is another container's
    :param volumes: volume name → host folder
    :raises InvalidArgument: a value that no container can have
    """
    spaces.check(spec)
    security = parse_security(spec)
    names = capabilities(spec)
    namespaces = spaces.namespaces(spec, netns, joined or {})
    config: Json = {
        "ociVersion": "1.2.0",
        "process": _process(spec, image, argv, hostname, names, security),
        "root": {"path": rootfs, "readonly": spec.read_only},
        "mounts": mounts(spec, etc_files, volumes or {}, joined or {}, security.writable_cgroups),
        "linux": _linux(spec, cgroup_path, namespaces, netns, names, security),
        "annotations": _annotations(spec, image, cid),
    }
    if count := spaces.ids(spec)[1]:
        pieces = [{"containerID": 0, "hostID": first_id, "size": count}]
        cast(Json, config["linux"]).update(uidMappings=pieces, gidMappings=pieces)
    if spaces.mode(spec, "uts")[0] == "private":
        config["hostname"] = hostname  # else it would be given to whoever's namespace that is
        if spec.domainname:
            config["domainname"] = spec.domainname
    return config


def write_bundle(folder: Path, config: Json, cache: Path | None = None) -> str:
    """Write ``config.json`` and the compiled seccomp filter beside it, each whole or not at all.

    :param cache: see :func:`core.runtime.seccomp.compiled`
    :returns: path of the filter; "" for an unconfined container
    :raises InvalidArgument: the seccomp profile cannot be compiled
    """
    filter_path = folder / defaults.FILTER_FILE
    rules = cast(Json, config["linux"]).get("seccomp")
    replace_file(folder / "config.json", json.dumps(config).encode())
    if rules is None:
        filter_path.unlink(missing_ok=True)
        return ""
    replace_file(filter_path, seccomp.compiled(cast("dict[str, object]", rules), cache))
    return str(filter_path)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of a bundle, whole or not at all."""
    if holds(path, content):
        return
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}.{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
    os.rename(temporary, path)


def holds(path: Path, content: bytes) -> bool:
    """Has the file that content already?"""
    try:
        return os.stat(path).st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


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
        # Groups and umask are the container's, whoever runs the command.
        "user": {**cast(Json, own["user"]), **_ids(spec.user)} if spec.user else own["user"],
        "annotations": {
            USER_ANNOTATION: spec.user or annotations.get(USER_ANNOTATION, ""),
            GROUPS_ANNOTATION: annotations.get(GROUPS_ANNOTATION, ""),
        },
    }
    if spec.privileged:
        process["capabilities"] = capability_sets(caps.bounding())
    return process


def _annotations(spec: ContainerSpec, image: ImageConfig, cid: str) -> dict[str, str]:
    for name in spec.annotations:
        if not name or name.startswith(OUR_ANNOTATIONS):
            raise InvalidArgument(f"invalid annotation {name!r}", f"{OUR_ANNOTATIONS}… is the engine's", "Rename it")
    found = {**spec.annotations, "io.wharfinger.id": cid, USER_ANNOTATION: spec.user or image.user}
    if names := [word for word in spec.group_add if not word.isdecimal()]:
        found[GROUPS_ANNOTATION] = ",".join(names)
    if spec.init:
        found[defaults.INIT_ANNOTATION] = "true"
    return found


def _process(
    spec: ContainerSpec, image: ImageConfig, argv: Sequence[str], hostname: str, names: list[str], security: Security
) -> Json:
    env = _merge_env([defaults.PATH, f"HOSTNAME={hostname}"], (*image.env, *spec.env), tty=spec.tty)
    process: Json = {
        "terminal": spec.tty,
        "user": _user(spec, image),
        "args": list(argv),
        "env": env,
        "cwd": _working_dir(spec.working_dir or image.working_dir or "/"),
        "capabilities": capability_sets(names),
        "noNewPrivileges": security.no_new_privileges,
        "rlimits": rlimits(spec.ulimits),
    }
    score = oom_score_adj(spec.oom_score_adj)
    more = {"oomScoreAdj": score, "apparmorProfile": security.apparmor, "selinuxLabel": security.process_label}
    return {**process, **{key: value for key, value in more.items() if value not in (None, "")}}


def _user(spec: ContainerSpec, image: ImageConfig) -> Json:
    """``process.user`` as far as it is known before the image is mounted; init does the rest by the annotations."""
    user = _ids(spec.user or image.user)
    if spec.umask:
        if not _UMASK.fullmatch(spec.umask):
            raise InvalidArgument(f"invalid umask {spec.umask!r}", "it is not octal", "Write it like 0022")
        user["umask"] = int(spec.umask, 8)
    numbers = []
    for word in spec.group_add:
        if not word or "," in word:
            raise InvalidArgument(f"invalid group {word[:100]!r}", "it is no name and no number", "Write it like 44")
        check_user(f"0:{word}")
        if word.isdecimal():
            numbers.append(int(word))
    if numbers:
        user["additionalGids"] = numbers
    return user


def _ids(text: str) -> Json:
    uid, gid = check_user(text)
    return {"uid": uid or 0, "gid": gid or 0}


def _working_dir(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid working directory {path!r}", "it is not absolute", "Begin it with /")
    return clean_path(path)


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


def _linux(
    spec: ContainerSpec, cgroup_path: str, namespaces: list[Json], netns: str, names: list[str], security: Security
) -> Json:
    linux: Json = {
        "namespaces": namespaces,
        "cgroupsPath": cgroup_path,
        "resources": resources(spec),
        "sysctl": spaces.sysctls(spec, netns),
        "maskedPaths": [] if security.open_paths else [*defaults.MASKED, *_thermal_throttle(os.cpu_count())],
        "readonlyPaths": [] if security.open_paths else list(defaults.READONLY),
        "rootfsPropagation": root_propagation(spec.mounts),
    }
    if made := nodes.nodes(spec):
        linux["devices"] = made
    if security.mount_label:
        linux["mountLabel"] = security.mount_label
    # A privileged container has no filter, unless a profile was named for it.
    if security.seccomp.startswith("/") or not (spec.privileged or security.seccomp):
        linux["seccomp"] = seccomp.rules_for(security.seccomp, names)
    return linux


@functools.lru_cache(1)
def _thermal_throttle(cpus: int | None) -> list[str]:
    # Reading these tells containers of each other's load (moby's default list, one per CPU); looked up anew when a
    # processor has come.
    base = Path("/sys/devices/system/cpu")
    return sorted(str(path) for path in base.glob("cpu[0-9]*/thermal_throttle"))
