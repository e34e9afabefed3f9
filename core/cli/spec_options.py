"""The options that ``run`` and ``create`` share, and the :class:`ContainerSpec` they add up to."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.cli.command import Arguments, Parser, flag, many, pair
from core.cli.environment import environment, lines_of
from core.cli.limit_options import add_limits, add_more_limits, resources
from core.cli.network_options import add_network_options, networks
from core.cli.pull import platform_option
from core.errors import InvalidArgument
from core.model import ContainerSpec, Healthcheck, LogOptions, Mount, PortMapping, RestartPolicy
from core.options import parse_device, parse_mount, parse_ports, parse_tmpfs, parse_volume
from core.units import parse_duration, parse_size


def add_spec_options(parser: Parser) -> None:
    """Everything that describes a container; the image and its command come last."""
    _basics(parser)
    _surroundings(parser.add_argument_group("files and environment"))
    _limits(parser.add_argument_group("limits"))
    add_network_options(parser.add_argument_group("network"))
    _health(parser.add_argument_group("health and restarts"))
    _security(parser.add_argument_group("security"))
    _namespaces(parser.add_argument_group("namespaces and runtime"))
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
    platform_option(parser)
    flag(parser, "--insecure", help="allow a registry without TLS")
    parser.add_argument("--cidfile", metavar="FILE", help="write the container's id to this file")
    many(parser, "-l", "--label", metavar="KEY=VALUE", help="a label")
    many(parser, "--label-file", metavar="FILE", help="labels, one a line")
    parser.add_argument("--log-driver", default="", metavar="NAME", help="json-file or local: the log is the same")
    many(parser, "--storage-opt", metavar="KEY=VALUE", help="not supported: the disk of a container has no limit")
    many(parser, "--log-opt", metavar="KEY=VALUE", help="max-size=10m (of one log file), max-file=3")


def _surroundings(group: argparse._ArgumentGroup) -> None:
    many(
        group,
        "-v",
        "--volume",
        metavar="SOURCE:TARGET[:ro]",
        help="a host folder (made where it is not there) or a volume",
    )
    many(group, "--mount", metavar="type=bind,src=…,dst=…", help="the same in words: bind, volume or tmpfs")
    many(group, "--tmpfs", metavar="TARGET[:OPTIONS]", help="a folder in memory")
    many(group, "--volumes-from", metavar="CONTAINER[:ro]", help="the volumes and host folders of another container")
    many(group, "-e", "--env", metavar="KEY[=VALUE]", help="an environment variable (without =: your own value)")
    many(group, "--env-file", metavar="FILE", help="environment variables, one a line")
    group.add_argument("-w", "--workdir", default="", metavar="DIR", help="working folder of the command")
    group.add_argument("-u", "--user", default="", metavar="USER[:GROUP]", help="run as this user")
    many(group, "--group-add", metavar="GROUP", help="a further group: a number, or a name of the image's")
    group.add_argument("--umask", default="", metavar="MASK", help="octal, of the command (0022)")
    flag(group, "--init", help="a small init as pid 1 that reaps and forwards signals")


def _limits(group: argparse._ArgumentGroup) -> None:
    add_limits(group)
    add_more_limits(group)
    many(group, "--ulimit", metavar="NAME=SOFT[:HARD]", help="a resource limit, see setrlimit(2)")
    group.add_argument("--shm-size", default="", metavar="SIZE", help="size of /dev/shm (64m)")
    group.add_argument("--oom-score-adj", type=int, default=0, metavar="N", help="1000: killed first, -1000: never")
    group.add_argument("--cgroup-parent", default="", metavar="GROUP", help="make its cgroup below this one")


def _health(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--restart", default="no", metavar="POLICY", help="no, always, unless-stopped, on-failure[:N]")
    group.add_argument("--stop-signal", default="", metavar="SIGNAL", help="what `stop` sends first")
    group.add_argument("--stop-timeout", type=float, default=10.0, metavar="S", help="seconds before SIGKILL (10)")
    group.add_argument("--health-cmd", metavar="LINE", help="a shell line that exits 0 while all is well")
    group.add_argument("--health-interval", default="0s", metavar="TIME", help="time between two checks (30s)")
    group.add_argument("--health-timeout", default="0s", metavar="TIME", help="longest time of one check (30s)")
    group.add_argument("--health-start-period", default="0s", metavar="TIME", help="failures before it do not count")
    group.add_argument("--health-retries", type=int, default=0, metavar="N", help="failures until unhealthy (3)")
    group.add_argument("--health-start-interval", default="0s", metavar="TIME", help="between two until then (5s)")
    flag(group, "--no-healthcheck", help="switch the image's check off")


def _security(group: argparse._ArgumentGroup) -> None:
    many(group, "--cap-add", metavar="CAP", help="a capability more (or ALL)")
    many(group, "--cap-drop", metavar="CAP", help="a capability less (or ALL)")
    many(
        group,
        "--security-opt",
        metavar="OPTION",
        help="no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE|unconfined, label=type:TYPE|disable …, "
        "systempaths=unconfined, writable-cgroups",
    )
    flag(group, "--privileged", help="all capabilities and devices, nothing masked")
    flag(group, "--read-only", help="the container's root is read-only")
    many(group, "--sysctl", metavar="NAME=VALUE", help="a kernel parameter of its namespaces")
    many(group, "--device", metavar="HOST[:CONTAINER[:rwm]]", help="a device of the host, or a folder of them")
    many(group, "--device-cgroup-rule", metavar="RULE", help="allow the use of devices: 'c 42:* rmw'")
    many(group, "--gpus", metavar="DEVICES", help="not supported: pass the devices by --device")


def _namespaces(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--ipc", default="private", metavar="MODE", help="private, shareable, host, none, container:ID")
    group.add_argument("--pid", default="private", metavar="MODE", help="private, host, container:ID")
    group.add_argument("--uts", default="private", metavar="MODE", help="private, host, container:ID")
    group.add_argument("--cgroupns", default="private", metavar="MODE", help="private, host")
    group.add_argument("--userns", default="", metavar="MODE", help="host, auto[:size=N], remap")
    group.add_argument("--runtime", default="", metavar="NAME", help="the OCI runtime (default: the engine's own)")
    group.add_argument("--isolation", default="default", choices=("default",), help="the one kind that Linux has")
    many(group, "--annotation", metavar="KEY=VALUE", help="a note for the OCI runtime")


def build_spec(args: Arguments) -> ContainerSpec:
    """The specification that parsed options describe.

    :raises InvalidArgument: a value that cannot be read, or options that contradict each other
    """
    _check(args)
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
        ports=_ports(args.publish),
        publish_all=args.publish_all,
        mounts=_mounts(args),
        resources=resources(args),
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
        sysctls=dict(pair(word, "--sysctl") for word in args.sysctl),
        ulimits=tuple(args.ulimit),
        stop_signal=args.stop_signal,
        stop_timeout=args.stop_timeout,
        shm_size=parse_size(args.shm_size) if args.shm_size else ContainerSpec.shm_size,
        **_networking(args),
        **_settings(args),
    )


def _check(args: Arguments) -> None:
    """:raises InvalidArgument: options that contradict each other, or are not for this engine"""
    if args.gpus:
        raise InvalidArgument(
            "cannot pass GPUs by --gpus",
            "that needs a vendor's hook, which this engine does not run",
            "Name the devices, such as --device /dev/dri or --device /dev/nvidia0",
        )
    if args.log_driver not in ("", "json-file", "local"):
        why = "the log is always kept" if args.log_driver == "none" else "the engine writes the log itself"
        raise InvalidArgument(
            f"--log-driver {args.log_driver} is not supported",
            f"{why}, in files of the CRI format",
            "--log-opt max-size and max-file limit it; other programs can read it where `wharf inspect` says LogPath",
        )
    if args.storage_opt:
        raise InvalidArgument(
            f"--storage-opt {args.storage_opt[0]} is not supported",
            "what a container writes has no limit of its own",
            "Put the data root on a file system of that size, or say --read-only and --tmpfs /PLACE:size=64m",
        )
    if args.rm and args.restart != "no":
        raise InvalidArgument("--rm and --restart contradict each other", "one removes what the other starts again")


def _networking(args: Arguments) -> dict[str, Any]:
    """Where it is reached, and whom it finds by name."""
    network, places = networks(args)
    return {
        "dns": tuple(args.dns),
        "dns_search": tuple(args.dns_search),
        "dns_options": (*args.dns_option, *args.dns_opt),
        "links": tuple(args.link),
        "network": network,
        "networks": places,
        "extra_hosts": tuple(args.add_host),
    }


def _settings(args: Arguments) -> dict[str, Any]:
    """What goes into the specification almost as it was written."""
    return {
        "volumes_from": tuple(args.volumes_from),
        "devices": tuple(parse_device(word) for word in args.device),
        "device_cgroup_rules": tuple(args.device_cgroup_rule),
        "group_add": tuple(args.group_add),
        # Docker's empty word: the default.
        **{name: getattr(args, name) or "private" for name in ("ipc", "pid", "uts", "cgroupns")},
        "userns": args.userns,
        "runtime": args.runtime,
        "platform": args.platform,
        "cgroup_parent": args.cgroup_parent.strip("/"),
        "oom_score_adj": args.oom_score_adj,
        "umask": args.umask,
        "annotations": dict(pair(word, "--annotation") for word in args.annotation),
    }


def _security_option(word: str) -> str:
    """A profile's path is one of our folder; the engine has another."""
    name, separator, value = word.partition("=" if word.startswith("seccomp=") else ":")
    is_path = name == "seccomp" and separator and value not in ("", "unconfined", "builtin")
    return f"seccomp={Path(value).absolute()}" if is_path else word


