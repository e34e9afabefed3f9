"""The one-shot clean-up: a monitor starts it when its container has ended and no engine listens; the launcher when
somebody has flushed the firewall.

Runs as ``python -I -S``: standard library only, no screen, no HTTP. Arguments: data root, run root, and a container's
id or ``firewall``.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from core.ops.open import open_context
from core.ops.settle import settle_exited
from core.supervise.keeper import FIREWALL


async def _settle(root: str, run: str, cid: str) -> None:
    ctx = await open_context(Path(root), Path(run))
    try:
        if cid == FIREWALL:
            await ctx.net.restore()
        else:
            await settle_exited(ctx, cid)
    finally:
        await ctx.close()


def main() -> None:
    """Entry point; `ops/bundle.py` makes the command line that leads here."""
    asyncio.run(_settle(*sys.argv[1:4]))
