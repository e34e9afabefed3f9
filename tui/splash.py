"""The first two frames, written before Textual is there: a line at once, and the containers as soon as they are read.

They stand where the workspace will show them, so that what has been read stays in its place when it takes over.
Nothing here may import anything that takes time.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.model import Container

WIDE = 110  # columns from which on the workspace shows borders, see its breakpoints
FIRST_ROW = 4  # of the list, counted from 1: the host's line, the border or the tabs, the heading


def opening() -> None:
    """A line, on the alternate screen that Textual will take over."""
    os.write(1, f"\x1b[?1049h\x1b[?25l\x1b[2J\x1b[H\x1b[1m wharf\x1b[0m  {os.uname().nodename}   opening...".encode())


def listed(containers: Sequence[Container], *, unicode: bool) -> None:
    """The containers' names and states, as many as fit."""
    columns, lines = os.get_terminal_size(1)
    first = 8 if columns >= WIDE else 7
    rows = []
    for at, container in enumerate(containers[: max(0, lines - FIRST_ROW - 1)], FIRST_ROW):
        sign = ("●" if unicode else "*") if container.state.live else " "
        # Names are of a small alphabet (`core.names`): nothing in them moves the cursor.
        words = f"{container.name}  {container.state.value}"[: max(0, columns - first - 4)]
        rows.append(f"\x1b[{at};{first - 3}H{sign}  {words}")
    up = sum(container.state.live for container in containers)
    rows.append(f"\x1b[H\x1b[1m wharf\x1b[0m  {os.uname().nodename}   {up} up\x1b[K")
    os.write(1, "".join(rows).encode())


def withdraw() -> None:
    """Give the terminal back as it was."""
    os.write(1, b"\x1b[2J\x1b[?1049l\x1b[?25h")
