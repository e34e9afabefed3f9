"""The one-shot clean-up that a monitor starts when its container has ended and no engine listens.

Runs as ``python -I -S``: standard library only, no screen, no HTTP. Arguments: data root, run root, container id.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from core.ops.open import open_context
from core.ops.settle import settle_exited


async def _settle(root: str, run: str, cid: str) -> None:
    ctx = await open_context(Path(root), Path(run))
    try:
        await settle_exited(ctx, cid)
    finally:
        await ctx.close()


def main() -> None:
    """Entry point; see :func:`argv`."""
    asyncio.run(_settle(*sys.argv[1:4]))


def argv(root: Path, run: Path) -> list[str]:
    """The command line that runs :func:`main`; the container's id is to be appended."""
    home = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {home!r}); from core.ops.cleanup import main; main()"
    return [sys.executable, "-I", "-S", "-c", code, str(root), str(run)]
