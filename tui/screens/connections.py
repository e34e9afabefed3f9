"""What containers are connected to now, by which processes, and how much passes: live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from textual.binding import BindingType

from core.errors import WharfError
from core.model import Connection
from core.model.netlook import rate
from tui import networking, text
from tui.screens.live import LiveTable
from tui.snapshot import Snapshot
from tui.widgets.linetable import Cell, Column, Row

Ask = Callable[[bool, Callable[[list[Connection] | WharfError], None]], object]

_STYLES = {"established": "success", "listen": "text-muted", "open": "text-muted", "syn-sent": "warning"}


class ConnectionsScreen(LiveTable[list[Connection], None]):
    """A line for each connection; ``a`` shows those that only wait for callers as well."""

    KEYS_TEXT = "a also what listens or is over · ↑ ↓ move · Esc back"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,t", "leave", "Back"),
        ("a", "all", "Also what listens or is over"),
    ]
    COLUMNS = (
        Column("container", "CONTAINER", minimum=8, weight=1, priority=1),
        Column("local", "LOCAL", 10),
        Column("remote", "REMOTE", minimum=19, weight=2),
        Column("who", "WHO", minimum=8, weight=1, priority=3),
        Column("state", "STATE", 11, priority=2),
        Column("process", "PROCESS", minimum=8, weight=1),
        Column("traffic", "SENT/S   RCVD/S", 16, align="right"),
        Column("via", "BY WAY OF", minimum=15, weight=1, priority=5),
    )
    EMPTY = "no connections (a shows what listens)"

    def __init__(self, subject: str, snapshot: Snapshot, ask: Ask, *, several: bool) -> None:
        """``ask`` gets whether listening sockets are wanted too, and the function that takes the answer.

        :param several: they are of several containers, and each line says of which
        """
        super().__init__(lambda show: ask(self._everything, show))
        self._several = several
        if not several:
            self._table.set_columns(self.COLUMNS[1:])
        self.snapshot = snapshot
        self._subject = subject
        self._everything = False
        self._before: dict[tuple[object, ...], Connection] = {}
        self._now: dict[str, Connection] = {}

    def heading(self) -> str:
        return f"Connections of {self._subject}"

    def rows(self, answer: list[Connection]) -> Sequence[Row]:
        names = {container.id: container.name for container in self.snapshot.containers}
        rates = {one.key: self._rates(one) for one in answer}
        self._before = {one.key: one for one in answer}
        self._now = {"|".join(map(str, one.key)): one for one in answer}
        rows = [_row(key, one, names.get(one.container, ""), rates[one.key]) for key, one in self._now.items()]
        return rows if self._several else [replace(row, cells=row.cells[1:]) for row in rows]

    def _rates(self, now: Connection) -> tuple[float, float] | None:
        """Bytes sent and received a second since the answer before; None where nobody knows."""
        before = self._before.get(now.key)
        if before is None:
            return None
        seconds = now.time - before.time
        received, sent = rate(before.received, now.received, seconds), rate(before.sent, now.sent, seconds)
        return None if received is None or sent is None else (sent, received)

    def shown(self) -> None:
        self.moved(self._table.cursor_key)

    def moved(self, key: str | None) -> None:
        one = self._now.get(key or "")
        if one is None:
            self.say("")
            return
        words = [f"{_address(one.local_ip, one.local_port)}  {one.state}"]
        words += [f"pid {one.pid} {one.process}"] if one.pid else []
        words += [f"by way of {one.via}"] if one.via else []
        if one.sent is not None and one.received is not None:
            sent, received = text.size(one.sent).strip(), text.size(one.received).strip()
            words.append(f"{sent} sent, {received} received since it began")
        elif one.state not in ("listen", "open"):
            words.append("its bytes are not counted (sysctl net.netfilter.nf_conntrack_acct=1 would)")
        self.say("   ".join(words))

    def action_all(self) -> None:
        """With or without what only listens, and what is over."""
        self._everything = not self._everything
        self.ask_anew()


def _address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _row(key: str, one: Connection, name: str, rates: tuple[float, float] | None) -> Row:
    quiet = "text-muted"
    waits = one.state in ("listen", "open") and not one.remote_port
    return Row(
        key,
        (
            name,
            Cell(f":{one.local_port}" + ("" if one.protocol == "tcp" else f"/{one.protocol}"), quiet),
            "" if waits else _address(one.remote_ip, one.remote_port),
            Cell(one.remote, "primary"),
            Cell(one.state, _STYLES.get(one.state, "")),
            one.process,
            networking.traffic(rates),
            Cell(one.via, quiet),
        ),
        quiet if waits else "",
    )
