"""``wharf inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import complain, put, unescape
from core.cli.template import Template, to_json
from core.errors import InvalidArgument, NotFound, WharfError

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    parser.add_argument("-f", "--format", metavar="FORMAT", help="json, or a Go template: '{{.State.Status}}'")
    parser.add_argument("--type", choices=("container", "image", "network"), help="look for this only")
    flag(parser, "-s", "--size", help="of containers: SizeRw (what it has written) and SizeRootFs (with its image)")
    parser.add_argument("names", nargs="+", metavar="NAME", help="names or ids of containers, images, networks")


async def run(engine: Engine, args: Arguments) -> int:
    """What is found is printed, what is not is told; as docker does it."""
    form = args.format
    template = Template(unescape(form)) if form and form != "json" else None
    found: list[dict[str, object]] = []
    code = 0
    for name in args.names:
        try:
            found.append(await engine.inspect(await _id_of(engine, name, args.type)))
        except InvalidArgument:
            raise
        except WharfError as error:
            complain(str(error))
            code = 1
    if args.size:
        await _add_sizes(engine, [view for view in found if "State" in view])
    if template is None:
        put(to_json(found) if form else to_json(found, indent=4))
    else:
        for view in found:
            put(template.render(view))
    return code


async def _add_sizes(engine: Engine, boxes: list[dict[str, object]]) -> None:
    sizes = await engine.container_sizes([str(view["Id"]) for view in boxes])
    for view in boxes:  # what was removed meanwhile has nothing on the disk
        view["SizeRw"], view["SizeRootFs"] = sizes.get(str(view["Id"]), (0, 0))


async def _id_of(engine: Engine, name: str, kind: str | None) -> str:
    """An id that names an object of that kind only."""
    if kind == "container":
        return (await engine.container(name)).id
    if kind == "image":
        return (await engine.image(name)).id
    if kind == "network":
        for network in await engine.networks():
            if name == network.name or (len(name) >= 4 and network.id.startswith(name)):
                return network.id
        raise NotFound(f"no such network: {name}", "", "See `wharf network ls`")
    return name


COMMANDS = {
    "inspect": Command(
        "[OPTIONS] NAME [NAME...]",
        _options,
        run,
        examples=(
            "wharf inspect web",
            "wharf inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web",
            "wharf inspect -f '{{range .Mounts}}{{.Destination}} {{end}}' web",
        ),
    )
}
