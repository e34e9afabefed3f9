"""``wharf ps``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from core.cli.command import BOOLEAN, Arguments, Command, Parser, flag, form_option, many, parse_filters
from core.cli.output import put, show_rows
from core.cli.views import container_row
from core.errors import InvalidArgument
from core.model import State
from core.model.network import is_on
from core.names import familiar, has_label

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import Container

COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
)
_HEADERS = (("CREATED AT", "CreatedAt"), ("STATE", "State"), ("LOCAL VOLUMES", "LocalVolumes"))
_FILTERS = (
    "name",
    "status",
    "label",
    "id",
    "ancestor",
    "health",
    "exited",
    "network",
    "volume",
    "before",
    "since",
    "is-task",
)

_FIXED = {
    "status": tuple(state.value for state in State),
    "health": ("none", "starting", "healthy", "unhealthy"),
    "is-task": BOOLEAN,
}


def _options(parser: Parser) -> None:
    flag(parser, "-a", "--all", help="stopped containers too")
    flag(parser, "-q", "--quiet", help="only ids")
    flag(parser, "-l", "--latest", help="the one made last, in whatever state")
    parser.add_argument("-n", "--last", type=int, default=-1, metavar="N", help="the N made last, in whatever state")
    flag(parser, "--no-trunc", help="whole ids and commands")
    flag(parser, "-s", "--size", help="with what each has written to the disk, and that with its image")
    many(parser, "-f", "--filter", metavar="KEY=VALUE", help=", ".join(_FILTERS))
    form_option(parser)


async def run(engine: Engine, args: Arguments) -> int:
    """Print a snapshot; takes no locks."""
    filters = parse_filters(args.filter, _FILTERS, _FIXED)
    _check_exited(filters)
    boxes = await engine.containers(all=True)
    last = 1 if args.latest else args.last
    # Docker's rule: asking for a state, an exit code or the newest ones means those that do not run as well.
    if not (args.all or last >= 0 or {"status", "exited"} & filters.keys()):
        boxes = [box for box in boxes if box.state.live or box.state.value == "restarting"]
    chosen = select(boxes, filters)
    if last >= 0:
        chosen = sorted(chosen, key=lambda box: -box.created)[:last]
    if args.quiet:
        for box in chosen:
            put(box.id if args.no_trunc else box.short_id)
        return 0
    sized = args.size or ".Size" in (args.format or "")
    sizes = await engine.container_sizes([box.id for box in chosen]) if sized else {}
    rows = [container_row(box, truncate=not args.no_trunc, size=sizes.get(box.id)) for box in chosen]
    columns = (*COLUMNS, ("SIZE", "Size")) if args.size else COLUMNS
    show_rows(rows, columns, args.format, headers=_HEADERS)
    return 0


def _check_exited(filters: dict[str, list[str]]) -> None:
    for value in filters.get("exited", ()):
        if not value.removeprefix("-").isdecimal():
            raise InvalidArgument(f"invalid filter 'exited={value}'", "it is an exit code", "Write it like exited=0")


def select(boxes: list[Container], filters: dict[str, list[str]]) -> list[Container]:
    """Those that every key of ``filters`` lets through: by any of its values (labels: by all)."""
    kept = boxes
    for key, values in filters.items():
        if key in ("before", "since"):
            pivots = [box.created for box in boxes for value in values if box.name == value or box.id.startswith(value)]
            kept = [box for box in kept if any(box.created < p if key == "before" else box.created > p for p in pivots)]
        elif key == "label":
            kept = [box for box in kept if all(has_label(box.spec.labels, value) for value in values)]
        else:
            test = _TESTS[key]
            kept = [box for box in kept if any(test(box, value) for value in values)]
    return kept


def _ancestor(box: Container, value: str) -> bool:
    names = {box.spec.image, familiar(box.spec.image), familiar(box.spec.image).partition(":")[0]}
    digest = value.removeprefix("sha256:")
    return value in names or (len(digest) >= 4 and box.image_id.removeprefix("sha256:").startswith(digest))


def _name(box: Container, value: str) -> bool:
    import re

    try:
        return re.search(value, box.name) is not None or re.search(value, f"/{box.name}") is not None
    except re.error:
        return value in box.name


_TESTS: dict[str, Callable[[Container, str], bool]] = {
    "name": _name,
    "id": lambda box, value: box.id.startswith(value),
    "status": lambda box, value: box.state.value == value,
    "health": lambda box, value: (box.health or "none") == value,
    "exited": lambda box, value: not box.state.live and box.started > 0 and str(box.exit_code) == value,
    "ancestor": _ancestor,
    "network": lambda box, value: (
        value in (box.spec.network, *(end.network for end in box.spec.networks))
        or any(value in (end.network, end.network_id) for end in box.endpoints)
    ),
    "is-task": lambda box, value: not is_on(value),  # tasks are Swarm's
    "volume": lambda box, value: any(value in (mount.source, mount.target) for mount in box.spec.mounts),
}

COMMANDS = {
    "ps": Command(
        "[OPTIONS]",
        _options,
        run,
        examples=(
            "wharf ps -a",
            "wharf ps -q --filter status=exited --filter label=app=web",
            "wharf ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Ports}}'",
        ),
    )
}
