"""``wharf run`` and ``wharf create``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.attach import stay
from core.cli.command import Arguments, Command, Parser, flag, many, reading
from core.cli.network_reach import warn as warn_of_reach
from core.cli.output import complain, put
from core.cli.progress import Progress, pull_image
from core.cli.spec_options import add_spec_options, build_spec
from core.cli.terminal import DETACH, check_input, parse_keys
from core.cli.views import familiar
from core.errors import InvalidArgument, NotFound, WharfError
from core.names import architecture

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import Container, ContainerSpec

_REMOVAL = 30.0  # seconds that --rm is waited for


def _run_options(parser: Parser) -> None:
    flag(parser, "-d", "--detach", help="run in the background and print the id")
    many(parser, "-a", "--attach", metavar="STREAM", help="show only stdin, stdout or stderr")
    flag(parser, "--sig-proxy", default=True, help="--sig-proxy=false: do not give signals on to the container")
    parser.add_argument("--detach-keys", default=DETACH, metavar="KEYS", help=f"leave without ending it ({DETACH})")
    add_spec_options(parser)


_ALSO_RUNS = {"amd64": "386", "arm64": "arm"}


async def create_container(engine: Engine, args: Arguments, spec: ContainerSpec) -> Container:
    """Create, with the image pulled as ``--pull`` says.

    :raises WharfError: as :meth:`Engine.create` and :meth:`Engine.pull`
    """
    if args.kernel_memory:
        complain("--kernel-memory is ignored: kernels no longer have that limit; --memory counts kernel memory too")
    if args.cidfile and Path(args.cidfile).exists():
        raise InvalidArgument(f"cannot write {args.cidfile}", "it exists already", "Remove it, or name another file")
    if spec.network == "host" and (spec.ports or spec.publish_all):
        complain("WARNING: published ports are discarded with --network host: the container has this machine's own")
        spec = replace(spec, ports=(), publish_all=False)
    if args.pull == "always":
        await _pull(engine, args)
    try:
        box = await engine.create(spec)
    except NotFound:
        if args.pull != "missing" or await _has_image(engine, args.image, args.platform):
            raise
        if not args.quiet:
            print(f"Unable to find image '{args.image}' locally", file=sys.stderr)
        await _pull(engine, args)
        box = await engine.create(spec)
    if not args.platform:
        await _warn_of_platform(engine, box)
    if not args.network and box.spec.network == "none" and sys.stderr is not None and sys.stderr.isatty():
        complain("without root a container has no network unless it is given this machine's: --network host")
    if args.cidfile:
        Path(args.cidfile).write_text(box.id, encoding="ascii")
    return box


async def _warn_of_platform(engine: Engine, box: Container) -> None:
    """As docker does: what fails with "exec format error" later would puzzle."""
    image, machine = await engine.image(box.image_id), architecture(os.uname().machine)
    if image.architecture in (machine, _ALSO_RUNS.get(machine)):
        return
    there = "/".join(part for part in (image.os, image.architecture, image.variant) if part)
    complain(f"WARNING: {box.spec.image} is for {there}, and this machine is linux/{machine}; no --platform was given")


def read_options(words: Sequence[str]) -> ContainerSpec:
    """What ``words`` say about a container, but for its image: for a form with a line of further options.

    :raises InvalidArgument: an unknown option, a word that is none, or an option about the command line itself
    """
    if "--help" in words:
        raise InvalidArgument("no help here", "the line takes options", "`wharf create --help` lists them")
    image = "IMAGE"
    args = Parser("create", COMMANDS["create"], "").read([*words, image])
    if args.image != image or args.command:
        raise InvalidArgument(f"{args.image!r} is not an option", "the line takes options and their values", "Quote it")
    for name, plain in (("cidfile", None), ("pull", "missing"), ("quiet", False), ("insecure", False)):
        if getattr(args, name) != plain:
            raise InvalidArgument(f"--{name} has no effect here", "the image is pulled by its own form", "Drop it")
    return replace(build_spec(args), image="")


async def _has_image(engine: Engine, reference: str, platform: str) -> bool:
    """With ``platform``: never, as the engine knows better whether it is that one, and has just said no."""
    try:
        await engine.image(reference)
    except NotFound:
        return False
    return not platform


async def _pull(engine: Engine, args: Arguments) -> None:
    shown = Progress(sys.stderr, quiet=args.quiet, head=True)
    last = await pull_image(engine, args.image, shown, insecure=args.insecure, platform=args.platform)
    if not args.quiet:
        if last.digest:
            print(f"Digest: {last.digest}", file=sys.stderr)
        said = "Downloaded newer image for" if last.changed else "Image is up to date for"
        print(f"Status: {said} {familiar(last.reference)}", file=sys.stderr)


async def create(engine: Engine, args: Arguments) -> int:
    """``wharf create``: print the id."""
    with reading():
        spec = build_spec(args)
    put((await create_container(engine, args, spec)).id)
    return 0


async def run(engine: Engine, args: Arguments) -> int:
    """``wharf run``: the exit code is the command's."""
    streams = _streams(args)
    keys = parse_keys(args.detach_keys)
    check_input(stdin=args.interactive and not args.detach, terminal=args.tty)
    began = time.time()
    box = await create_container(engine, args, build_spec(args))
    try:
        if args.detach:
            await engine.start(box.id)
            put(box.id)
            await warn_of_reach(engine, box)
            return 0
        session = await engine.start_attached(box.id, stdin="stdin" in streams)
    except BaseException:
        # What never ran leaves nothing behind: the next try would otherwise find its name taken.
        with contextlib.suppress(WharfError):
            await engine.remove(box.id, force=True)
        raise
    stdin = "stdin" in streams
    code = await stay(engine, box, session, stdin=stdin, proxy=args.sig_proxy, keys=keys, streams=streams)
    if args.rm and not await _runs(engine, box):
        await _removed(engine, box, began)
    return code


