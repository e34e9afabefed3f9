"""``exec``: one more process in a running container."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from core.errors import Conflict, InvalidArgument
from core.model import ExecSpec, State
from core.ops import records
from core.runtime.spec import exec_process
from core.supervise import client

if TYPE_CHECKING:
    from core.engine import Session
    from core.ops.context import Context


async def execute(ctx: Context, ref: str, spec: ExecSpec) -> Session:
    """Run a command inside; it ends with the container at the latest.

    :raises Conflict: the container does not run, or is paused
    :raises CommandNotFound: :raises CommandNotExecutable:
    """
    if not spec.argv:
        raise InvalidArgument("no command to run", "exec needs one", "Add it after the container")
    record = await records.find(ctx, ref)
    saved, run = records.observe(ctx, record)
    if run is None or saved.state not in (State.RUNNING, State.STOPPING):
        fix = "Unpause it first" if saved.state is State.PAUSED else "Start it first"
        raise Conflict(f"cannot exec in {record.name}", f"it is {saved.state.value}", fix, object_id=record.id)
    config = json.loads((ctx.inst.container_dir(record.id) / "config.json").read_bytes())
    return await client.open_exec(ctx.inst, record.id, exec_process(spec, config), tty=spec.tty, detach=spec.detach)
