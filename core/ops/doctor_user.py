"""What ``doctor`` says about an ordinary user's engine: ids, cgroup delegation, networks, what ends at log-out."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

from core import cgroups
from core.kernel.userns import read_map
from core.model import Check
from core.rootless.ids import ENOUGH, Ids, plan
from core.rootless.network import shared_network, try_way_out
from core.store.paths import Instance
from core.supervise import uplink

_LINGER = Path("/var/lib/systemd/linger")  # loginctl(1)


def check_user(inst: Instance, user: int) -> Iterator[Check]:
    """:param user: as the host numbers them"""
    # The user's group: what root's group inside is outside.
    group = next((piece.outside for piece in read_map("gid") if piece.inside == 0), user)
    wanted = plan(user, group)
    yield _ids(wanted)
    if read_map("uid") != wanted.uids or read_map("gid") != wanted.gids:
        yield Check(
            "user ids",
            "warn",
            "the ids of the running containers are those of an earlier set-up",
            "what /etc/subuid and /etc/subgid say now is not in use yet",
            "Stop every container, close every workstation, and begin again",
        )
    yield Check("user namespaces", "ok", "this engine is root in one")
    yield from _log_out(inst, user)


def _ids(ids: Ids) -> Check:
    fix = f"As root: {ids.fix}"
    if ids.single:
        return Check(
            "user ids",
            "warn",
            f"only your own: {ids.single}",
            "every file of an image belongs to root, and nothing in a container can become another user",
            fix,
        )
    if ids.count < ENOUGH:
        return Check(
            "user ids",
            "warn",
            f"{ids.count} for users and groups",
            f"images whose files belong to ids above {ids.count - 1} cannot be unpacked",
            fix,
        )
    return Check("user ids", "ok", f"{ids.count} for users and groups, by newuidmap and newgidmap")


def _log_out(inst: Instance, user: int) -> Iterator[Check]:
    """systemd ends a user's processes and removes their run folder with the last session, unless told otherwise."""
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        return
    if str(inst.run).startswith("/run/user/") and _LINGER.parent.is_dir() and not (_LINGER / name).exists():
        yield Check(
            "log-out",
            "warn",
            f"{inst.run} goes with your last session",
            "containers are lost when you log out",
            f"loginctl enable-linger {name}",
        )


def no_cgroups() -> Check:
    """For a host of which this process may use no cgroup."""
    why, fix = cgroups.why_not_usable()
    consequence = "containers run without limits; they cannot be paused; their meters count processes one by one"
    return Check("cgroups", "warn", why, consequence, fix)


def networks() -> Iterator[Check]:
    """For a network namespace that is the host's, and not this user's: can there be one of their own?"""
    shared = shared_network()
    assert shared is not None
    why, fix = shared.refusal or ("", "")
    if not why:
        try:
            why = try_way_out(shared)
        except OSError as error:
            why = error.strerror or str(error)
        fix = "See: man pasta, man slirp4netns; with a firewall for programs (AppArmor) they need its leave"
    if why:
        yield Check(
            "networks",
            "warn",
            f"none and host: {why}",
            "containers have no network of their own and publish no ports",
            f"{fix}. Or use --network host where that will do, or run wharf as root",
        )
        return
    yield Check("networks", "ok", f"bridges and published ports, by {' or '.join(uplink.names())}")
