"""What ``create`` refuses: whatever could only fail later, when a container is started, or while it is stopped.

Each check raises :class:`InvalidArgument` with the rule. What the mechanisms know better (ports, names, the OCI
configuration with its users, capabilities, sysctls and limits) is asked of them, by the calls that a start makes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from core.cgroups.layout import check_path
from core.errors import InvalidArgument
from core.model import ContainerSpec, ImageConfig, Mount, PortMapping
from core.model.network import is_network
from core.names import check_name
from core.net import names
from core.net import ports as published
from core.ops import idranges
from core.ops.check_limits import MOST, check_limits
from core.ops.check_networks import check_networks, check_words
from core.ops.context import Context
from core.ops.health import effective
from core.ops.kill import parse_signal
from core.ops.links import check_links
from core.runtime import seccomp
from core.runtime import spec as oci
from core.runtime.mounts import PROPAGATION, clean_path
from core.store.codec import to_plain

MOST_PORTS = 10_000
_YEARS = 10 * 365 * 86400.0  # seconds
_LABEL = "[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")  # RFC 1123, and the underscore that Compose's names have
_HOSTNAME_MOST = 64  # sethostname(2)
_BIND_OPTIONS = frozenset(
    "ro rw suid dev exec bind rbind nosuid nodev noexec noatime relatime strictatime nodiratime nosymfollow".split()
)
_TMPFS_KEYS = {
    "size": r"[0-9]{1,18}[kKmMgG%]?",
    "nr_blocks": r"[0-9]{1,18}[kKmMgG]?",
    "nr_inodes": r"[0-9]{1,18}[kKmMgG]?",
    "mode": r"[0-7]{1,4}",
    "uid": r"[0-9]{1,10}",
    "gid": r"[0-9]{1,10}",
    "mpol": r"[a-z]{1,16}(=[a-z]{1,16})?(:[0-9,-]{1,256})?",
}

_TMPFS_LIKE = {
    "size": "Write it like size=64m or size=50%",
    "mode": "Write it in octal, like mode=1777",
    "uid": "It is a number",
    "gid": "It is a number",
}


async def check_surroundings(ctx: Context, spec: ContainerSpec) -> None:
    """:raises NotFound: no such network :raises InvalidArgument: a parent cgroup that is kept for containers

    :raises NoPrivilege: an ordinary user's container cannot be on that network
    """
    if f"{spec.cgroup_parent}/".startswith(f"{ctx.inst.cgroup}/"):
        raise InvalidArgument(
            f"invalid parent cgroup {spec.cgroup_parent!r}", "the engine keeps its own containers there", "Drop it"
        )
    await check_networks(ctx, spec)
    await check_links(ctx, spec)


def names_files(spec: ContainerSpec) -> bool:
    """Does what it says about files of the host have to be looked up there? A dead file server would hold us."""
    return bool(spec.security_opt) or any(mount.kind != "tmpfs" for mount in spec.mounts)


def check_spec(spec: ContainerSpec, image: ImageConfig, argv: Sequence[str]) -> None:
    """All that can be said without other objects. Not for the event loop's thread where it :func:`names_files`.

    :raises InvalidArgument: what and why
    """
    for text in _texts(to_plain(spec)):
        _check_text(text)
    if not argv[0]:
        raise InvalidArgument("no command to run", "its first word is empty", "Add one after the image")
    if spec.name:
        check_name(spec.name)
    _check_hostname("hostname", spec.hostname)
    _check_hostname("domain name", spec.domainname)
    oci.check_env(spec.env)
    if "" in spec.labels:
        raise InvalidArgument("invalid label", "its name is empty", "Write it like key=value")
    _check_life(spec, image)
    _check_house(spec)
    check_limits(spec.resources)
    if not 0 < spec.shm_size < MOST:
        raise InvalidArgument(f"invalid size of /dev/shm: {spec.shm_size}", "it is not positive", "Say --shm-size 64m")
    check_words(spec)
    check_published(spec)
    _check_mounts(spec.mounts)
    _check_bundle(spec, image, argv)


def _texts(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, dict):
        for key, value in plain.items():
            yield key
            yield from _texts(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from _texts(value)


def _check_text(text: str) -> None:
    """Words that the kernel or a file takes as they were written: no zero byte, and bytes for every character."""
    why = "it holds a zero byte" if "\0" in text else ""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        why = "it holds half of a surrogate pair"
    if why:
        raise InvalidArgument(f"invalid text {text[:100]!r}", why, "Leave that character out")


def _check_hostname(what: str, name: str) -> None:
    if name and (len(name) > _HOSTNAME_MOST or not _HOSTNAME.fullmatch(name)):
        raise InvalidArgument(
            f"invalid {what} {name[:100]!r}",
            f"it is not made of letters, digits, hyphens and dots, at most {_HOSTNAME_MOST}",
            "Choose another name",
        )


def _check_life(spec: ContainerSpec, image: ImageConfig) -> None:
    signal = spec.stop_signal or image.stop_signal
    if signal:
        parse_signal(signal)
    if not 0 <= spec.stop_timeout <= _YEARS:  # false for NaN as well
        raise InvalidArgument(f"invalid stop timeout {spec.stop_timeout:g}", "it is not a number of seconds", "Say 10")
    check_restart(spec)
    if spec.log.max_size < 0 or spec.log.max_files < 1:
        raise InvalidArgument("invalid log options", "there is at least one file, of 0 (no limit) or more bytes", "")
    effective(spec.healthcheck, image.healthcheck)


def check_restart(spec: ContainerSpec) -> None:
    """:raises InvalidArgument: no such policy, or one that contradicts another option"""
    policy = spec.restart
    if policy.name not in ("no", "always", "unless-stopped", "on-failure") or policy.max_retries < 0:
        raise InvalidArgument(
            f"invalid restart policy {policy.name!r}", "it is no, always, unless-stopped or on-failure[:N]", ""
        )
    if policy.max_retries and policy.name != "on-failure":
        raise InvalidArgument(f"restart policy {policy.name} has no tries to count", "only on-failure has", "Drop it")
    if spec.auto_remove and policy.name != "no":
        raise InvalidArgument(
            "removal at the end and restarts contradict each other", "one removes what the other starts", "Drop one"
        )


def _check_house(spec: ContainerSpec) -> None:
    """Who runs it, and under which roof."""
    idranges.check(spec)
    if not -1000 <= spec.oom_score_adj <= 1000:
        raise InvalidArgument(
            f"invalid OOM score {spec.oom_score_adj}", "it is not between -1000 and 1000", "Say 0 for neither"
        )
    if spec.cgroup_parent:
        check_path(spec.cgroup_parent)


def check_published(spec: ContainerSpec) -> None:
    """:raises InvalidArgument: ports that cannot be, or not with that network"""
    if spec.ports and not is_network(spec.network):
        raise InvalidArgument(
            f"ports cannot be published with --network {spec.network}",
            "there is no interface of its own to lead them to",
            "Leave out -p, or use a bridge network",
        )
    check_ports(spec.ports)


def check_ports(ports: Iterable[PortMapping]) -> None:
    """:raises InvalidArgument: not ports, too many, or two that cannot both be"""
    wanted = published.check(ports)
    if len(wanted) > MOST_PORTS:
        raise InvalidArgument(f"{len(wanted)} ports", f"at most {MOST_PORTS} can be published", "Publish fewer")
    seen: dict[tuple[str, int], list[PortMapping]] = {}
    for port in wanted:
        others = seen.setdefault((port.protocol, port.host_port), [])
        if any(published.overlap(port, other) for other in others):
            raise InvalidArgument(
                f"host port {port.host_port}/{port.protocol} is published twice", "it can lead to one place", "Drop one"
            )
        others.append(port)


def _check_mounts(mounts: Iterable[Mount]) -> None:
    seen: set[str] = set()
    for mount in mounts:
        if mount.kind not in ("bind", "volume", "tmpfs"):
            raise InvalidArgument(f"invalid mount {mount.kind!r}", "kinds are bind, volume and tmpfs", "Choose one")
        target = clean_path(mount.target)
        if not target.startswith("/") or target == "/":
            raise InvalidArgument(f"invalid mount target {mount.target!r}", "it must be absolute and not /", "")
        if len(os.fsencode(target)) >= 4096 or any(len(os.fsencode(part)) > 255 for part in target.split("/")):
            raise InvalidArgument(f"invalid mount target {target[:100]!r}", "it is too long for a path", "")
        if target in seen:
            raise InvalidArgument(f"duplicate mount target {mount.target!r}", "two mounts name it", "Drop one")
        seen.add(target)
        _check_source(mount)
        for option in mount.options:
            if not _is_option(mount.kind, option):
                raise _bad_option(mount.kind, option, target)


def _bad_option(kind: str, option: str, target: str) -> InvalidArgument:
    key, equals, value = option.partition("=")
    what = f"invalid option {option!r} of mount {target}"
    if kind == "tmpfs" and equals and key in _TMPFS_KEYS:
        return InvalidArgument(what, f"{value!r} is no value for {key}", _TMPFS_LIKE.get(key, "Give another"))
    return InvalidArgument(what, "it is not known", "Leave it out")


def _check_source(mount: Mount) -> None:
    if mount.kind == "volume":
        check_name(mount.source)
    elif mount.kind == "bind":
        if not mount.source.startswith("/"):
            raise InvalidArgument(f"cannot mount {mount.source!r}", "it is not an absolute path", "Begin it with /")
        if not mount.make and not Path(mount.source).exists():
            raise InvalidArgument(
                f"cannot mount {mount.source}", "it does not exist on this host", f"mkdir -p {mount.source}"
            )


def _is_option(kind: str, option: str) -> bool:
    if kind == "tmpfs":
        key, equals, value = option.partition("=")
        known = key in _TMPFS_KEYS and re.fullmatch(_TMPFS_KEYS[key], value) is not None
        return known if equals else option in _BIND_OPTIONS
    return option in _BIND_OPTIONS or option in PROPAGATION or option in ("idmap", "ridmap")


def _check_bundle(spec: ContainerSpec, image: ImageConfig, argv: Sequence[str]) -> None:
    """Make what a start writes, to see that it can be made."""
    has_gateway = is_network(spec.network)
    names.hosts_file((), "", extra_hosts=spec.extra_hosts, gateway="192.0.2.1" if has_gateway else "")
    names.resolv_conf("", spec.dns, search=spec.dns_search, options=spec.dns_options)
    config = oci.build_config(
        spec,
        image,
        cid="",
        argv=argv,
        hostname=spec.hostname or "container",
        rootfs="rootfs",
        cgroup_path="/",
        etc_files={},
        netns="host" if spec.network == "host" else "new",
        joined=dict.fromkeys(("ipc", "pid", "uts"), "/proc/1/ns/ipc"),
        volumes={mount.source: "/" for mount in spec.mounts if mount.kind == "volume"},
    )
    rules = cast("dict[str, Any]", config["linux"]).get("seccomp")
    if rules is not None and any(option.startswith(("seccomp=", "seccomp:")) for option in spec.security_opt):
        seccomp.compiled(rules)