def _labels(args: Arguments) -> dict[str, str]:
    parted = [word.partition("=") for word in [*lines_of(args.label_file, "--label-file"), *args.label]]
    return {key: value for key, _, value in parted}


def _ports(words: Iterable[str]) -> tuple[PortMapping, ...]:
    return tuple(port for word in words for port in parse_ports(word))


def _mounts(args: Arguments) -> tuple[Mount, ...]:
    volumes = [parse_volume(word) for word in args.volume]
    return (*volumes, *map(parse_mount, args.mount), *map(parse_tmpfs, args.tmpfs))


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
        start_interval=parse_duration(args.health_start_interval),
    )
    if args.no_healthcheck:
        if wanted != Healthcheck():
            raise InvalidArgument("--no-healthcheck contradicts the other --health options", "it switches them off")
        return Healthcheck(("NONE",))
    return None if wanted == Healthcheck() else wanted


def _log(words: Iterable[str]) -> LogOptions:
    size, files = LogOptions.max_size, LogOptions.max_files
    for word in words:
        key, value = pair(word, "--log-opt")
        if key == "max-size":
            size = 0 if value == "-1" else parse_size(value)
        elif key == "max-file" and value.isdigit() and int(value) > 0:
            files = int(value)
        else:
            raise InvalidArgument(f"invalid --log-opt {word!r}", "known are max-size=SIZE and max-file=COUNT")
    return LogOptions(size, files)
