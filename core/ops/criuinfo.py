"""Whether CRIU is here and can work on this kernel: for ``doctor``, ``info`` and the workstation.

``criu check`` takes tens of milliseconds; what it says is kept in the run root, which a reboot (into another kernel)
empties, until the program is another one.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from core.errors import Unsupported, WharfError
from core.kernel import caps
from core.model import Check
from core.ops.checkpoints import offered
from core.store.paths import Instance
from core.supervise import criu, dumping

_COST = "no checkpoints (wharf checkpoint, wharf restore); all else works without it"


@dataclass(frozen=True)
class Criu:
    """:param problem: why it cannot work; "" where it can"""

    program: str
    version: str = ""
    problem: str = ""
    fix: str = ""


def look(inst: Instance) -> Criu:
    """Never raises: what cannot be found out is a problem too."""
    try:
        program = offered()
        status = os.stat(program)
    except (WharfError, OSError) as error:
        return Criu("", problem=getattr(error, "why", str(error)), fix=getattr(error, "fix", ""))
    stamp = [program, status.st_mtime_ns, status.st_size]
    kept = inst.run / "cache" / "criu.json"
    try:
        known = json.loads(kept.read_bytes())
        if known["stamp"] == stamp:
            return Criu(**known["found"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = _try(program)
    try:
        aside = kept.with_name(f"criu.{os.getpid()}")
        aside.write_text(json.dumps({"stamp": stamp, "found": vars(found)}))
        aside.rename(kept)
    except OSError:
        pass  # there is no instance yet
    return found


def _try(program: str) -> Criu:
    try:
        version = dumping.version(program)
        done = subprocess.run(
            [program, "check"], capture_output=True, timeout=20, check=False, env={"PATH": criu.PATH}, cwd="/"
        )
    except (Unsupported, OSError, subprocess.SubprocessError) as error:
        return Criu(program, problem=str(error), fix="Install it again")
    if done.returncode:
        told = criu.explain("", done.stderr + done.stdout)
        return Criu(program, version, told.why.removeprefix("criu: "), told.fix or "See `criu check`")
    return Criu(program, version)


def check(inst: Instance) -> Iterator[Check]:
    """What ``doctor`` says."""
    found = look(inst)
    if not found.program:
        yield Check("checkpoints", "warn", found.problem, _COST, found.fix)
    elif found.problem:
        yield Check("checkpoints", "warn", f"criu {found.version}: {found.problem}", _COST, found.fix)
    elif "CAP_SYS_RESOURCE" not in caps.bounding():
        yield Check(
            "checkpoints",
            "warn",
            f"criu {found.version} works, but CAP_SYS_RESOURCE is missing",
            "only containers whose processes all are root's can be saved",
            "Start the engine with CAP_SYS_RESOURCE",
        )
    else:
        yield Check("checkpoints", "ok", f"criu {found.version} works here")
