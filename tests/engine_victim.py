"""An engine that changes networks (``main([ROOT, RUN, CONTAINER, VERB, N])``) and is gone before its N-th request to
the kernel or transaction: then its exit code is 77."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.kernel.netlink import Netlink
from core.local import LocalEngine
from core.model import EndpointSpec, NetworkSpec
from core.store.db import Database


class _Count:
    def __init__(self, left: int) -> None:
        self.left = left

    def down(self, kind: type, name: str) -> None:
        """Each call of the method counts from now on."""
        real = getattr(kind, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os._exit(77)
            return real(*args, **kwargs)

        setattr(kind, name, call)


def main(words: Sequence[str]) -> None:
    root, run, cid, verb, left = words
    asyncio.run(_work(Path(root), Path(run), cid, verb, _Count(int(left))))


async def _work(root: Path, run: Path, cid: str, verb: str, count: _Count) -> None:
    engine = await LocalEngine.open(root, run)
    for name in ("talk", "change", "transaction"):
        count.down(Netlink, name)
    count.down(Database, "write")
    if verb == "connect":
        await engine.connect(cid, EndpointSpec("front"))
    elif verb == "disconnect":
        await engine.disconnect("front", cid)
    elif verb == "create":
        await engine.create_network(NetworkSpec("more"))
    else:
        await engine.remove_network("more")
    await engine.close()
