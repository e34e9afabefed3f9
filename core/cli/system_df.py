"""``wharf system df``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import Row, put, render_rows
from core.cli.views import container_row, image_rows
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import DiskUsage

_COLUMNS = (
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
)
_IMAGES = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
)
_CONTAINERS = (
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("SIZE", "Size"),
    ("LOGS", "Logs"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("NAMES", "Names"),
)
_VOLUMES = (("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size"))
_OTHER = (("WHAT", "What"), ("SIZE", "Size"))


def _options(parser: Parser) -> None:
    flag(parser, "-v", "--verbose", help="each image, container and volume")
    parser.add_argument("--format", metavar="FORMAT", help="table, json, 'table TEMPLATE' or a Go template")


async def run(engine: Engine, args: Arguments) -> int:
    """What ``du`` says of the data root, in parts."""
    usage = await engine.disk_usage()
    if args.verbose:
        for line in _verbose(usage):
            put(line)
        return 0
    for line in render_rows(summary(usage), _COLUMNS, args.format):
        put(line)
    return 0


def summary(usage: DiskUsage) -> list[Row]:
    """Docker's four lines, and the rest of the disk."""
    used = {use.image.id for use in usage.images if use.containers}
    boxes = sum(box.size for box in usage.containers)
    stopped = sum(box.size for box in usage.containers if not box.container.state.live)
    volumes = sum(volume.size for volume in usage.volumes)
    loose = sum(volume.size for volume in usage.volumes if not volume.containers)
    other = sum(size for _, size in usage.other)
    live = sum(box.container.state.live for box in usage.containers)
    return [
        _line("Images", len(usage.images), len(used), usage.images_size, usage.images_reclaimable),
        _line("Containers", len(usage.containers), live, boxes, stopped),
        _line("Local Volumes", len(usage.volumes), sum(bool(v.containers) for v in usage.volumes), volumes, loose),
        _line("Build Cache", 0, 0, usage.build_cache, 0),
        _line("Logs", sum(box.logs > 0 for box in usage.containers), live, usage.logs, 0),
        _line("Other", sum(size > 0 for _, size in usage.other), 0, other, 0),
        {"Type": "Sum", "TotalCount": "", "Active": "", "Size": human_size(usage.total), "Reclaimable": ""},
    ]


def _line(kind: str, count: int, active: int, size: int, free: int) -> Row:
    share = f" ({100 * free // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(count),
        "Active": str(active),
        "Size": human_size(size),
        "Reclaimable": f"{human_size(free)}{share}",
    }


def _verbose(usage: DiskUsage) -> list[str]:
    images = [
        {
            **row,
            "Size": human_size(use.size),
            "SharedSize": human_size(use.shared),
            "UniqueSize": human_size(use.unique),
            "Containers": str(len(use.containers)),
        }
        for use in usage.images
        for row in image_rows(use.image)
    ]
    boxes = [
        {**container_row(use.container), "Size": human_size(use.size), "Logs": human_size(use.logs)}
        for use in usage.containers
    ]
    volumes = [
        {"Name": use.name, "Links": str(len(use.containers)), "Size": human_size(use.size)} for use in usage.volumes
    ]
    other = [{"What": what, "Size": human_size(size)} for what, size in usage.other]
    return [
        *_section("Images space usage:", images, _IMAGES),
        *_section("Containers space usage:", boxes, _CONTAINERS),
        *_section("Local Volumes space usage:", volumes, _VOLUMES),
        f"Build cache usage: {human_size(usage.build_cache)}",
        "",
        *_section("Other space usage:", other, _OTHER),
        f"Sum: {human_size(usage.total)}",
    ]


def _section(title: str, rows: Sequence[Row], columns: Sequence[tuple[str, str]]) -> list[str]:
    return [title, "", *render_rows(rows, columns, None), ""]


COMMANDS = {
    "system df": Command(
        "[OPTIONS]",
        _options,
        run,
        about="Allocated blocks, of a file with several names once: the sum is what `du` says of the data root.",
        examples=("wharf system df", "wharf system df -v"),
    )
}
