"""The verbs of the command line: their flags, and what each calls."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import cgroups
from core.errors import Conflict, InvalidArgument, Unsupported
from core.oci import checkpoints, events, features, kill, listing, readiness, template, update
from core.oci.create import Options
from core.oci.delete import delete
from core.oci.execute import Wanted, execute
from core.oci.run import create_detached, run
from core.oci.start import start
from core.oci.store import Store, status

if TYPE_CHECKING:
    from core.oci.main import Log

    Verbs = argparse._SubParsersAction[Any]
    Work = Callable[[Store, argparse.Namespace, Log], int]


def add(verbs: Verbs) -> None:
    """Declare all of them."""
    for name, help, work in (("create", "make a container from a bundle", _create), ("run", "create and start", _run)):
        parser = _verb(verbs, name, help, work)
        _bundle_options(parser)
        if name == "run":
            parser.add_argument("-d", "--detach", action="store_true", help="do not wait for its end")
            parser.add_argument("--keep", action="store_true", help="do not delete it when it has ended")
            parser.add_argument("--no-subreaper", action="store_true", help="accepted: its orphans are never ours")
        parser.add_argument("id", metavar="ID")
    for name, help, work in (
        ("start", "run the command of a created container", _start),
        ("state", "print a container's state", _state),
        ("pause", "freeze all its processes", _pause),
        ("resume", "let them go on", _resume),
    ):
        _verb(verbs, name, help, work).add_argument("id", metavar="ID")
    _ending(verbs)
    checkpoints.add(verbs, _verb)
    _exec_options(_verb(verbs, "exec", "run a further command in a container", _exec))
    _looking(verbs)
    _updating(_verb(verbs, "update", "change limits", _update))
    _verb(verbs, "features", "what this runtime can do", _features)
    parser = _verb(verbs, "spec", "write a config.json to begin with", _spec)
    parser.add_argument("-b", "--bundle", default=".", metavar="DIR", help="where to")
    parser.add_argument("--rootless", dest="for_user", action="store_true", help="for an ordinary user")


def _verb(verbs: Verbs, name: str, help: str, work: Work) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(work=work)
    return parser


def _bundle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-b", "--bundle", default=".", metavar="DIR", help="the folder with config.json")
    parser.add_argument("--console-socket", default="", metavar="PATH", help="unix socket that gets the terminal")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="write the first process's pid there")
    parser.add_argument("--preserve-fds", type=int, default=0, metavar="N", help="the command gets N more descriptors")
    parser.add_argument("--no-new-keyring", action="store_true", help="keep the caller's session keyring")
    parser.add_argument("--no-pivot", action="store_true", help="refused: a root that is not pivoted can be left")
    parser.add_argument("--no-mount-fallback", action="store_true", help="accepted: there is no fallback")


def _ending(verbs: Verbs) -> None:
    parser = _verb(verbs, "kill", "send a signal", _kill)
    parser.add_argument("-a", "--all", action="store_true", help="to all processes, not the first one alone")
    parser.add_argument("id", metavar="ID")
    parser.add_argument("signal", nargs="?", default="TERM", metavar="SIGNAL")
    parser = _verb(verbs, "delete", "forget a container that has ended", _delete)
    parser.add_argument("-f", "--force", action="store_true", help="kill it first")
    parser.add_argument("id", metavar="ID")


def _exec_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--console-socket", default="", metavar="PATH", help="unix socket that gets the terminal")
    parser.add_argument("--cwd", default="", metavar="DIR", help="working directory")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="environment variable")
    parser.add_argument("-t", "--tty", action="store_true", help="with a terminal")
    parser.add_argument("-u", "--user", default="", metavar="UID[:GID]", help="as this user")
    parser.add_argument("-g", "--additional-gids", type=int, action="append", default=[], metavar="GID", help="a group")
    parser.add_argument("-p", "--process", type=Path, metavar="FILE", help="file with the OCI process")
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait for its end")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="write its pid there")
    parser.add_argument("--process-label", default="", metavar="LABEL", help="SELinux label")
    parser.add_argument("--apparmor", default="", metavar="PROFILE", help="AppArmor profile")
    parser.add_argument("--no-new-privs", action="store_true", help="it can gain no rights")
    parser.add_argument("-c", "--cap", action="append", default=[], metavar="CAP", help="a capability more")
    parser.add_argument("--preserve-fds", type=int, default=0, metavar="N", help="the command gets N more descriptors")
    parser.add_argument("--cgroup", action="append", default=[], metavar="PATH", help="a group below the container's")
    parser.add_argument("--ignore-paused", action="store_true", help="in a frozen container too: it waits there")
    parser.add_argument("id", metavar="ID")
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")


def _looking(verbs: Verbs) -> None:
    parser = _verb(verbs, "list", "list containers", _list)
    parser.add_argument("-f", "--format", choices=("table", "json"), default="table")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids alone")
    parser = _verb(verbs, "ps", "list a container's processes", _ps)
    parser.add_argument("-f", "--format", choices=("table", "json"), default="table")
    parser.add_argument("id", metavar="ID")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="PS-OPTION")
    parser = _verb(verbs, "events", "print counters and OOM kills", _events)
    parser.add_argument("--interval", default="5s", metavar="TIME", help="between two lines of counters (5s)")
    parser.add_argument("--stats", action="store_true", help="print counters once")
    parser.add_argument("id", metavar="ID")


def _updating(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-r", "--resources", default="", metavar="FILE", help="linux.resources in JSON; -: from here")
    for option in update.NUMBERS:
        parser.add_argument(f"--{option}", type=int, metavar="N")
    for option in update.TEXTS:
        parser.add_argument(f"--{option}", metavar="LIST")
    parser.add_argument("--l3-cache-schema", default="", metavar="TEXT", help="Intel RDT")
    parser.add_argument("--mem-bw-schema", default="", metavar="TEXT", help="Intel RDT")
    parser.add_argument("id", metavar="ID")


# -- what they do
def _options(args: argparse.Namespace) -> Options:
    if args.no_pivot:
        raise Unsupported("cannot use --no-pivot", "a root that is not pivoted can be left again", "Leave it out")
    bundle, listening = Path(args.bundle).resolve(), _listening()
    preserve = args.preserve_fds + listening
    return Options(bundle, args.pid_file, args.console_socket, preserve, not args.no_new_keyring, listening)


def _listening() -> int:
    """How many sockets we were started with to hand on (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    count = os.environ.get("LISTEN_FDS", "")
    return int(count) if count.isdecimal() else 0


def _create(store: Store, args: argparse.Namespace, log: Log) -> int:
    create_detached(store, args.id, _options(args), log.warning)
    return 0


def _run(store: Store, args: argparse.Namespace, log: Log) -> int:
    return run(store, args.id, _options(args), detach=args.detach, keep=args.keep, warn=log.warning)


def _start(store: Store, args: argparse.Namespace, log: Log) -> int:
    ear = readiness.ear(store, args.id)
    for error in start(store, args.id, ear):
        log.warning(error)
    if ear is not None:
        held = store.load(args.id)
        ear.listen(held, held.pid, log.warning)
    return 0


def _state(store: Store, args: argparse.Namespace, log: Log) -> int:
    print(json.dumps(listing.described(store, store.load(args.id)), indent=2))
    return 0


def _kill(store: Store, args: argparse.Namespace, log: Log) -> int:
    kill.kill(store, args.id, kill.number_of(args.signal), everyone=args.all)
    return 0


def _delete(store: Store, args: argparse.Namespace, log: Log) -> int:
    for error in delete(store, args.id, force=args.force):
        log.warning(error)
    return 0


def _exec(store: Store, args: argparse.Namespace, log: Log) -> int:
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv and args.process is None:
        raise InvalidArgument("no command to run", "neither COMMAND nor --process is given", "Add one after the id")
    wanted = Wanted(
        argv=argv,
        process=args.process,
        cwd=args.cwd,
        env=args.env,
        tty=args.tty,
        user=args.user,
        groups=args.additional_gids,
        label=args.process_label,
        apparmor=args.apparmor,
        no_new_privs=args.no_new_privs,
        caps=args.cap,
        cgroup=args.cgroup,
        ignore_paused=args.ignore_paused,
        detach=args.detach,
        console=args.console_socket,
        pid_file=args.pid_file,
        preserve=args.preserve_fds,
    )
    return execute(store, args.id, wanted, log.warning)


def _pause(store: Store, args: argparse.Namespace, log: Log) -> int:
    return _freeze(store, args.id, on=True)


def _resume(store: Store, args: argparse.Namespace, log: Log) -> int:
    return _freeze(store, args.id, on=False)


def _freeze(store: Store, cid: str, *, on: bool) -> int:
    with store.locked(cid) as held:
        now = status(store, held)
        if now not in (("running", "created") if on else ("paused",)):
            raise Conflict(f"cannot {'pause' if on else 'resume'} container {cid!r}", f"it is {now}", "")
        cgroups.freeze(held.cgroup, on)
    return 0


def _list(store: Store, args: argparse.Namespace, log: Log) -> int:
    print(listing.show(store, as_json=args.format == "json", quiet=args.quiet), end="")
    return 0


def _ps(store: Store, args: argparse.Namespace, log: Log) -> int:
    print(listing.processes(store, args.id, args.options, as_json=args.format == "json"), end="")
    return 0


def _events(store: Store, args: argparse.Namespace, log: Log) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", args.interval)
    seconds = float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2] or "s"] if found else 0.0
    if not seconds:
        raise InvalidArgument(f"invalid --interval {args.interval!r}", "it must be a time above 0", "Write it like 5s")
    events.events(store, args.id, interval=seconds, once=args.stats)
    return 0


def _update(store: Store, args: argparse.Namespace, log: Log) -> int:
    values = {option: getattr(args, option.replace("-", "_")) for option in (*update.NUMBERS, *update.TEXTS)}
    resources = update.read(args.resources) if args.resources else update.from_options(values)
    schemas = {"l3CacheSchema": args.l3_cache_schema, "memBwSchema": args.mem_bw_schema}
    update.update(store, args.id, resources, {key: value for key, value in schemas.items() if value})
    return 0


def _features(store: Store, args: argparse.Namespace, log: Log) -> int:
    print(json.dumps(features.features(), indent=2))
    return 0


def _spec(store: Store, args: argparse.Namespace, log: Log) -> int:
    path = Path(args.bundle) / "config.json"
    if path.exists():
        raise Conflict(f"{path} exists already", "it is not overwritten", "Remove it first")
    path.write_text(json.dumps(template.template(rootless=args.for_user), indent=2) + "\n")
    return 0
