"""Make the demo's image where it is missing, create the containers that are missing, start those that do not run."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from core.demo import image
from core.engine import Engine
from core.errors import Conflict, NotFound, PortTaken, WharfError
from core.model import Container, ContainerSpec, Healthcheck, PortMapping, Resources, RestartPolicy, State

MIB = 1024 * 1024
FIRST_PORT, PORTS = 8080, 50
LABEL = "io.wharfinger.demo"
WEB, CLIENT = "demo-web", "demo-client"
PYTHON = ("python3", "-I", "-S")  # without site-packages: starts in a third of the time
SMALL = Resources(pids_limit=64)
NEVER = RestartPolicy()


def _spec(
    name: str,
    *command: str,
    resources: Resources = SMALL,
    ports: tuple[PortMapping, ...] = (),
    healthcheck: Healthcheck | None = None,
    restart: RestartPolicy = NEVER,
) -> ContainerSpec:
    return ContainerSpec(
        image=image.REFERENCE,
        name=name,
        command=command,
        hostname=name,
        labels={LABEL: "1"},
        resources=resources,
        ports=ports,
        healthcheck=healthcheck,
        restart=restart,
    )


def specs(port: int) -> list[ContainerSpec]:
    """All containers of the demo, the web server (published on host port ``port``) first."""
    ready = Healthcheck(("CMD-SHELL", "test -e /tmp/ready"), interval=3.0, timeout=2.0, retries=2)
    answers = Healthcheck((*("CMD", *PYTHON, "/demo/probe.py"), "80"), interval=10.0, timeout=3.0, retries=3)
    half = Resources(nano_cpus=500_000_000, memory=64 * MIB, pids_limit=64)
    quarter = Resources(nano_cpus=250_000_000, memory=64 * MIB, pids_limit=64)
    tight = Resources(memory=64 * MIB, pids_limit=64)
    return [
        _spec(WEB, *PYTHON, "/demo/web.py", "80", ports=(PortMapping(80, port),), healthcheck=answers, resources=half),
        _spec(CLIENT, *PYTHON, "/demo/client.py", str(port)),
        _spec("demo-plain", "sh", "/demo/plain.sh"),
        _spec("demo-ansi", "sh", "/demo/ansi.sh"),
        _spec("demo-json", *PYTHON, "/demo/structured.py"),
        _spec("demo-levels", "sh", "/demo/levels.sh"),
        _spec("demo-cpu", *PYTHON, "/demo/cpu.py", resources=quarter),
        _spec("demo-mem", *PYTHON, "/demo/memory.py", resources=tight),
        _spec("demo-health", "sh", "/demo/health.sh", healthcheck=ready),
        _spec("demo-flaky", "sh", "/demo/flaky.sh", restart=RestartPolicy("always")),
    ]


async def run_demo(engine: Engine) -> AsyncIterator[str]:
    """Bring the demo up; yields one line per thing done. Takes under five seconds, under one where all is there.

    :raises NameTaken: a container that is not the demo's has one of its names
    :raises PortTaken: all of the ports that are tried are in use
    :raises WharfError: whatever the engine says of the image or a container
    """
    async for line in _bring_image(engine):
        yield line
    limits = (await engine.info()).cgroup_version != "none"
    published = any(network.driver == "bridge" for network in await engine.networks())
    # Somebody else's container of the same name is not ours to start: creating ours says that the name is taken.
    there = {box.name: box for box in await engine.containers() if LABEL in box.spec.labels}
    if published:
        port, line = await _bring_web(engine, there.get(WEB))
    else:
        port, line = 80, await _bring(engine, _fitted(specs(80)[0], limits, published), there.get(WEB))
    yield line
    rest = [_fitted(spec, limits, published) for spec in specs(port)[1:]]
    tasks = [_bring(engine, spec, there.get(spec.name)) for spec in rest]
    # All at once: each start waits for the kernel most of its time.
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, str):
            yield result
    for result in results:
        if isinstance(result, BaseException):
            raise result
    if published:
        yield f"The web server answers on http://127.0.0.1:{port}/"
    else:
        yield f"The web server answers {CLIENT} alone, on a network of their own: without root no port is published"


def _fitted(spec: ContainerSpec, limits: bool, published: bool) -> ContainerSpec:
    """What an ordinary user's engine can do of it: without limits where no cgroup is delegated; without published
    ports, so that the client is put beside the web server."""
    if not limits:
        spec = replace(spec, resources=Resources())
    if not published:
        spec = replace(spec, ports=(), network=f"container:{WEB}" if spec.name == CLIENT else "")
    return spec


async def _bring_image(engine: Engine) -> AsyncIterator[str]:
    recipe = await asyncio.to_thread(image.collect)
    try:
        if (await engine.image(image.REFERENCE)).config.labels.get(image.KEY_LABEL) == recipe.key:
            yield f"Image {image.REFERENCE} is there"
            return
    except NotFound:
        pass
    with tempfile.TemporaryDirectory(prefix="wharf-demo-") as folder:
        await asyncio.to_thread(image.write_layout, recipe, Path(folder))
        async for _ in engine.load(Path(folder)):
            pass
    yield f"Image {image.REFERENCE} made from this host's own programs"


async def _bring_web(engine: Engine, box: Container | None) -> tuple[int, str]:
    """The web server, on the first free port from 8080 on."""
    if box and box.spec.ports:
        port = box.spec.ports[0].host_port
        try:
            return port, await _bring(engine, specs(port)[0], box)
        except PortTaken:
            await engine.remove(box.id)
    taken: PortTaken | None = None
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        made = await engine.create(specs(port)[0])
        try:
            await engine.start(made.id)
        except WharfError as error:
            await engine.remove(made.id, force=True)
            if not isinstance(error, PortTaken):
                raise
            taken = error
        else:
            return port, f"{WEB} started on port {port}"
    raise taken or Conflict("no port was tried")


async def _bring(engine: Engine, spec: ContainerSpec, box: Container | None) -> str:
    """One container: left alone where it runs, started where it stopped, made anew where its command is another."""
    if box and box.spec.command != spec.command:
        await engine.remove(box.id, force=True)
        box = None
    if box is None:
        box = await engine.create(spec)
        await engine.start(box.id)
        return f"{spec.name} created and started"
    if box.state is State.PAUSED:
        return f"{spec.name} is paused"
    if box.state.live or box.state is State.RESTARTING:
        return f"{spec.name} runs"
    await engine.start(box.id)
    return f"{spec.name} started again"