async def _runs(engine: Engine, box: Container) -> bool:
    """Whether it goes on without us: the user has detached."""
    try:
        return (await engine.container(box.id)).state.live
    except NotFound:
        return False


def _streams(args: Arguments) -> tuple[str, ...]:
    """Which of our streams are connected. :raises InvalidArgument: unknown ones, or -a with -d"""
    if args.detach and args.attach:
        raise InvalidArgument("-a and -d contradict each other", "one connects, the other leaves", "Give one of them")
    unknown = [name for name in args.attach if name.lower() not in ("stdin", "stdout", "stderr")]
    if unknown:
        raise InvalidArgument(f"invalid -a {unknown[0]!r}", "streams are stdin, stdout and stderr")
    chosen = tuple(name.lower() for name in args.attach)
    return chosen or ("stdout", "stderr", *(("stdin",) if args.interactive else ()))


async def _removed(engine: Engine, box: Container, began: float) -> None:
    """Wait until --rm has done its work, so that the name is free for the next command."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_REMOVAL):
            async for event in engine.events(since=began):
                if event.id == box.id and event.action == "destroy":
                    return
    complain(f"{box.name} is not removed yet: its clean-up takes long. See `wharf ps -a`, remove it by `wharf rm`")


COMMANDS = {
    "run": Command(
        "[OPTIONS] IMAGE [COMMAND [ARG...]]",
        _run_options,
        run,
        about="Pulls the image where it is missing. The exit code is the command's; 125: the engine failed,\n"
        "126: the command cannot be run, 127: there is no such command in the image.",
        examples=(
            "wharf run --rm debian:12 cat /etc/os-release",
            "wharf run --rm -it debian:12 bash",
            "wharf run -d --name web -p 8080:80 --memory 64m --cpus 0.5 nginx",
            "wharf run -d -v data:/var/lib/db -e PASSWORD --restart unless-stopped postgres",
        ),
    ),
    "create": Command(
        "[OPTIONS] IMAGE [COMMAND [ARG...]]",
        add_spec_options,
        create,
        examples=("wharf create --name job debian:12 sleep 60", "wharf start job"),
    ),
}
