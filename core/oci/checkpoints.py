"""The flags of ``checkpoint`` and ``restore``, as runc has them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InvalidArgument, Unsupported
from core.oci.checkpoint import Place, checkpoint, refuse
from core.oci.create import Options
from core.oci.restore import restore
from core.oci.store import Store
from core.supervise import criu

if TYPE_CHECKING:
    from core.oci.main import Log

    Verbs = argparse._SubParsersAction[Any]
    Declare = Callable[[Verbs, str, str, Callable[[Store, argparse.Namespace, Log], int]], argparse.ArgumentParser]


def add(verbs: Verbs, verb: Declare) -> None:
    """Declare both."""
    parser = verb(verbs, "checkpoint", "save a container's processes (needs criu)", _checkpoint)
    parser.add_argument("--leave-running", action="store_true", help="let it go on")
    parser.add_argument("--pre-dump", action="store_true", help="refused, as --parent-path and --page-server")
    parser.add_argument("--parent-path", default="", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--page-server", default="", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--status-fd", type=int, default=-1, metavar="FD", help=argparse.SUPPRESS)
    _shared(parser)
    parser = verb(verbs, "restore", "make a container of a bundle and a checkpoint, and run it", _restore)
    parser.add_argument("-b", "--bundle", default=".", metavar="DIR", help="the folder with config.json")
    parser.add_argument("--console-socket", default="", metavar="PATH", help="unix socket that gets the terminal")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="write the first process's pid there")
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait for its end")
    parser.add_argument("--no-subreaper", action="store_true", help="accepted: its orphans are never ours")
    parser.add_argument("--no-pivot", action="store_true", help="refused: a root that is not pivoted can be left")
    parser.add_argument("--lsm-profile", default="", metavar="LABEL", help="refused: it keeps the one that it had")
    parser.add_argument("--lsm-mount-context", default="", metavar="LABEL", help=argparse.SUPPRESS)
    _shared(parser)


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-path", default="checkpoint", metavar="DIR", help="folder of the images (checkpoint)")
    parser.add_argument("--work-path", default="", metavar="DIR", help="folder of criu's log (that of the images)")
    parser.add_argument("--tcp-established", action="store_true", help="with established TCP connections")
    parser.add_argument("--tcp-skip-in-flight", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--link-remap", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ext-unix-sk", action="store_true", help="with unix sockets that lead outside")
    parser.add_argument("--shell-job", action="store_true", help="with a terminal that is the caller's")
    parser.add_argument("--lazy-pages", action="store_true", help="refused")
    parser.add_argument("--file-locks", action="store_true", help="with file locks")
    parser.add_argument("--manage-cgroups-mode", default="soft", metavar="MODE", help="soft alone: it gets new cgroups")
    parser.add_argument("--empty-ns", action="append", default=[], metavar="KIND", help="network: keep nothing of it")
    parser.add_argument("--auto-dedup", action="store_true", help="accepted: there is nothing twice")
    parser.add_argument("id", metavar="ID")


def _place(args: argparse.Namespace) -> Place:
    refuse(
        {
            "--lazy-pages": args.lazy_pages,
            "--tcp-skip-in-flight": args.tcp_skip_in_flight,
            "--link-remap": args.link_remap,
        }
    )
    if args.manage_cgroups_mode not in ("", "soft"):
        raise Unsupported(
            f"cannot use --manage-cgroups-mode {args.manage_cgroups_mode}",
            "a restored container gets new cgroups, with the limits of its config.json",
            "Leave it out",
        )
    if strange := set(args.empty_ns) - {"network"}:
        raise InvalidArgument(f"invalid --empty-ns {strange.pop()!r}", "only network can be left out", "")
    options = criu.Options(
        args.tcp_established, args.file_locks, args.ext_unix_sk, args.shell_job, empty_net=bool(args.empty_ns)
    )
    images = Path(args.image_path).absolute()
    return Place(images, Path(args.work_path).absolute() if args.work_path else images, args.criu, options)


def _checkpoint(store: Store, args: argparse.Namespace, log: Log) -> int:
    refuse({"--pre-dump": args.pre_dump, "--parent-path": args.parent_path, "--page-server": args.page_server})
    refuse({"--status-fd": args.status_fd >= 0})
    checkpoint(store, args.id, _place(args), leave_running=args.leave_running)
    return 0


def _restore(store: Store, args: argparse.Namespace, log: Log) -> int:
    refuse({"--lsm-profile": args.lsm_profile, "--lsm-mount-context": args.lsm_mount_context})
    if args.no_pivot:
        raise Unsupported("cannot use --no-pivot", "a root that is not pivoted can be left again", "Leave it out")
    options = Options(Path(args.bundle).resolve(), args.pid_file, args.console_socket)
    return restore(store, args.id, options, _place(args), detach=args.detach, warn=log.warning)
