"""A process that gives a container a place on a network, publishes ports and takes all of it away, and is gone before
its N-th conversation with the kernel (``main([ROOT, RUN, N])``): then its exit code is 9."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.kernel.netlink import Netlink
from core.model import PortMapping
from core.names import make_id
from core.net import Net
from core.store.db import Store
from core.store.paths import Instance


def main(words: Sequence[str]) -> None:
    inst = Instance(Path(words[0]), Path(words[1]))
    inst.prepare()
    left = int(words[2])

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def talk(self: Netlink, *args: object) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return real(self, *args)

        return talk

    for name in ("talk", "change", "transaction"):
        setattr(Netlink, name, counted(getattr(Netlink, name)))
    asyncio.run(_work(inst))


async def _work(inst: Instance) -> None:
    net = Net(inst, Store.open(inst))
    cid = make_id()
    made = await net.attach("bridge", cid)
    await net.publish(cid, [made.endpoint], [PortMapping(80, 0), PortMapping(53, 0, "udp", "127.0.0.1")])
    await net.detach(cid)
    await net.remove_network("bridge")
    os._exit(0)
