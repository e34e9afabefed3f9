"""The options that ``run`` and ``create`` share, and the :class:`ContainerSpec` they add up to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from core.cli.command import Arguments, Parser, flag, many
from core.errors import InvalidArgument
from core.model import ContainerSpec, Healthcheck, LogOptions, Mount, PortMapping, Resources, RestartPolicy
from core.options import parse_mount, parse_ports, parse_tmpfs, parse_volume, split_env
from core.units import parse_duration, parse_size


def add_spec_options(parser: Parser) -> None:
    """Everything that describes a container; the image and its command come last."""
    _basics(parser)
    _surroundings(parser.add_argument_group("files and environment"))
    _limits(parser.add_argument_group("limits"))
    _network(parser.add_argument_group("network"))
    _health(parser.add_argument_group("health and restarts"))
    _security(parser.add_argument_group("security"))
    parser.add_argument("image", metavar="IMAGE")
    rest = parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="instead of the image's")
    rest.required = False  # else argparse names it as missing where the image is


def _basics(parser: Parser) -> None:
    parser.add_argument("--name", default="", metavar="NAME", help="a name for the container (default: made up)")
    flag(parser, "-i", "--interactive", help="keep standard input open")
    flag(parser, "-t", "--tty", help="give it a terminal")
    flag(parser, "--rm", help="remove the container when it ends")
    parser.add_argument("--entrypoint", metavar="PROGRAM", help="run this in place of the image's entrypoint")
    parser.add_argument("--pull", choices=("always", "missing", "never"), default="missing", help="fetch the image")
    flag(parser, "-q", "--quiet", help="no progress while the image is fetched")
    flag(parser, "--insecure", help="allow a registry without TLS")
    parser.add_argument("--cidfile", metavar="FILE", help="write the container's id to this file")
    many(parser, "-l", "--label", metavar="KEY=VALUE", help="a label")
    many(parser, "--label-file", metavar="FILE", help="labels, one a line")
    many(parser, "--log-opt", metavar="KEY=VALUE", help="max-size=10m (of one log file), max-file=3")


def _surroundings(group: argparse._ArgumentGroup) -> None:
    many(group, "-v", "--volume", metavar="SOURCE:TARGET[:ro]", help="a host folder or a named volume")
    many(group, "--mount", metavar="type=bind,src=…,dst=…", help="the same in words: bind, volume or tmpfs")
    many(group, "--tmpfs", metavar="TARGET[:OPTIONS]", help="a folder in memory")
    many(group, "-e", "--env", metavar="KEY[=VALUE]", help="an environment variable (without =: your own value)")
    many(group, "--env-file", metavar="FILE", help="environment variables, one a line")
    group.add_argument("-w", "--workdir", default="", metavar="DIR", help="working folder of the command")
    group.add_argument("-u", "--user", default="", metavar="USER[:GROUP]", help="run as this user")
    flag(group, "--init", help="a small init as pid 1 that reaps and forwards signals")


def _limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-m", "--memory", default="", metavar="SIZE", help="most memory, such as 64m")
    group.add_argument("--memory-swap", default="", metavar="SIZE", help="most memory and swap together; -1: no limit")
    group.add_argument("--memory-reservation", default="", metavar="SIZE", help="what it keeps under pressure")
    group.add_argument("--cpus", type=float, default=0.0, metavar="N", help="most CPUs, such as 0.5")
    group.add_argument("-c", "--cpu-shares", type=int, default=0, metavar="N", help="weight against others (1024)")
    group.add_argument("--cpu-period", type=int, default=0, metavar="US", help="scheduler period, microseconds")
    group.add_argument("--cpu-quota", type=int, default=0, metavar="US", help="CPU time in each period, microseconds")
    group.add_argument("--cpuset-cpus", default="", metavar="LIST", help="run on these CPUs only: 0-2,4")
    group.add_argument("--cpuset-mems", default="", metavar="LIST", help="memory from these nodes only")
    group.add_argument("--pids-limit", type=int, default=0, metavar="N", help="most processes; -1: no limit")
    flag(group, "--oom-kill-disable", help="stall instead of being killed when memory is used up (cgroup v1)")
    many(group, "--ulimit", metavar="NAME=SOFT[:HARD]", help="a resource limit, see setrlimit(2)")
    group.add_argument("--shm-size", default="", metavar="SIZE", help="size of /dev/shm (64m)")


def _network(group: argparse._ArgumentGroup) -> None:
    many(group, "-p", "--publish", metavar="[IP:][HOST:]PORT[/udp]", help="reach a port from outside; ranges too")
    flag(group, "-P", "--publish-all", help="publish all ports the image exposes, on free ports")
    group.add_argument("--network", "--net", default="", metavar="NAME", help="bridge (the default), host, none …")
    group.add_argument("-h", "--hostname", default="", metavar="NAME", help="its host name (default: its short id)")
    group.add_argument("--domainname", default="", metavar="NAME", help="its NIS domain name")
    many(group, "--dns", metavar="IP", help="a name server")
    many(group, "--add-host", metavar="NAME:IP", help="a line for /etc/hosts")


def _health(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--restart", default="no", metavar="POLICY", help="no, always, unless-stopped, on-failure[:N]")
    group.add_argument("--stop-signal", default="", metavar="SIGNAL", help="what `stop` sends first")
    group.add_argument("--stop-timeout", type=float, default=10.0, metavar="S", help="seconds before SIGKILL (10)")
    group.add_argument("--health-cmd", metavar="LINE", help="a shell line that exits 0 while all is well")
    group.add_argument("--health-interval", default="0s", metavar="TIME", help="time between two checks (30s)")
    group.add_argument("--health-timeout", default="0s", metavar="TIME", help="longest time of one check (30s)")
    group.add_argument("--health-start-period", default="0s", metavar="TIME", help="failures before it do not count")
    group.add_argument("--health-retries", type=int, default=0, metavar="N", help="failures until unhealthy (3)")
    flag(group, "--no-healthcheck", help="switch the image's check off")


def _security(group: argparse._ArgumentGroup) -> None:
    many(group, "--cap-add", metavar="CAP", help="a capability more (or ALL)")
    many(group, "--cap-drop", metavar="CAP", help="a capability less (or ALL)")
    many(group, "--security-opt", metavar="OPTION", help="no-new-privileges, seccomp=FILE|unconfined")
    flag(group, "--privileged", help="all capabilities and devices, nothing masked")
    flag(group, "--read-only", help="the container's root is read-only")
    many(group, "--sysctl", metavar="NAME=VALUE", help="a kernel parameter of its namespaces")


def build_spec(args: Arguments) -> ContainerSpec:
    """The specification that parsed options describe.

    :raises InvalidArgument: a value that cannot be read, or options that contradict each other
    """
    if args.rm and args.restart != "no":
        raise InvalidArgument("--rm and --restart contradict each other", "one removes what the other starts again")
    return ContainerSpec(
        image=args.image,
        name=args.name,
        command=tuple(args.command) or None,
        entrypoint=None if args.entrypoint is None else (args.entrypoint,),
        env=environment(args.env, args.env_file),
        working_dir=args.workdir,
        user=args.user,
        hostname=args.hostname,
        domainname=args.domainname,
        labels=_labels(args),
        tty=args.tty,
        stdin_open=args.interactive,
        network=args.network,
        ports=_ports(args.publish),
        publish_all=args.publish_all,
        mounts=_mounts(args),
        resources=_resources(args),
        restart=parse_restart(args.restart),
        healthcheck=_healthcheck(args),
        log=_log(args.log_opt),
        auto_remove=args.rm,
        init=args.init,
        privileged=args.privileged,
        read_only=args.read_only,
        cap_add=tuple(args.cap_add),
        cap_drop=tuple(args.cap_drop),
        security_opt=tuple(_security_option(word) for word in args.security_opt),
        sysctls=dict(_pair(word, "--sysctl") for word in args.sysctl),
        ulimits=tuple(args.ulimit),
        dns=tuple(args.dns),
        extra_hosts=tuple(args.add_host),
        stop_signal=args.stop_signal,
        stop_timeout=args.stop_timeout,
        shm_size=parse_size(args.shm_size) if args.shm_size else ContainerSpec.shm_size,
    )


def _pair(word: str, option: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise InvalidArgument(f"invalid {option} {word!r}", "it must be NAME=VALUE")
    return key, value


def _security_option(word: str) -> str:
    """A profile's path is one of our folder; the engine has another."""
    name, _, value = word.replace(":", "=", 1).partition("=")
    return f"seccomp={Path(value).absolute()}" if name == "seccomp" and value not in ("", "unconfined") else word


