"""Is this ``config.json`` one that can be carried out? Every rule that needs no look into the container.

The shape (types, ranges, words) is in :mod:`core.runtime.config_schema`; the rules between fields are here and in the
``check_…`` modules beside this one. What only the host can answer (is there such a namespace file, does this kernel
know AppArmor) is left to those who ask the kernel anyway.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from core.errors import InvalidArgument
from core.runtime import check_linux, check_mounts, check_process
from core.runtime.config_schema import CONFIG, PROCESS, RESOURCES
from core.runtime.defaults import Json
from core.runtime.schema import Findings, Problem, read

_OTHER_PLATFORMS = ("windows", "solaris", "zos", "freebsd")
_LISTED = 5  # paths of further problems in a message


def check_config(config: object, *, bundle: Path | None = None, warnings: list[str] | None = None) -> Json:
    """The configuration as a runtime can use it: a copy, with the small things settled that are left open.

    - ``null`` and empty optional fields are gone; ``linux`` and ``process.user`` are there
    - mount destinations are absolute; with ``bundle``, the root and the sources of bind mounts are too
    - a mount has ``options``, and a bind mount has the type ``bind`` and one of the options ``bind`` and ``rbind``
    - a device's ``fileMode`` is without the kind of file
    - capabilities that cannot be given are gone (config.md wants a warning, and no failure)

    :param config: what ``json.loads`` made of the file; it is not changed
    :param bundle: the bundle's folder, to look whether the root is there
    :param warnings: gets a line for each thing that is odd but no error
    :raises InvalidArgument: naming the field, its value and the rule (runtime-spec 1.2, config.md and config-linux.md)
    """
    found = Findings()
    copy = cast("dict[str, Any]", read(CONFIG, _without_console_size(config), "", found))
    if isinstance(copy, dict):
        _check_platform(copy, found)
    _refuse(found, "config.json")
    copy.setdefault("linux", {})
    _check_root(copy, bundle, found)
    if "process" in copy:
        check_process.check(copy["process"], found)
    check_mounts.check(copy, bundle, found)
    check_linux.check(copy, found)
    _refuse(found, "config.json")
    if warnings is not None:
        warnings.extend(found.warnings)
    return cast(Json, copy)


def check_process_file(process: object, *, warnings: list[str] | None = None) -> Json:
    """The ``process`` object alone, as ``exec --process FILE`` takes it. Parameters and errors as above."""
    found = Findings()
    whole = _without_console_size({"process": process})
    copy = cast("dict[str, Any]", read(PROCESS, cast("dict[str, object]", whole)["process"], "process", found))
    _refuse(found, "process")
    check_process.check(copy, found)
    _refuse(found, "process")
    if warnings is not None:
        warnings.extend(found.warnings)
    return cast(Json, copy)


def check_resources(resources: object) -> Json:
    """``linux.resources`` alone, as ``update`` takes it: the shape only, for what goes together is partly set already.

    :raises InvalidArgument:
    """
    found = Findings()
    copy = read(RESOURCES, resources, "linux.resources", found)
    _refuse(found, "resources")
    return cast(Json, copy)


def _without_console_size(config: object) -> object:
    """``consoleSize`` MUST be ignored without a terminal: whatever it holds."""
    process = config.get("process") if isinstance(config, dict) else None
    if not isinstance(process, dict) or process.get("terminal") is True or not isinstance(config, dict):
        return config
    return {**config, "process": {key: value for key, value in process.items() if key != "consoleSize"}}


def _check_platform(config: dict[str, Any], found: Findings) -> None:
    others = [name for name in _OTHER_PLATFORMS if config.get(name) is not None]
    if others and "linux" not in config:
        found.bad(others[0], config[others[0]], "this host is Linux, and there is no part for it", "Add a linux part")
    for name in (*others, *(("vm",) if config.get("vm") is not None else ())):
        found.doubt(name, config[name], "it is for another kind of host, and ignored")


def _check_root(config: dict[str, Any], bundle: Path | None, found: Findings) -> None:
    if bundle is None:
        return
    root = config["root"]
    whole = os.path.join(os.path.abspath(bundle), root["path"])
    try:
        os.stat(os.path.join(whole, ""))
    except (FileNotFoundError, NotADirectoryError):
        rule = "it is not a folder" if os.path.lexists(whole) else f"there is no such folder in {bundle}"
        found.bad("root.path", root["path"], rule, "Put the container's files there, or name their place")
    except OSError as error:
        found.bad("root.path", root["path"], error.strerror or str(error), "Name the place of the container's files")
    root["path"] = whole


def _refuse(found: Findings, document: str) -> None:
    """:raises InvalidArgument: for the first problem, with the places of the others"""
    if not found.problems:
        return
    first, *others = found.problems
    state = f"is {first.shown}" if first.shown else "is missing"
    where = first.path or "the whole"
    raise InvalidArgument(f"invalid {document}: {where} {state}", first.rule + _more(others), first.fix)


def _more(others: list[Problem]) -> str:
    if not others:
        return ""
    paths = list(dict.fromkeys(problem.path for problem in others))
    listed = ", ".join(paths[:_LISTED]) + (" …" if len(paths) > _LISTED else "")
    return f"; there {'is one more problem' if len(others) == 1 else f'are {len(others)} more problems'}: {listed}"
