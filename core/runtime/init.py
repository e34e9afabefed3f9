"""The container's first process, from the fork to the exec. Every step's place in the order has its reason.

It is forked by the monitor (or by our OCI command line) into a new pid namespace, so it is pid 1 there; or a guide
is, which makes it. Nothing is imported here after the fork: an import would cost time, and once inside it would load
files of the image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NoReturn, cast

from core.kernel import libc, mount, process, resolve, userns
from core.kernel.clone import fork_sibling
from core.kernel.hop import can_hop, hop
from core.runtime import attributes, finish, gate, hooks, mountopts, namespaces, reaper, rootfs, terminal
from core.runtime.defaults import Json
from core.runtime.sources import Sources
from core.runtime.task import InitTask, Report
from core.runtime.user import User


def run(task: InitTask) -> NoReturn:
    """Become the container. Never returns; a failure goes to the parent."""
    report = Report(task.report)
    try:
        finish.guard(report)
        _start(task, report)
    except BaseException as error:
        report.fail(error)


def _start(task: InitTask, report: Report) -> NoReturn:
    os.umask(0o022)  # the launcher's would make folders that the user cannot enter
    own = cast(Json, task.config.get("process") or {})
    report.at("setting the OOM score")
    attributes.set_oom_score(own)
    if task.keyring:
        finish.new_session_keyring(report)  # before a user namespace, in which the kernel lets nobody make one
    # First the cgroup: whatever is allocated from now on is charged to it (after a hop only what the kernel allocates
    # for itself), and the cgroup namespace that is unshared next has it as its root.
    report.at("entering the cgroup")
    task.enter_cgroup()
    report.at("joining namespaces")
    joined = namespaces.open_joined(task.config, task.joined)
    # Before anything of the image is touched: no descriptor of the host is left but those we need.
    keep = {task.report, *joined.values(), *range(3, 3 + task.preserve)}
    finish.keep_only(task.stdio, keep | task.early.fds | {fd for fd in (task.gate, task.shm) if fd >= 0})
    finish.lend_stdio(*namespaces.mappings(task.config))
    if task.place is not None:
        sources = _guide(task, report, joined)
    else:
        namespaces.enter(task, report, joined)
        sources = _open_sources(task, report, None)
    for fd in (*joined.values(), *({task.shm} - {-1})):
        os.close(fd)
    _inside(task, report, sources)


def _guide(task: InitTask, report: Report, joined: Mapping[str, int]) -> Sources:
    """Go ahead, and return in the process that was made inside; this one has done its part then."""
    found: list[Sources] = []
    # Asked while /proc is the host's. A time namespace takes nobody who shares the memory of one outside.
    hops = can_hop() and "time" not in namespaces.listed(task.config)
    namespaces.enter_as_guide(task, report, joined, lambda home: found.append(_open_sources(task, report, home)))
    assert task.place is not None
    finish.guard(report)  # again: a change of the user clears the death signal, and this process may have to wait
    if hops:
        hop(task.place)
        task.place.close()  # it is the parent's memory too
    elif fork_sibling(task.place):
        os._exit(0)
    finish.guard(report)  # again: a new process has no death signal
    return found[0]


def _open_sources(task: InitTask, report: Report, home: int | None) -> Sources:
    # While the host's mounts are still peers of ours: a copy made for `rshared` stays one.
    sources = Sources(task, report, home)
    rootfs.with_umask(0, sources.open_binds)
    if _has_mounts(task) or task.place is not None:
        # Then cut the tie, before anything is mounted: otherwise the host would see every mount of ours.
        report.at("cutting mount propagation")
        mount.set_root_propagation(mount.MS_SLAVE)
    rootfs.with_umask(0, sources.open_rest)
    return sources


def _has_mounts(task: InitTask) -> bool:
    return "mount" in namespaces.listed(task.config)


def _inside(task: InitTask, report: Report, sources: Sources) -> NoReturn:
    config, own = task.config, cast(Json, task.config.get("process") or {})
    os.setsid()
    has_groups = userns.setgroups_allowed()
    tree = rootfs.Tree(task, report, sources)
    rootfs.with_umask(0, lambda: tree.build(attached=_has_mounts(task)))
    report.at("setting the host name")
    if config.get("hostname"):
        process.set_hostname(str(config["hostname"]))
    if config.get("domainname"):
        process.set_domainname(str(config["domainname"]))
    if own.get("terminal"):
        _terminal(tree, own, report)
    _host_hooks(task, report)
    # After the hooks, which may have made the interfaces that a setting is for; before the root is entered.
    tree.cover()
    finish.label(own, tree.proc, report)
    report.at("entering the root")
    _leave_host(task, tree)
    report.at("looking up the user")
    user = finish.who(own, cast(Json, config.get("annotations") or {}))
    # As root, and before the root becomes read-only: the folder may have to be made.
    report.at("working directory")
    finish.enter_folder(str(own.get("cwd") or "/"), make=True)
    if cast(Json, config.get("root") or {}).get("readonly"):
        tree.make_readonly_root()
    keep = {0, 1, 2, task.report, *range(3, 3 + task.preserve)}
    libc.close_all_but(keep | ({task.gate} if task.gate >= 0 else set()))
    finish.own_stdio(user)
    report.at("setting limits")
    finish.set_limits(own, task.soft_files)
    attributes.set_scheduling(own)
    attributes.set_personality(cast(Json, config.get("linux") or {}))
    _finish(task, report, user, has_groups)


def _finish(task: InitTask, report: Report, user: User, has_groups: bool) -> NoReturn:
    own = cast(Json, task.config.get("process") or {})
    last = hooks.listed(task.config, "startContainer")
    state = _state(task, "created") if last else {}  # as of now: with a reaper the command becomes another process
    if own and task.gate >= 0:
        finish.check_command(own)  # already now: an engine on top tells a missing command by a `create` that fails
    if reaper.wanted(task.config):
        reaper.stay(task.stdio is None, bool(own.get("noNewPrivileges")), task.seccomp, report)
    command = finish.Command(own, user, task.preserve) if own else None
    waiting = gate.Gate(task.gate) if task.gate >= 0 else None
    if waiting is None:
        process.set_death_signal(0)  # from here on the container outlives its monitor
    finish.drop(own, user, task.seccomp, report, has_groups=has_groups)
    if waiting is not None:
        finish.guard(report)  # again: a change of the user clears the death signal
        waiting.wait(report)
    # The last of the runtime's steps, and programs of the image: they get what the command gets.
    if last:
        hooks.run_all(task.config, "startContainer", state)
    assert command is not None, "without a process there is no start"
    command.execute(report)


def _host_hooks(task: InitTask, report: Report) -> None:
    """``prestart`` and ``createRuntime`` are the parent's; ``createContainer`` is ours, still by paths of the host."""
    if task.asks or hooks.listed(task.config, "prestart") or hooks.listed(task.config, "createRuntime"):
        report.at("waiting for network and hooks")
        report.ask(b"H")
        report.at("finishing the mounts")
    if hooks.listed(task.config, "createContainer"):
        hooks.run_all(task.config, "createContainer", _state(task, "creating"))