def _lines(files: Iterable[str], option: str) -> list[str]:
    """The lines of files that say something; comments begin with ``#``."""
    found: list[str] = []
    for name in files:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"cannot read {option} {name}", str(error)) from error
        found += [line.lstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return found


def environment(words: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
    """``KEY=VALUE`` of files and options; a ``KEY`` alone takes our own value, and is left out where we have none."""
    found: dict[str, str] = {}
    for word in [*_lines(files, "--env-file"), *words]:
        key, value = split_env(word)
        if value is not None:
            found[key] = value
        elif key in os.environ:
            found[key] = os.environ[key]
    return tuple(f"{key}={value}" for key, value in found.items())


def _labels(args: Arguments) -> dict[str, str]:
    parted = [word.partition("=") for word in [*_lines(args.label_file, "--label-file"), *args.label]]
    return {key: value for key, _, value in parted}


def _ports(words: Iterable[str]) -> tuple[PortMapping, ...]:
    return tuple(port for word in words for port in parse_ports(word))


def _mounts(args: Arguments) -> tuple[Mount, ...]:
    volumes = [parse_volume(word) for word in args.volume]
    return (*volumes, *map(parse_mount, args.mount), *map(parse_tmpfs, args.tmpfs))


def _resources(args: Arguments) -> Resources:
    if args.cpus and (args.cpu_period or args.cpu_quota):
        raise InvalidArgument("--cpus and --cpu-quota contradict each other", "--cpus sets the quota", "Give one")
    if not 0 <= args.cpus <= 1e6:  # false for NaN as well
        raise InvalidArgument(f"invalid --cpus {args.cpus:g}", "it is not a number of CPUs", "Write it like 0.5")
    swap = args.memory_swap
    return Resources(
        memory=parse_size(args.memory) if args.memory else 0,
        memory_swap=-1 if swap == "-1" else parse_size(swap) if swap else 0,
        memory_reservation=parse_size(args.memory_reservation) if args.memory_reservation else 0,
        nano_cpus=round(args.cpus * 1e9),
        cpu_shares=args.cpu_shares,
        cpu_period=args.cpu_period,
        cpu_quota=args.cpu_quota,
        cpuset_cpus=args.cpuset_cpus,
        cpuset_mems=args.cpuset_mems,
        pids_limit=args.pids_limit,
        oom_kill_disable=args.oom_kill_disable,
    )


def parse_restart(text: str) -> RestartPolicy:
    """``no``, ``always``, ``unless-stopped``, ``on-failure`` or ``on-failure:5``. :raises InvalidArgument:"""
    name, colon, count = text.partition(":")
    if name not in ("no", "always", "unless-stopped", "on-failure") or (colon and name != "on-failure"):
        raise InvalidArgument(f"invalid --restart {text!r}", "it is no, always, unless-stopped or on-failure[:N]")
    if colon and not count.isdigit():
        raise InvalidArgument(f"invalid --restart {text!r}", "the number of tries is not a number")
    return RestartPolicy(name, int(count or 0))


def _healthcheck(args: Arguments) -> Healthcheck | None:
    """Without --health-cmd the other options change the image's own check, as in Docker."""
    wanted = Healthcheck(
        ("CMD-SHELL", args.health_cmd) if args.health_cmd else (),
        interval=parse_duration(args.health_interval),
        timeout=parse_duration(args.health_timeout),
        start_period=parse_duration(args.health_start_period),
        retries=args.health_retries,
    )
    if args.no_healthcheck:
        if wanted != Healthcheck():
            raise InvalidArgument("--no-healthcheck contradicts the other --health options", "it switches them off")
        return Healthcheck(("NONE",))
    return None if wanted == Healthcheck() else wanted


def _log(words: Iterable[str]) -> LogOptions:
    size, files = LogOptions.max_size, LogOptions.max_files
    for word in words:
        key, value = _pair(word, "--log-opt")
        if key == "max-size":
            size = 0 if value == "-1" else parse_size(value)
        elif key == "max-file" and value.isdigit() and int(value) > 0:
            files = int(value)
        else:
            raise InvalidArgument(f"invalid --log-opt {word!r}", "known are max-size=SIZE and max-file=COUNT")
    return LogOptions(size, files)
