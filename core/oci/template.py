"""``spec``: a config.json to begin with."""

from __future__ import annotations

import os

from core.runtime import defaults
from core.runtime.defaults import Json

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def template(*, rootless: bool) -> Json:
    """A shell on a terminal in a read-only ``rootfs``, with hardly any rights.

    :param rootless: for an ordinary user: with a user namespace, without what only root may have
    """
    sets: Json = {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")}
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    linux: Json = {
        "namespaces": [{"type": kind} for kind in kinds],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "maskedPaths": list(defaults.MASKED),
        "readonlyPaths": list(defaults.READONLY),
    }
    mounts = defaults.mounts(64 * 1024 * 1024)
    if rootless:
        linux = {
            "uidMappings": [{"containerID": 0, "hostID": os.geteuid(), "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": os.getegid(), "size": 1}],
            "namespaces": [{"type": kind} for kind in [*(kind for kind in kinds if kind != "network"), "user"]],
            "maskedPaths": list(defaults.MASKED),
            "readonlyPaths": list(defaults.READONLY),
        }
        mounts = [_for_ordinary_user(mount) for mount in mounts]
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [defaults.PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": sets,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "wharf",
        "mounts": mounts,
        "linux": linux,
    }


def _for_ordinary_user(mount: Json) -> Json:
    options = [str(option) for option in mount["options"] if option != "gid=5"]  # type: ignore[attr-defined]
    if mount["type"] == "sysfs":
        return {**mount, "type": "bind", "source": "/sys", "options": ["rbind", *options]}
    return {**mount, "options": options}
