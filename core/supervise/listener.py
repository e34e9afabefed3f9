"""The parent's side of seccomp notifications: give the listener to the agent that ``listenerPath`` names.

See :mod:`core.runtime.notify` for how it comes here. The agent gets one message: the container process state
(runtime-spec, config-linux.md), with the descriptor by SCM_RIGHTS.
"""

from __future__ import annotations

import json
import os
import socket
from typing import cast

from core.errors import StartFailed
from core.runtime.defaults import Json
from core.supervise import sockets

_PATIENCE = 2.0  # seconds that an agent may take to accept and read


def hand_over(listener: int, config: Json, pid: int, state: Json) -> None:
    """Send ``listener`` to the agent and close it, whatever happens.

    :param config: its ``linux.seccomp`` names the agent (``listenerPath``, ``listenerMetadata``)
    :param pid: of the process that the filter is on, in our own pid namespace
    :param state: the container's, as hooks get it (runtime-spec, runtime.md): ``creating`` for a first process,
        ``running`` for one that joins
    :raises StartFailed: nobody takes it; the process must not go on, since its calls would wait for nobody
    """
    seccomp = cast(Json, cast(Json, config.get("linux") or {}).get("seccomp") or {})
    path = str(seccomp.get("listenerPath") or "")
    message: Json = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid}
    if seccomp.get("listenerMetadata"):
        message["metadata"] = seccomp["listenerMetadata"]
    message["state"] = state
    payload = json.dumps(message).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(_PATIENCE)
            if path.startswith("@"):
                agent.connect("\0" + path[1:])  # an abstract name, as runc spells it
            else:
                sockets.connect(agent, path)
            # Descriptors go with the first bytes; the rest of a large state may need further calls.
            sent = socket.send_fds(agent, [payload], [listener])
            agent.sendall(payload[sent:])
    except OSError as error:
        raise StartFailed(
            f"cannot hand the seccomp listener to {path or 'its agent'}",
            "nobody takes it in time" if isinstance(error, TimeoutError) else error.strerror or str(error),
            "Start the agent first; linux.seccomp.listenerPath must be its stream socket",
            step="seccomp",
        ) from error
    finally:
        os.close(listener)
