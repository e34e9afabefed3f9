"""``wharf events``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, closing, many, parse_filters, reading
from core.cli.output import put, unescape, visible
from core.cli.template import Template, to_json
from core.names import has_label
from core.units import parse_when, rfc3339

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import Event

_FILTERS = ("type", "event", "container", "image", "network", "label")


def _options(parser: Parser) -> None:
    parser.add_argument("--since", metavar="TIME", help="past events from this time on: a time stamp, or an age")
    parser.add_argument("--until", metavar="TIME", help="end at this time")
    many(parser, "-f", "--filter", metavar="KEY=VALUE", help=", ".join(_FILTERS))
    parser.add_argument("--format", metavar="FORMAT", help="json, or a Go template: '{{.Action}} {{.Actor.ID}}'")


async def run(engine: Engine, args: Arguments) -> int:
    """One line per event, at once."""
    filters = parse_filters(args.filter, _FILTERS)
    template = Template(unescape(args.format)) if args.format and args.format != "json" else None
    with reading():
        since = parse_when(args.since) if args.since else None
        until = parse_when(args.until) if args.until else None
    events = engine.events(since=since, until=until)
    async with closing(events):
        async for event in events:
            if not matches(event, filters):
                continue
            if template:
                put(template.render(view(event)), flush=True)
            else:
                put(to_json(view(event)) if args.format else line(event), flush=True)
    return 0


def matches(event: Event, filters: dict[str, list[str]]) -> bool:
    """Whether every key lets the event through, by any of its values (labels: by all)."""
    for key, values in filters.items():
        if key == "type":
            fits = event.kind in values
        elif key == "event":
            fits = any(event.action == value or event.action.startswith(f"{value}:") for value in values)
        elif key == "label":
            fits = all(has_label(event.attributes, value) for value in values)
        elif key == "image" and event.kind == "container":
            fits = event.attributes.get("image", "") in values
        else:
            fits = event.kind == key and any(
                event.id.startswith(value) or event.attributes.get("name") == value for value in values
            )
        if not fits:
            return False
    return True


def view(event: Event) -> dict[str, object]:
    """The event as the Docker Engine API has it (EventMessage)."""
    found: dict[str, object] = {
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": dict(event.attributes)},
        "scope": "local",
        "time": int(event.time),
        "timeNano": round(event.time * 1e9),
    }
    if event.kind in ("container", "image"):
        found = {"status": event.action, "id": event.id, "from": event.attributes.get("image", ""), **found}
    found.update(ID=event.id, Time=int(event.time), TimeNano=round(event.time * 1e9), Scope="local")
    return found


def line(event: Event) -> str:
    """``2024-05-01T12:00:00.000000000Z container start ID (image=…, name=…)``."""
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event.attributes.items()))
    text = f"{rfc3339(event.time)} {event.kind} {event.action} {event.id}"
    return visible(f"{text} ({attributes})" if attributes else text)


COMMANDS = {
    "events": Command(
        "[OPTIONS]",
        _options,
        run,
        examples=("wharf events --since 1h --until 0s", "wharf events -f type=container -f event=die --format json"),
    )
}
