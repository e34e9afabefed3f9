"""From what was typed into the run form to a ``ContainerSpec``. Pure; no Textual."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from core.errors import InvalidArgument
from core.model import ContainerSpec, Mount, PortMapping, RestartPolicy
from core.names import check_name
from core.options import parse_ports, parse_volume, split_env
from core.units import parse_size

T = TypeVar("T")

RESTARTS = ("no", "on-failure", "unless-stopped", "always")


@dataclass(frozen=True)
class Result:
    """The spec, or which fields are wrong and why. ``spec`` holds what is right so far, to show its command."""

    spec: ContainerSpec
    errors: dict[str, str]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidArgument("a quote is not closed", str(error)) from None


def _ports(line: str) -> tuple[PortMapping, ...]:
    return tuple(port for word in _words(line) for port in parse_ports(word))


def _mounts(line: str) -> tuple[Mount, ...]:
    return tuple(parse_volume(word) for word in _words(line))


def _env(line: str) -> tuple[str, ...]:
    words = _words(line)
    for word in words:
        if split_env(word)[1] is None:  # on a command line it would take the shell's value; a form has none
            raise InvalidArgument(f"environment {word!r} has no value", "it is like KEY=value or KEY='two words'")
    return tuple(words)


def _cpus(word: str) -> int:
    try:
        cpus = float(word)
    except ValueError:
        cpus = -1.0
    if not 0.01 <= cpus <= 4096:
        raise InvalidArgument(f"cpus {word!r} is not a number of CPUs", "it is like 0.5 or 2")
    return round(cpus * 1e9)


def _memory(word: str) -> int:
    count = parse_size(word)
    if count < 6 * 1024 * 1024:
        raise InvalidArgument(f"memory {word!r} is too little", "the least is 6m, as Docker's")
    return count


def _pids(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise InvalidArgument(f"processes {word!r} is not a number", "it is like 200")
    return int(word)


def _options(line: str, network: str) -> ContainerSpec:
    """What the line says, with the network of its own field: the first one, unless the line names it too. The field's
    ``bridge`` (an ordinary user's ``none``) is where nothing was chosen, and gives way to what the line names."""
    # Late: the command line's parser is of no use to a form whose line stays empty.
    from core.cli.run import read_options

    words = _words(line)
    base = read_options(words)
    if network in ("", "bridge", "none", base.network, *(end.network for end in base.networks)):
        return base
    return read_options(["--network", network, *words])


class _Reader:
    """Parses each field by itself, and keeps what was wrong with it."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.errors: dict[str, str] = {}

    def read(self, key: str, parse: Callable[[str], T], default: T) -> T:
        """The parsed field; ``default`` where it is empty or wrong."""
        line = self._values.get(key, "").strip()
        if not line:
            return default
        try:
            return parse(line)
        except InvalidArgument as error:
            self.errors[key] = f"{error.what}: {error.why}" if error.why else error.what
            return default


def build_spec(values: Mapping[str, str], flags: Mapping[str, bool]) -> Result:
    """The spec of the typed ``values``: image, name, command, ports, env, mounts, memory, cpus, pids, network, user,
    workdir, restart, options (of the command line; the other fields go first); and ``flags``: tty, remove, init,
    read_only."""
    reader = _Reader(values)
    nothing: tuple[str, ...] = ()
    no_ports: tuple[PortMapping, ...] = ()
    no_mounts: tuple[Mount, ...] = ()
    network = values.get("network", "").strip()
    base = reader.read("options", lambda line: _options(line, network), ContainerSpec(image=""))
    resources = replace(
        base.resources,
        memory=reader.read("memory", _memory, base.resources.memory),
        nano_cpus=reader.read("cpus", _cpus, base.resources.nano_cpus),
        pids_limit=reader.read("pids", _pids, base.resources.pids_limit),
    )
    command = reader.read("command", lambda line: tuple(_words(line)), nothing)
    restart = RestartPolicy(values.get("restart", "") or "no")
    spec = replace(
        base,
        image=values.get("image", "").strip(),
        name=reader.read("name", check_name, base.name),
        command=command or None,
        ports=(*base.ports, *reader.read("ports", _ports, no_ports)),
        env=(*base.env, *reader.read("env", _env, nothing)),
        mounts=(*base.mounts, *reader.read("mounts", _mounts, no_mounts)),
        network=base.network or network,
        user=values.get("user", "").strip() or base.user,
        working_dir=values.get("workdir", "").strip() or base.working_dir,
        resources=resources,
        restart=base.restart if restart.name == "no" else restart,
        tty=base.tty or flags.get("tty", False),
        stdin_open=base.stdin_open or flags.get("tty", False),
        auto_remove=base.auto_remove or flags.get("remove", False),
        init=base.init or flags.get("init", False),
        read_only=base.read_only or flags.get("read_only", False),
    )
    return Result(spec, reader.errors | _contradictions(spec))


def _contradictions(spec: ContainerSpec) -> dict[str, str]:
    """What cannot be, by the field that shows it."""
    found = {}
    if not spec.image:
        found["image"] = "which image? Its name, like nginx:1.27"
    elif any(character.isspace() for character in spec.image):
        found["image"] = "an image's name has no spaces; the command has its own field"
    if spec.auto_remove and spec.restart.name != "no":
        found["restart"] = "a container that is removed when it ends cannot be started again"
    if spec.ports and spec.network in ("none", "host"):
        found["ports"] = f"network {spec.network} publishes no ports"
    return found
