"""What other OCI runtimes get to read, and that nobody else carries the code for it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from core.model import ContainerSpec, ImageConfig
from core.runtime import defaults, portable
from core.runtime import spec as oci
from core.runtime.defaults import Json
from core.runtime.user import User

JOE = User(1000, 1001, (1001, 44), "/home/joe")
SOFT = 1024


def portable_config(ours: Json, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"root": "/mounted", "user": JOE, "cgroup": "/wharf/c", "joined": {}, "soft_files": SOFT}
    return portable.config(ours, **{**given, **more})


def ours(**fields: Any) -> dict[str, Any]:
    return oci.build_config(
        ContainerSpec(image="x", **fields),
        ImageConfig(),
        cid="c" * 64,
        argv=["true"],
        hostname="box",
        rootfs="rootfs",
        cgroup_path="/elsewhere",
        etc_files={},
        netns="new",
        volumes={},
    )


def test_nothing_is_left_to_find_out() -> None:
    given = ours(user="joe", domainname="example", sysctls={"net.ipv4.ip_forward": "1"})
    before = repr(given)
    found = portable_config(given, joined={"network": "/proc/7/fd/8"})
    assert repr(given) == before
    assert found["root"]["path"] == "/mounted"
    assert found["process"]["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [1001, 44]}
    assert "HOME=/home/joe" in found["process"]["env"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert found["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": min(SOFT, hard), "hard": hard}]
    linux = found["linux"]
    assert linux["cgroupsPath"] == "/wharf/c"
    assert {"type": "network", "path": "/proc/7/fd/8"} in linux["namespaces"]
    assert {"type": "pid"} in linux["namespaces"]
    assert linux["sysctl"] == {"net.ipv4.ip_forward": "1", "kernel.domainname": "example"}
    assert linux["seccomp"]["syscalls"]
    assert found["ociVersion"] == "1.0.2"


def test_what_was_asked_for_stays() -> None:
    given = ours(env=("HOME=/elsewhere",), ulimits=("nofile=10:20",))
    given["process"]["user"] = {"uid": 5, "gid": 6, "umask": 0o27}
    given["process"]["annotations"] = {"a": "b"}
    found = portable_config(given, user=User(5, 6, (), "/"), cgroup="")
    assert found["process"]["user"] == {"uid": 5, "gid": 6, "umask": 0o27}
    assert [entry for entry in found["process"]["env"] if entry.startswith("HOME=")] == ["HOME=/elsewhere"]
    assert found["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]
    assert "annotations" not in found["process"]
    assert "cgroupsPath" not in found["linux"]


def test_no_rule_that_cgroup_v1_cannot_hold() -> None:
    given = ours()
    rules = cast("list[Json]", given["linux"]["resources"]["devices"])
    assert defaults.NO_FUSE in rules
    assert portable_config(given)["linux"]["resources"]["devices"] == [r for r in rules if r != defaults.NO_FUSE]


def test_the_launcher_does_not_carry_it() -> None:
    """Monitors of containers under our own runtime are forked from it, and shall stay small."""
    home = Path(portable.__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(home)!r}); import core.supervise.launcher; "
        "print(*(name for name in sys.modules if name.split('.')[-1] in ('external', 'foreign', 'portable')))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
