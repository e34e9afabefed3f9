"""The resolver: two sockets inside the container's network namespace, served in the monitor's event loop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from core.dns import Loop, wire
from core.dns.forward import Forwarder
from core.dns.stream import Streams
from core.dns.zone import Zone, choose

_BATCH = 64  # datagrams in a row, before the monitor sees to the container's output again
_MOST_ANSWERS = 256  # that are kept
_USUAL = 300  # bytes of a question whose answer may be kept: a name has 255 at most
_LONGEST = 4096  # bytes of a question: what is longer is cut, and thereby malformed


class Server:
    """Answers the container's questions.

    :param udp: bound; both belong to the caller, and must live until :meth:`close`
    :param tcp: listening
    :param zone: closed with this
    """

    def __init__(
        self, loop: Loop, udp: socket.socket, tcp: socket.socket, zone: Zone, forwarder: Forwarder | None = None
    ) -> None:
        self._loop = loop
        self._udp = udp
        self._zone = zone
        self._forwarder = forwarder or Forwarder(loop)
        self._answers: dict[bytes, bytes] = {}  # to what has been asked before, both without the id
        self._version = 0  # of the zone, which they are true for
        udp.setblocking(False)
        tcp.setblocking(False)
        self._streams = Streams(loop, tcp, self._answer_stream)
        loop.watch(udp.fileno(), self._datagrams)

    def close(self) -> None:
        """Stop serving; clients on the way are hung up on."""
        self._loop.unwatch(self._udp.fileno())
        self._streams.close()
        self._forwarder.close()
        self._zone.close()

    def _datagrams(self, events: int) -> None:
        receive, zone, answers = self._udp.recvfrom, self._zone, self._answers
        try:
            for _ in range(_BATCH):
                data, peer = receive(_LONGEST)
                zone.refresh()
                if zone.version != self._version:
                    answers.clear()
                    self._version = zone.version
                # What follows the id is the question, and says how it is to be answered.
                known = answers.get(data[2:])
                reply = self._reply(data, None, partial(self._send, peer)) if known is None else data[:2] + known
                if reply is not None:
                    self._send(peer, reply)
        except OSError:  # nothing is left
            pass

    def _send(self, peer: object, data: bytes) -> None:
        try:
            self._udp.sendto(data, peer)  # type: ignore[call-overload]
        except OSError:
            pass  # its buffer is full, or it has no socket any more: as if the packet were lost

    def _answer_stream(self, data: bytes, done: Callable[[bytes], None]) -> bool:
        """Answer a question that came over TCP. False where it is none, and the client not worth listening to."""
        if not wire.is_question(data):
            return False
        self._zone.refresh()
        reply = self._reply(data, wire.LARGEST, done)
        if reply is not None:
            done(reply)
        return True

    def _reply(self, data: bytes, limit: int | None, later: Callable[[bytes], None]) -> bytes | None:
        """The answer; None where it comes later, or never.

        :param limit: bytes; None: as many as the question says
        """
        try:
            query = wire.parse(data)
        except wire.Malformed as error:
            return wire.refusal(data, error)
        if query is None:
            return None
        size = limit or query.size
        records = self._zone.find(query.name)
        if records is not None:
            # Of a name that is ours, what we have not is not: nobody else is asked for its mail servers.
            found = choose(records, query.kind)
            reply = wire.answer(query, found, limit=size)
            if len(found) < 2 and limit is None:  # several would not take turns any more
                self._keep(data, reply)
            return reply
        if not self._zone.forwards:
            # Not NXDOMAIN: that the name is nowhere is more than we know. So does Docker.
            return wire.answer(query, code=wire.SERVFAIL, ours=False)
        self._forwarder.ask(
            data, query, self._zone.servers, lambda answer: later(_relay(answer, query, size)), whole=limit is not None
        )
        return None

    def _keep(self, data: bytes, reply: bytes) -> None:
        if len(data) > _USUAL:
            return
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.clear()
        self._answers[data[2:]] = reply[2:]


def _relay(data: bytes | None, query: wire.Query, limit: int) -> bytes:
    if data is None:
        return wire.answer(query, code=wire.SERVFAIL, ours=False)
    return wire.relayed(data, query, limit)
