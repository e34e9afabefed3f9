"""The command line itself: runc's global flags, its verbs, its exit codes; a log in its two formats."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from core import __version__
from core.errors import InvalidArgument, Unsupported, WharfError
from core.kernel import process
from core.oci import verbs
from core.oci.store import Store
from core.store.paths import runtime_folder

_PROGRAM = "wharf runtime"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(message, "", f"See {self.prog} --help")


def enter(argv: Sequence[str]) -> NoReturn:
    """:func:`main`, for verbs that go into a container: nobody there may trace us or open what we hold
    (CVE-2016-9962)."""
    process.set_dumpable(False)
    process.set_name("wharf-runtime")  # executed by a descriptor, it would be called by its number
    sys.exit(main(argv))


def main(argv: Sequence[str]) -> int:
    """:param argv: without the program's name

    :returns: the exit code: the command's for ``run`` and ``exec``, 1 for an error of ours
    """
    log = Log("", "text", debug=False)
    try:
        args = _parser().parse_args(argv)
        log = Log(args.log, args.log_format, debug=args.debug)
        _refuse(args)
        return int(args.work(Store(Path(args.root)), args, log))
    except WharfError as error:
        log.error(str(error))
        return 1
    except BrokenPipeError:
        return 1  # whoever read what we print has seen enough
    except OSError as error:
        log.error(f"{error.filename or ''}: {error.strerror}".lstrip(": "))
        return 1
    except KeyboardInterrupt:
        return 130


def default_root() -> str:
    """Where containers are remembered: a folder that a reboot empties."""
    if os.geteuid() == 0:
        return "/run/wharf-runtime"
    return str(runtime_folder(os.geteuid()) / "wharf-runtime")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_PROGRAM, description="Run containers from OCI bundles, as runc does.")
    parser.add_argument("--root", default=default_root(), metavar="DIR", help="where containers are remembered")
    parser.add_argument("--log", default="", metavar="FILE", help="write errors there as well")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="of that file")
    parser.add_argument("--debug", action="store_true", help="log what is done, too")
    parser.add_argument("--systemd-cgroup", action="store_true", help="refused: cgroups are made without systemd")
    parser.add_argument("--rootless", choices=("true", "false", "auto"), default="auto", help="accepted: found out")
    parser.add_argument("--criu", default="", metavar="PROGRAM", help="the criu to use for checkpoints")
    parser.add_argument("-v", "--version", action="version", version=f"{_PROGRAM} version {__version__}\nspec: 1.2.0")
    verbs.add(parser.add_subparsers(dest="verb", required=True, metavar="COMMAND", parser_class=_Parser))
    return parser


def _refuse(args: argparse.Namespace) -> None:
    if args.systemd_cgroup:
        raise Unsupported(
            "cannot use --systemd-cgroup",
            "this runtime makes cgroups itself",
            "Have the engine use the cgroupfs driver (podman --cgroup-manager=cgroupfs)",
        )


class Log:
    """Where an engine that calls us looks for what went wrong."""

    def __init__(self, path: str, form: str, *, debug: bool) -> None:
        self._path = path
        self._form = form
        self._debug = debug

    def error(self, message: str) -> None:
        print(f"{_PROGRAM}: {message}", file=sys.stderr, flush=True)
        self._write("error", message)

    def warning(self, words: object) -> None:
        print(f"{_PROGRAM}: warning: {words}", file=sys.stderr, flush=True)
        self._write("warning", str(words))

    def debug(self, message: str) -> None:
        if self._debug:
            self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        if not self._path:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._form == "json":
            line = json.dumps({"level": level, "msg": message, "time": now})
        else:
            line = f'time="{now}" level={level} msg={json.dumps(message)}'
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            print(f"{_PROGRAM}: cannot write {self._path}: {error.strerror}", file=sys.stderr)
