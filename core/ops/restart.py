"""``restart``: stop, then start."""

from __future__ import annotations

from core.model import Container
from core.ops.context import Context
from core.ops.start import start
from core.ops.stop import stop


async def restart(ctx: Context, ref: str, timeout: float | None = None) -> Container:
    """Stop a container as :func:`stop` does and start it again; one that does not run is started."""
    cid = await stop(ctx, ref, timeout)
    box = await start(ctx, cid)
    ctx.tell("container", "restart", cid, name=box.name, image=box.spec.image)
    return box
