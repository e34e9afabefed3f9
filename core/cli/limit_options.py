"""The options about resources, which ``run``, ``create`` and ``update`` share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from core.cli.command import Arguments, flag, many
from core.errors import InvalidArgument
from core.model import DeviceLimit, Resources
from core.options import parse_device_limit
from core.units import parse_size


def add_limits(group: argparse._ActionsContainer) -> None:
    """What can be changed while a container runs."""
    group.add_argument("-m", "--memory", default="", metavar="SIZE", help="most memory, such as 64m")
    group.add_argument("--memory-swap", default="", metavar="SIZE", help="most memory and swap together; -1: no limit")
    group.add_argument("--memory-reservation", default="", metavar="SIZE", help="what it keeps under pressure")
    group.add_argument("--kernel-memory", default="", metavar="SIZE", help="ignored: kernels have no such limit now")
    group.add_argument("--cpus", type=float, default=0.0, metavar="N", help="most CPUs, such as 0.5")
    group.add_argument("-c", "--cpu-shares", type=int, default=0, metavar="N", help="weight against others (1024)")
    group.add_argument("--cpu-period", type=int, default=0, metavar="US", help="scheduler period, microseconds")
    group.add_argument("--cpu-quota", type=int, default=0, metavar="US", help="CPU time in each period, microseconds")
    group.add_argument("--cpu-rt-period", type=int, default=0, metavar="US", help="the same of real-time tasks")
    group.add_argument("--cpu-rt-runtime", type=int, default=0, metavar="US", help="their CPU time in each period")
    group.add_argument("--cpuset-cpus", default="", metavar="LIST", help="run on these CPUs only: 0-2,4")
    group.add_argument("--cpuset-mems", default="", metavar="LIST", help="memory from these nodes only")
    group.add_argument("--pids-limit", type=int, default=0, metavar="N", help="most processes; -1: no limit")
    group.add_argument("--blkio-weight", type=int, default=0, metavar="N", help="share of disk time, 10 to 1000")


def add_more_limits(group: argparse._ActionsContainer) -> None:
    """What is set once, when a container is made."""
    group.add_argument("--memory-swappiness", type=int, default=-1, metavar="N", help="0 to 100 (cgroup v1)")
    flag(group, "--oom-kill-disable", help="stall instead of being killed when memory is used up (cgroup v1)")
    many(group, "--blkio-weight-device", metavar="DEVICE:N", help="the share of one disk's time")
    many(group, "--device-read-bps", metavar="DEVICE:SIZE", help="most bytes read from it a second: /dev/sda:1m")
    many(group, "--device-write-bps", metavar="DEVICE:SIZE", help="most bytes written to it")
    many(group, "--device-read-iops", metavar="DEVICE:N", help="most reads from it each second")
    many(group, "--device-write-iops", metavar="DEVICE:N", help="most writes to it")


def resources(args: Arguments) -> Resources:
    """What both groups of options add up to. :raises InvalidArgument:"""
    return Resources(
        **limits(args),  # type: ignore[arg-type]
        memory_swappiness=args.memory_swappiness,
        oom_kill_disable=args.oom_kill_disable,
        blkio_weight_device=_of_devices(args.blkio_weight_device),
        device_read_bps=_of_devices(args.device_read_bps, size=True),
        device_write_bps=_of_devices(args.device_write_bps, size=True),
        device_read_iops=_of_devices(args.device_read_iops),
        device_write_iops=_of_devices(args.device_write_iops),
    )


def limits(args: Arguments) -> dict[str, int | str]:
    """Fields of :class:`Resources` by the options of :func:`add_limits`. :raises InvalidArgument:"""
    if args.cpus and (args.cpu_period or args.cpu_quota):
        raise InvalidArgument("--cpus and --cpu-quota contradict each other", "--cpus sets the quota", "Give one")
    if not 0 <= args.cpus <= 1e6:  # false for NaN as well
        raise InvalidArgument(f"invalid --cpus {args.cpus:g}", "it is not a number of CPUs", "Write it like 0.5")
    swap = args.memory_swap
    if args.kernel_memory:
        parse_size(args.kernel_memory)
    return {
        "memory": parse_size(args.memory) if args.memory else 0,
        "memory_swap": -1 if swap == "-1" else parse_size(swap) if swap else 0,
        "memory_reservation": parse_size(args.memory_reservation) if args.memory_reservation else 0,
        "nano_cpus": round(args.cpus * 1e9),
        "cpu_shares": args.cpu_shares,
        "cpu_period": args.cpu_period,
        "cpu_quota": args.cpu_quota,
        "cpu_rt_period": args.cpu_rt_period,
        "cpu_rt_runtime": args.cpu_rt_runtime,
        "cpuset_cpus": args.cpuset_cpus,
        "cpuset_mems": args.cpuset_mems,
        "pids_limit": args.pids_limit,
        "blkio_weight": args.blkio_weight,
    }


def _of_devices(words: Iterable[str], *, size: bool = False) -> tuple[DeviceLimit, ...]:
    return tuple(parse_device_limit(word, size=size) for word in words)
