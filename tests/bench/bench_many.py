"""A hundred containers at once, and what their supervisors weigh."""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.engine import open_engine
from core.model import ContainerSpec
from tests.bench.measure import Row
from tests.bench.place import BUSYBOX, Docker, Place, processes

COUNT, FEW = 100, 20


def pss(pids: list[int]) -> float:
    """Proportional set size of processes, their average, in KiB (proc(5), smaps_rollup)."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(found[1]) for text in texts if (found := re.search(r"^Pss: +(\d+) kB", text, re.M))) / len(pids)


async def _wharf(place: Place, network: str, count: int) -> tuple[float, float]:
    """Seconds until all run, and the PSS of a monitor then."""
    engine = await open_engine(place.wharf.root, place.wharf.run)
    try:

        async def one() -> str:
            box = await engine.create(ContainerSpec(BUSYBOX, command=("sleep", "1000"), network=network))
            return (await engine.start(box.id)).id

        begun = time.perf_counter()
        ids = await asyncio.gather(*(one() for _ in range(count)))
        took = time.perf_counter() - begun
        await asyncio.sleep(1)
        size = pss(processes("wharf-monitor"))
        await asyncio.gather(*(engine.remove(cid, force=True) for cid in ids))
        return took, size
    finally:
        await engine.close()


def _docker(place: Place, network: str, count: int) -> tuple[float, float]:
    """The same, by eight clients at once."""
    clients = [Docker(place.folder, place.disk) for _ in range(8)]

    def some(number: int) -> list[str]:
        client, ids = clients[number], []
        for _ in range(number, count, len(clients)):
            ids.append(client.create(BUSYBOX, "sleep", "1000", network=network))
            client.start(ids[-1])
        return ids

    with ThreadPoolExecutor(len(clients)) as pool:
        begun = time.perf_counter()
        made = [cid for ids in pool.map(some, range(len(clients))) for cid in ids]
        took = time.perf_counter() - begun
        time.sleep(1)
        shims = [pid for pid in place.docker.pids() if "containerd-shim" in Path(f"/proc/{pid}/cmdline").read_text()]
        size = pss(shims)
        list(pool.map(lambda number: [clients[number].remove(cid) for cid in made[number::8]], range(8)))
    return took, size


def run(place: Place) -> list[Row]:
    rows = []
    for network, theirs in (("none", "none"), ("bridge", "default")):
        ours, size = asyncio.run(_wharf(place, network, COUNT))
        docker, shim = _docker(place, theirs, COUNT)
        name = f"{COUNT} containers up, network {network}"
        rows.append(Row(name, "s", ours, docker, note="API to API, all at once; docker: by 8 clients"))
    _, few = asyncio.run(_wharf(place, "none", FEW))
    note = f"monitor; docker: containerd's shim; {FEW} running: {few / 1024:.2f} MB"
    rows.append(Row(f"supervisor of one container, {COUNT} running", "MB PSS", size / 1024, shim / 1024, note=note))
    return rows
