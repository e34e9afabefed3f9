"""The house holds: an import points only to a lower room, siblings do not know each other, faces know words alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]

# Lowest first. A room may import itself and every lower rank; rooms of one rank never import each other.
RANKS: list[set[str]] = [
    {"core", "core.errors", "core.model", "core.units", "core.names"},
    {"core.engine_images", "core.engine_networks", "core.engine_registries", "core.engine_storage"},
    {"core.engine", "core.options"},
    {"core.kernel"},
    {"core.store"},
    {"core.dns"},  # a mechanism that core.net puts to use in a namespace, and the monitor in its loop
    {"core.runtime", "core.cgroups", "core.images", "core.net", "core.volumes", "core.logs"},
    {"core.supervise"},
    {"core.rootless"},
    {"core.oci"},
    {"core.ops"},
    {"core.border"},
    {"core.local_images", "core.local_networks", "core.local_registries", "core.local_storage"},
    {"core.demo"},
    {"core.local"},
]
WORDS = RANKS[0]
FACES = {"core.cli", "tui"}
FOR_FACES = (WORDS | {"core.engine", "core.options"}) - {"core"}

# `open_engine` is the one door from the protocol to what implements it; those of the workstation to the
# command lines are `tui.__main__`, where `wharf` with arguments goes, and `tui.forms`, whose line of options is read by
# the parser of `wharf run`.
DOORS = {("core.engine", "core.local"), ("core.engine", "core.rootless"), ("tui", "core.cli"), ("tui", "core.oci")}
DOORS |= {("core", "core.engine")}

NAMESPACES = {"backports"}  # packages that hold several distributions, none of which owns the name

# What the launcher, the monitor and the one-shot clean-up import: they run as `python -I -S`, without site-packages.
STDLIB_ONLY = ["core.kernel", "core.runtime", "core.cgroups", "core.logs", "core.supervise", "core.net", "core.store"]
STDLIB_ONLY += ["core.dns"]
STDLIB_ONLY += ["core.oci", "core.errors", "core.model", "core.units", "core.names", "core.options", "core.engine"]
STDLIB_ONLY += ["core.engine_images", "core.engine_networks", "core.engine_registries", "core.engine_storage"]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (HOUSE / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return "tui" if parts[0] == "tui" else ".".join(parts[:2])


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full module name) of every import in a file, late ones and those for type checking too."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:
                # `from core import names` imports core.names, `from core import __version__` only core.
                whole = f"{origin}.{alias.name}"
                is_module = (HOUSE / whole.replace(".", "/")).is_dir() or (HOUSE / whole.replace(".", "/")).with_suffix(
                    ".py"
                ).is_file()
                yield node.lineno, whole if is_module or origin in NAMESPACES else origin


def rank(room: str) -> int:
    return next((index for index, rooms in enumerate(RANKS) if room in rooms), -1)


def fault(importer: str, imported: str) -> str:
    """Why room ``importer`` may not import room ``imported``; empty where it may."""
    if importer == imported or (importer, imported) in DOORS or imported == "core":
        return ""
    if importer in FACES:
        return "" if imported in FOR_FACES else "a face imports only the words and core.engine"
    if rank(importer) < 0:
        return f"{importer} has no place in the layers"
    if imported in FACES or rank(imported) < 0:
        return f"{imported} is not a lower room"
    if rank(imported) < rank(importer) or (importer in WORDS and imported in WORDS):
        return ""
    return "siblings never import each other" if rank(imported) == rank(importer) else "an import points only down"


def test_imports_point_down() -> None:
    faults = [
        f"{path.relative_to(HOUSE)}:{line}: {room_of(module_of(path))} imports {name}: {why}"
        for path in sources("core", "tui")
        for line, name in imports(path)
        if name.split(".")[0] in {"core", "tui"} and (why := fault(room_of(module_of(path)), room_of(name)))
    ]
    assert not faults, "\n".join(faults)


def test_the_rule_has_teeth() -> None:
    assert fault("core.net", "core.cgroups") == "siblings never import each other"
    assert fault("core.store", "core.ops") == "an import points only down"
    assert fault("core.cli", "core.ops")
    assert fault("tui", "core.store")
    assert fault("core.model", "core.cli")
    assert not fault("core.ops", "core.net")
    assert not fault("tui", "core.model")


def test_words_do_no_io() -> None:
    allowed = {"__future__", "collections", "dataclasses", "datetime", "enum", "fnmatch", "importlib", "re"}
    allowed |= {"secrets", "time", "typing"}
    faults = [
        f"{path.relative_to(HOUSE)}:{line}: {name}"
        for path in sources("core")
        if room_of(module_of(path)) in WORDS
        for line, name in imports(path)
        if name.split(".")[0] not in allowed | {"core"}
    ]
    assert not faults, "\n".join(faults)


def declared() -> set[str]:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {line.partition("==")[0].lower() for line in project["dependencies"]}


def test_every_dependency_is_declared_and_pinned() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    assert all("==" in line for line in [*project["dependencies"], *extras])
    used = {
        name.split(".")[0] if not name.startswith("backports.") else ".".join(name.split(".")[:2])
        for path in sources("core", "tui")
        for _, name in imports(path)
    }
    foreign = used - set(sys.stdlib_module_names) - {"core", "tui", "compression"}
    assert foreign <= declared(), f"imported but not declared: {sorted(foreign - declared())}"


@pytest.mark.parametrize("room", STDLIB_ONLY)
def test_stdlib_rooms_import_without_site_packages(room: str) -> None:
    """Every module of the room, in a bare interpreter; the engine's own third-party imports must come late there."""
    names = [module_of(path) for path in sources("core") if f"{module_of(path)}.".startswith(f"{room}.")]
    code = f"import sys, importlib; sys.path.insert(0, {str(HOUSE)!r})\nfor n in {names!r}: importlib.import_module(n)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_step_of_a_journal_has_an_undo() -> None:
    """They are found by name, in the process that comes after a crash."""
    from importlib import import_module
    from inspect import iscoroutinefunction, signature

    from core.ops.open import UNDONE

    text = "".join(path.read_text() for path in sources("core/ops"))
    steps = set(re.findall(r'journal\.step\(\s*"(\w+)\.undo"', text))
    assert steps == set(UNDONE)
    for verb in UNDONE:
        undo = getattr(import_module(f"core.ops.{verb}"), f"undo_{verb}")
        assert iscoroutinefunction(undo)
        assert next(iter(signature(undo).parameters)) == "ctx"
