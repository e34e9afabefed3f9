"""``wharf demo`` through the real engine: complete, and the same when asked again."""

from __future__ import annotations

import asyncio
import time
import urllib.request

import pytest

from core.demo.run import CLIENT, WEB
from core.engine import Engine
from core.errors import NameTaken
from core.model import ContainerSpec, State
from tests.engine.test_lifecycle import until
from tests.patience import patience

pytestmark = pytest.mark.real


async def demo(engine: Engine) -> list[str]:
    return [line async for line in engine.demo()]


async def port_of(engine: Engine) -> int:
    return (await engine.container(WEB)).ports[0].host_port


async def fetch(port: int) -> str:
    """What the web server says, once it listens: that it was started is all that the demo waits for."""

    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=patience(10)) as answer:
            return str(answer.read(), "utf-8")

    end = time.monotonic() + patience(20)
    while True:
        try:
            return await asyncio.to_thread(get)
        except OSError:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


async def first_line(engine: Engine, ref: str) -> str:
    async with asyncio.timeout(patience(20)):
        async for line in engine.logs(ref, follow=True):
            return line.text
    return ""


async def test_everything_runs(engine: Engine) -> None:
    lines = await demo(engine)
    boxes = await engine.containers()
    assert len(boxes) == 10
    assert {box.state for box in boxes} == {State.RUNNING}
    assert "It works." in await fetch(await port_of(engine))
    assert str(await port_of(engine)) in lines[-1]
    for box in boxes:
        assert await first_line(engine, box.name), box.name


async def test_the_client_reaches_the_web_server_through_the_published_port(engine: Engine) -> None:
    await demo(engine)
    async with asyncio.timeout(patience(20)):
        async for line in engine.logs(CLIENT, follow=True):
            if "200 OK" in line.text:
                break


async def test_again_it_starts_what_stopped_and_makes_what_is_missing(engine: Engine) -> None:
    await demo(engine)
    before = {box.name: box.id for box in await engine.containers()}
    await engine.stop("demo-plain")
    await engine.remove("demo-json", force=True)
    lines = await demo(engine)
    after = {box.name: box for box in await engine.containers()}
    assert {box.state for box in after.values()} == {State.RUNNING}
    assert [name for name in before if after[name].id != before[name]] == ["demo-json"]
    assert "demo-plain started again" in lines
    assert "demo-json created and started" in lines
    assert len(await engine.images()) == 1


async def test_the_web_server_moves_where_its_port_is_taken(engine: Engine) -> None:
    await demo(engine)
    taken = await port_of(engine)
    await engine.stop(WEB)

    async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(nobody, "0.0.0.0", taken):
        await demo(engine)
    port = await port_of(engine)
    assert port != taken
    assert "It works." in await fetch(port)
    assert str(port) in (await engine.container(CLIENT)).spec.command[-1:]  # type: ignore[index]


async def test_a_foreign_container_of_the_same_name_is_left_alone(engine: Engine) -> None:
    await demo(engine)
    await engine.remove("demo-plain", force=True)
    mine = await engine.create(ContainerSpec("wharf/demo:latest", name="demo-plain", command=("true",)))
    with pytest.raises(NameTaken):
        await demo(engine)
    assert (await engine.container(mine.id)).state is State.CREATED


async def test_memory_presses_but_does_not_die_and_stops_when_asked(engine: Engine) -> None:
    await demo(engine)

    async def presses() -> bool:
        (sample,) = await engine.stats(["demo-mem"])
        assert sample.memory_limit == 64 * 1024 * 1024
        return sample.memory > 8 * 1024 * 1024

    await until(presses, 30)
    for name in ("demo-mem", "demo-cpu", "demo-web", "demo-health", "demo-levels"):
        box = await engine.stop(name)
        assert box.exit_code == 0, name  # who does not listen is killed: 137
