"""``wharf info`` and ``wharf version``."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from core import __version__
from core.cli.command import Arguments, Command, Parser
from core.cli.output import put, unescape, visible
from core.cli.template import Template, to_json
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import HostInfo


def _options(parser: Parser) -> None:
    parser.add_argument("-f", "--format", metavar="FORMAT", help="json, or a Go template: '{{.Containers}}'")


def _print(view: dict[str, object], text: list[str], form: str | None) -> int:
    if form == "json":
        put(to_json(view))
    elif form:
        put(Template(unescape(form)).render(view))
    else:
        put("\n".join(visible(line) for line in text))
    return 0


async def info(engine: Engine, args: Arguments) -> int:
    """The host and what the engine holds, with docker's names for the fields."""
    host = await engine.info()
    view: dict[str, object] = {
        "Name": host.hostname,
        "ServerVersion": host.engine_version,
        "KernelVersion": host.kernel,
        "OperatingSystem": host.os,
        "OSType": "linux",
        "Architecture": platform.machine(),
        "NCPU": host.cpus,
        "MemTotal": host.memory,
        "CgroupVersion": "2" if host.cgroup_version == "v2" else "1",
        "CgroupLayout": host.cgroup_version,
        "Driver": "overlay",
        "LoggingDriver": "cri",
        "DockerRootDir": host.data_root,
        "RunRoot": host.run_root,
        "DefaultRuntime": host.runtime,
        "Runtimes": {name: {"path": path} for name, path in host.runtimes.items()},
        "Containers": host.containers,
        "ContainersRunning": host.running,
        "ContainersPaused": host.paused,
        "ContainersStopped": host.stopped,
        "Images": host.images,
        "Checkpoints": host.checkpoints,
        "Warnings": list(host.warnings),
    }
    return _print(view, _info_text(host), args.format)


def _info_text(host: HostInfo) -> list[str]:
    pairs = [
        ("Containers", f"{host.containers}"),
        ("  Running", f"{host.running}"),
        ("  Paused", f"{host.paused}"),
        ("  Stopped", f"{host.stopped}"),
        ("Images", f"{host.images}"),
        ("Version", host.engine_version),
        ("Data root", host.data_root),
        ("Run root", host.run_root),
        ("Host", host.hostname),
        ("Operating system", host.os),
        ("Kernel", f"{host.kernel} ({platform.machine()})"),
        ("Cgroups", host.cgroup_version),
        ("Runtimes", " ".join(host.runtimes)),
        ("Default runtime", host.runtime),
        ("Checkpoints", "by criu" if host.checkpoints else "no: see `wharf doctor`"),
        ("CPUs", f"{host.cpus}"),
        ("Memory", human_size(host.memory, binary=True)),
    ]
    return [f"{key + ':':<19}{value}" for key, value in pairs] + [f"WARNING: {text}" for text in host.warnings]


async def version(engine: Engine, args: Arguments) -> int:
    """Client and engine are one process; docker's two sections are kept for scripts."""
    host = await engine.info()
    common: dict[str, object] = {
        "Version": __version__,
        "Os": "linux",
        "Arch": platform.machine(),
        "PythonVersion": platform.python_version(),
    }
    server = {**common, "Version": host.engine_version, "KernelVersion": host.kernel}
    text = [f"wharf {__version__}", f"  Python:   {platform.python_version()}", f"  Kernel:   {host.kernel}"]
    return _print({"Client": common, "Server": server}, [*text, f"  OS/Arch:  linux/{platform.machine()}"], args.format)


COMMANDS = {
    "info": Command("[OPTIONS]", _options, info, examples=("wharf info", "wharf info -f '{{.NCPU}}'")),
    "version": Command("[OPTIONS]", _options, version, examples=("wharf version -f '{{.Server.Version}}'",)),
}
