"""Parts of the OCI ``linux.resources`` that cgroup v1 and v2 take alike, or nearly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.cgroups.files import Group, Setting
from core.errors import InvalidArgument


def memory(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Limit and memory + swap, 0 for what is not given; without a limit there is none on swap either.

    :raises InvalidArgument: swap is below the limit
    """
    bound, swap = fields.get("limit") or 0, fields.get("swap") or 0
    if bound < 0 and not swap:
        swap = -1
    if 0 < swap < bound:
        raise InvalidArgument(
            f"cannot set the memory + swap limit to {swap}",
            f"it is the sum of both, and the memory limit alone is {bound}",
            "Choose a higher value, -1 for unlimited swap, or leave it out",
        )
    return bound, swap


def cpuset(fields: Mapping[str, Any]) -> list[Group]:
    """CPUs and memory nodes."""
    names = (("cpus", "the CPUs"), ("mems", "the memory nodes"))
    return [(Setting("cpuset", f"cpuset.{key}", str(fields[key]), what),) for key, what in names if fields.get(key)]


def pids(fields: Mapping[str, Any]) -> list[Setting]:
    """The limit on processes. 0 is one too, by the specification, and lets nothing fork; as with runc
    it is written as 1, with which the first process can still be born in its group."""
    count = fields.get("limit")
    if count is None:
        return []
    # No limit asked for: nothing is lost where the controller is missing.
    return [Setting("pids", "pids.max", "max" if count < 0 else str(count or 1), "the pids limit", count < 0)]


def huge_pages(resources: Mapping[str, Any], suffix: str) -> list[Setting]:
    """Both limits, on pages in use and, where the kernel has that (Linux 5.7), on pages reserved: what is refused by
    the second is an error of mmap(2), by the first a SIGBUS later."""
    settings = []
    for page in resources.get("hugepageLimits") or []:
        for name in (suffix, f"rsvd.{suffix}"):
            file = f"hugetlb.{page['pageSize']}.{name}"
            settings.append(Setting("hugetlb", file, str(page["limit"]), "the huge pages limit", name != suffix))
    return settings


def rdma(limits: Mapping[str, Any]) -> list[Setting]:
    """The limits of RDMA devices."""
    settings = []
    words = (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
    for device, bounds in limits.items():
        value = " ".join([device, *(f"{word}={bounds[key]}" for key, word in words if bounds.get(key) is not None)])
        reset = f"{device} hca_handle=max hca_object=max"
        settings.append(Setting("rdma", "rdma.max", value, "the RDMA limit", reset=reset))
    return settings
