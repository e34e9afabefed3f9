"""``wharf inspect``."""

from __future__ import annotations

from core.cli.command import Arguments, Command, Parser
from core.cli.output import complain, put, unescape
from core.cli.template import Template, to_json
from core.engine import Engine
from core.errors import InvalidArgument, NotFound, WharfError


def _options(parser: Parser) -> None:
    parser.add_argument("-f", "--format", metavar="FORMAT", help="json, or a Go template: '{{.State.Status}}'")
    parser.add_argument("--type", choices=("container", "image", "network"), help="look for this only")
    parser.add_argument("names", nargs="+", metavar="NAME", help="names or ids of containers, images, networks")


async def run(engine: Engine, args: Arguments) -> int:
    """What is found is printed, what is not is told; as docker does it."""
    form = args.format
    template = Template(unescape(form)) if form and form != "json" else None
    found: list[dict[str, object]] = []
    code = 0
    for name in args.names:
        try:
            view = await engine.inspect(await _id_of(engine, name, args.type))
            if template is None:
                found.append(view)
            else:
                put(template.render(view))
        except InvalidArgument:
            raise
        except WharfError as error:
            complain(str(error))
            code = error.exit_code
    if template is None:
        put(to_json(found) if form else to_json(found, indent=4))
    return code


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
