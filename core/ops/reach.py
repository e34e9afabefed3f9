"""``reach``: for each published port who can reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.ops import records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.model import PortMapping, Reach
    from core.ops.context import Context
    from core.ops.records import Record


async def reach(ctx: Context, refs: Sequence[str] | None = None) -> list[Reach]:
    """For the named containers, or for all that run: a line for each port as it is bound.

    :raises NotFound: no such container
    """
    from core.net.reach import reach as one
    from core.net.serving import on_localhost6

    chosen = await records.every(ctx) if refs is None else [await records.find(ctx, ref) for ref in refs]
    boxes = [(record, records.snapshot(ctx, record)) for record in chosen]
    if not any(box.ports for _, box in boxes):
        return []
    scene = await ctx.net.scene()
    return [
        one(scene, box.name, port, _target(record, port), proxied=on_localhost6(port, box.ports))
        for record, box in boxes
        for port in box.ports
    ]


def _target(record: Record, port: PortMapping) -> str:
    six = ":" in port.host_ip and port.host_ip != "::1"
    found = [end.ip6 if six else end.ip for end in record.saved.endpoints]
    address = next((text for text in found if text), "the container")
    return f"[{address}]:{port.container_port}" if six else f"{address}:{port.container_port}"
