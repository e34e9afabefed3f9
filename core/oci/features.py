"""``features``: what this runtime can do (runtime-spec 1.2, features.md)."""

from __future__ import annotations

from core import __version__
from core.kernel import caps
from core.runtime import hooks, mountopts, namespaces, seccomp


def features() -> dict[str, object]:
    """Of the program, not of this host: the kernel may lack some of it."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": list(hooks.KINDS),
        "mountOptions": sorted(mountopts.known()),
        "linux": {
            "namespaces": sorted(namespaces.KINDS),
            "capabilities": sorted(caps.NUMBERS),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {"enabled": True, **seccomp.features()},
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"io.wharfinger.version": __version__},
        "potentiallyUnsafeConfigAnnotations": ["io.wharfinger."],
    }
