"""Which OCI runtime a container has: the engine's own, or another by name or path.

The choice is made when a container is created, as docker does, and kept by its name; where that is, is looked up at
each start, so that the program may move.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from core.errors import InvalidArgument, Unsupported, WharfError
from core.model import Check, ContainerSpec
from core.store import config
from core.store.config import OWN_RUNTIME, Settings
from core.store.paths import Instance

# Name → programs that it may be, the usual one first.
_KNOWN = {"runc": ("runc",), "crun": ("crun",), "runsc": ("runsc",), "kata": ("kata-runtime", "kata")}
_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_INSTALL = {
    "runc": "Install it: apt-get install runc",
    "crun": "Install it: apt-get install crun",
    "runsc": "Install gVisor: gvisor.dev/docs/user_guide/install",
    "kata": "Install Kata Containers: katacontainers.io",
}


def choose(spec: ContainerSpec) -> str:
    """The runtime for a new container; "" for the engine's own.

    :raises InvalidArgument: there is none of that name, or it cannot do what ``spec`` asks for
    :raises Unsupported: it is not installed
    """
    settings = config.load()
    name = spec.runtime or settings.runtime
    if name == OWN_RUNTIME:
        return ""
    find(name, settings)
    _check(spec, name)
    return name


def _check(spec: ContainerSpec, name: str) -> None:
    """What only our own runtime has."""
    if spec.init:
        raise InvalidArgument(
            f"--init cannot be had with runtime {name}", "the init is part of the engine's own runtime", "Drop one"
        )
    if spec.userns not in ("", "host"):
        raise InvalidArgument(
            f"--userns {spec.userns} cannot be had with runtime {name}",
            "the engine's own maps the owners of the image's files as it mounts them",
            "Drop one",
        )
    for mount in spec.mounts:
        if {"shared", "rshared"} & set(mount.options):
            raise InvalidArgument(
                f"the mount on {mount.target} cannot be shared with runtime {name}",
                "its mounts come from a mount namespace that the host does not hear of",
                "Say rslave, or drop --runtime",
            )


def command(name: str) -> tuple[str, ...]:
    """The command line of the runtime of a container; empty for the engine's own.

    :raises InvalidArgument: :raises Unsupported:
    """
    return find(name, config.load()) if name else ()


def find(name: str, settings: Settings) -> tuple[str, ...]:
    """The absolute path of a runtime, and its arguments.

    :raises InvalidArgument: there is none of that name
    :raises Unsupported: it is not installed
    """
    named = settings.runtimes.get(name)
    if named is not None:
        return (_program(name, named.path, f"Correct {settings.file}"), *named.args)
    if name.startswith("/"):
        return (_program(name, name, "Give the path of a program"),)
    if name not in _KNOWN:
        raise _unknown(name, settings)
    for program in _KNOWN[name]:
        for folder in _FOLDERS:
            if _is_program(f"{folder}/{program}"):
                return (f"{folder}/{program}",)
    raise Unsupported(
        f"runtime {name} is not installed",
        f"there is no {' and no '.join(_KNOWN[name])} in {' '.join(_FOLDERS)}",
        f"{_INSTALL[name]}; or say where it is: [runtimes.{name}] in {settings.file}",
    )


def _program(name: str, path: str, fix: str) -> str:
    if not _is_program(path):
        raise Unsupported(f"runtime {name} is not installed", f"there is no program {path}", fix)
    return path


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _unknown(name: str, settings: Settings) -> InvalidArgument:
    import difflib

    known = [OWN_RUNTIME, *settings.runtimes, *(name for name in _KNOWN if name not in settings.runtimes)]
    near = difflib.get_close_matches(name, known, 1)
    if "/" in name:
        return InvalidArgument(f"invalid runtime {name!r}", "it is no name and no absolute path", "Begin it with /")
    fix = f"Did you mean {near[0]}?" if near else f"Give a path, or add [runtimes.NAME] to {settings.file}"
    return InvalidArgument(f"unknown runtime {name!r}", f"known are {', '.join(known)}", fix)


def check(inst: Instance) -> Iterator[Check]:
    """For ``doctor``: the settings, and the runtimes that are there."""
    try:
        settings = config.load()
        if settings.runtime != OWN_RUNTIME:
            find(settings.runtime, settings)
    except WharfError as error:
        yield Check("runtimes", "fail", f"{error.what}: {error.why}", "no container can be created", error.fix)
        return
    names = [f"{name} ({path})" for name, path in found(settings)]
    yield Check("runtimes", "ok", ", ".join([OWN_RUNTIME, *names]) + f"; by default {settings.runtime}")


def found(settings: Settings) -> Iterator[tuple[str, str]]:
    """Name and path of every runtime that is there, the engine's own left out."""
    for name in dict.fromkeys((*settings.runtimes, *_KNOWN)):
        try:
            yield name, find(name, settings)[0]
        except Unsupported:
            continue