def _state(task: InitTask, status: str) -> Json:
    return hooks.state(task.config, cid=task.cid, status=status, pid=os.getpid(), bundle=task.bundle)


def _terminal(tree: rootfs.Tree, own: Json, report: Report) -> None:
    """Make the terminal in the container's devpts, and /dev/console from it."""
    report.at("making the terminal")
    if "/dev/pts" in tree.special:
        master = terminal.open_master(tree.special["/dev/pts"], "ptmx")
    else:
        master = terminal.open_master(tree.root, "dev/pts/ptmx")
    slave = terminal.take(master, own, report)
    terminal.control()
    dev = tree.own_dev()
    if dev is not None:
        place = resolve.make_file(dev, "console", 0o620)
        console = mount.clone_tree(slave)
        mount.attach(console, place)
        os.close(console)
        os.close(place)
    os.close(slave)


def _leave_host(task: InitTask, tree: rootfs.Tree) -> None:
    if not _has_mounts(task):
        # Nothing of the host's can be changed for this container alone. Its tree is a detached one, and goes with it.
        os.fchdir(tree.root)
        os.chroot(".")
        return
    mount.pivot_root(tree.root)
    word = str(cast(Json, task.config.get("linux") or {}).get("rootfsPropagation") or "")
    kind, deep = mountopts.root_propagation(word)
    # The root was a slave of the host's mounts while it was built; by default nothing comes into it any more.
    mount.set_root_propagation(kind, recursive=deep)
