"""One start, as the engine sees it: the monitor is called first, and gets ready while we make what the container needs.

async with Launching(inst, launch) as monitor:
    await monitor.configure(config, seccomp)
    …  # network, files
    started = await monitor.go([("netns", fd)])
    await monitor.confirm()
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

from core.errors import StartFailed
from core.runtime.defaults import Json
from core.store.paths import Instance
from core.supervise.contact import TRIES, Line, build_id, call_launcher, no_answer
from core.supervise.protocol import MAX_FDS, Launch, Message, Started, launch_payload

_PATIENCE = 10.0  # seconds a monitor may take to undo what it has done


class Launching:
    """A start that stands once :meth:`confirm` is called. A cancelled one, or an engine that dies meanwhile, undoes it.

    :raises Unavailable: no launcher can be started
    """

    def __init__(self, inst: Instance, launch: Launch) -> None:
        self._inst = inst
        self._id = launch.id
        self._payloads = [launch_payload(build_id(), launch)]
        self._line: Line | None = None
        self._stands = False

    async def __aenter__(self) -> Self:
        self._line = await call_launcher(self._inst, *self._payloads)
        return self

    async def configure(self, config: Json, seccomp: bytes) -> None:
        """What the container is to be: said once, before anything else.

        :param config: of ``config.json``, without the seccomp rules
        :param seccomp: what :func:`core.runtime.seccomp.compiled` makes of them; empty: none
        :raises Unavailable: no launcher can be started
        """
        payload = json.dumps({"config": config, "filter": base64.b64encode(seccomp).decode()}).encode()
        self._payloads.append(payload)
        assert self._line is not None
        try:
            await self._line.send_payload(payload)
        except ConnectionError:  # the launcher has left just when we came, or makes way for another one
            self._line.close()
            self._line = await call_launcher(self._inst, *self._payloads)

    async def make_namespaces(
        self, ids: tuple[int, int], kinds: Sequence[str], home: int | None = None
    ) -> dict[str, int]:
        """A user namespace, and new namespaces that belong to it. The monitor makes them: that takes a process with a
        single thread.

        :param ids: what its root is called on the host, and how many ids it has
        :param kinds: of the further ones (``network``)
        :param home: a user namespace that is there already, to own them
        :returns: descriptors by kind, ``user`` among them; they are the caller's
        :raises WharfError: the kernel refuses
        """
        mapping = {"containerID": 0, "hostID": ids[0], "size": ids[1]}
        message: Message = {"ids": [mapping], "kinds": list(kinds)}
        answer, fds = await self._ask(message, [] if home is None else [home])
        if not answer:
            raise self._failed("its monitor was killed")
        return dict(zip(cast("list[str]", answer["kinds"]), fds, strict=True))

    async def ahead(self, named: Sequence[tuple[str, int]]) -> None:
        """Have the container begin with what it begins with; :meth:`go` says the rest, and all of this again.

        Not under another runtime, nor for a restore.

        :param named: descriptors by name: ``netns``, ``ns.TYPE`` and ``shm``
        """
        assert self._line is not None
        with contextlib.suppress(ConnectionError):  # the launcher has left: another one hears all from go()
            await self._line.send({"ahead": [name for name, _ in named]}, [fd for _, fd in named])

    async def go(self, named: Sequence[tuple[str, int]] = (), ports: Sequence[Message] = ()) -> Started:
        """Have the container started, now that everything it needs is there; returns when its command was executed.

        :param named: descriptors by name: ``netns``, ``attach`` (the monitor's end of a socket pair), ``ns.TYPE`` of
            other namespaces to join, ``hold*`` that the monitor keeps open while the container runs
        :param ports: that a proxy has to serve: ``protocol``, ``bind`` and ``target``, each an address and a port, and
            ``name``, of the listening socket among those descriptors
        :raises StartFailed: nothing stays behind; CommandNotFound and CommandNotExecutable are told apart
        """
        if len(named) > MAX_FDS:
            raise self._failed(f"it holds {len(named)} host ports; {MAX_FDS} can be handed to its monitor")
        answer, _ = await self._ask({"fds": [name for name, _ in named], "ports": list(ports)}, [fd for _, fd in named])
        started = answer.get("started")
        if not isinstance(started, dict):
            raise self._failed("its monitor was killed")
        return Started(**started)

    async def confirm(self) -> None:
        """All that must outlive us is written down: from here on the start stands, even if we are cancelled or die."""
        self._stands = True
        assert self._line is not None
        with contextlib.suppress(OSError):  # it may have ended, and its monitor with it, by now
            await self._line.send({"ok": True})

    async def _ask(self, message: Message, fds: Sequence[int]) -> tuple[Message, list[int]]:
        for _ in range(TRIES):
            assert self._line is not None
            try:
                answer, given = await self._line.ask(message, fds)
                if not answer.get("retired"):
                    return answer, given
            except EOFError:
                return {}, []  # what was called has gone, and may have done something
            except ConnectionError:
                # The launcher has left for being idle, or a monitor was killed: what we said was not read. Another one
                # hears all from the beginning, and clears away what the last one may have begun with.
                pass
            self._line.close()
            self._line = await call_launcher(self._inst, *self._payloads)
        raise no_answer(self._inst)

    def _failed(self, why: str) -> StartFailed:
        return StartFailed("cannot start the container", why, object_id=self._id, step="monitor")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        line = self._line
        if line is None:
            return
        try:
            if not self._stands:
                await self._hang_up(line)
        finally:
            line.close()

    async def _hang_up(self, line: Line) -> None:
        """Give the start up, and wait until the monitor has undone its part: it must not meet what comes next."""
        with contextlib.suppress(OSError, TimeoutError):
            line.sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_PATIENCE):
                while await asyncio.get_running_loop().sock_recv(line.sock, 4096):
                    pass
