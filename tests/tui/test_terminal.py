"""The program on a real terminal: hand-over of the terminal and back, resizes, kills, what is left on the screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from core.engine import Engine
from core.model import Container, ContainerSpec, State
from tests.tui.terminal import Terminal

pytestmark = pytest.mark.real

Open = Callable[..., Terminal]


@pytest_asyncio.fixture
async def wharf(instance_env: dict[str, str], tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the workstation on the test's instance."""
    env = instance_env | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}
    opened: list[Terminal] = []

    def start(columns: int = 120, lines: int = 30, **more: str) -> Terminal:
        opened.append(Terminal(env | more, columns, lines))
        return opened[-1]

    yield start
    for terminal in opened:
        await terminal.end()


async def run(engine: Engine, image: str, name: str, *command: str, tty: bool = False) -> Container:
    made = await engine.create(
        ContainerSpec(
            image=image,
            name=name,
            command=command,
            network="none",
            tty=tty,
            stdin_open=True,
            stop_signal="SIGKILL",
        )
    )
    return await engine.start(made.id)


async def test_shell_has_the_whole_terminal_and_gives_it_back(engine: Engine, busybox_image: str, wharf: Open) -> None:
    await run(engine, busybox_image, "sleeper", "sleep", "600")
    terminal = wharf()
    await terminal.until("1 Containers")
    await terminal.until("sleeper")
    terminal.type("e")
    await terminal.until("exit or ctrl+d leaves")
    await terminal.until("/ #")
    terminal.type("echo $((6*7)) $(stty size)\n")
    await terminal.until("42 30 120")
    terminal.resize(90, 24)
    terminal.type('while [ "$(stty size)" != "24 90" ]; do sleep 0.1; done; clear; echo now $(stty size)\n')
    await terminal.until("now 24 90")
    terminal.type("vi /tmp/x\n")
    await terminal.until("~")
    terminal.type("ihello")
    await terminal.until("hello")
    terminal.type("\x1b")
    await asyncio.sleep(0.5)  # a lone Esc is told from a sequence by time
    terminal.type(":wq\n")
    await terminal.until("/ #")
    terminal.type("clear; cat /tmp/x; exit 3\n")
    await terminal.until("1 Containers")
    await terminal.until("? help")
    assert "hello" not in terminal.shown
    terminal.type("?")  # and it takes keys again
    await terminal.until("Keys")


async def test_what_is_typed_ahead_of_a_shell_is_the_shells(engine: Engine, busybox_image: str, wharf: Open) -> None:
    """All in one write: `s` in it stops nothing, `q` leaves nothing."""
    made = await run(engine, busybox_image, "sleeper", "sleep", "600")
    other = await run(engine, busybox_image, "newest", "sleep", "600")
    terminal = wharf()
    await terminal.until("1 Containers")
    await terminal.until("sleeper")
    terminal.type("jeecho sqKd $((6*7)) $HOSTNAME\r")
    await terminal.until("exit or ctrl+d leaves")
    await terminal.until(f"sqKd 42 {made.id[:12]}")
    terminal.type("exit\r")
    await terminal.until("? help")
    assert [(await engine.container(each.id)).state for each in (made, other)] == [State.RUNNING] * 2


async def test_keys_in_one_write_are_handled_in_order(engine: Engine, busybox_image: str, wharf: Open) -> None:
    for name in ("one", "two", "three"):
        await run(engine, busybox_image, name, "sleep", "600")
    terminal = wharf(80, 24)
    terminal.type("jK")  # before anything is on the screen
    await terminal.until("Kill two?")
    terminal.type("njdnkkK")
    await terminal.until("Kill three?")
    terminal.type("nnmade\tsleep 9\t\tK=v")  # the second n opens the form
    await terminal.until("K=v")
    assert all(words in terminal.shown for words in ("made", "sleep 9", "docker run"))


async def test_attach_and_detach_leave_it_running(engine: Engine, busybox_image: str, wharf: Open) -> None:
    made = await run(engine, busybox_image, "inside", "sh", tty=True)
    terminal = wharf()
    await terminal.until("1 Containers")
    await terminal.until("inside")
    terminal.type("a")
    await terminal.until("ctrl+p ctrl+q leaves")
    terminal.type("echo $((40+2))\n")
    await terminal.until("42")
    terminal.type("\x10\x11")
    await terminal.until("1 Containers")
    assert (await engine.container(made.id)).state is State.RUNNING


async def test_attach_to_plain_streams_reads_lines(engine: Engine, busybox_image: str, wharf: Open) -> None:
    made = await run(engine, busybox_image, "reader", "sh", "-c", "while read l; do echo got:$l; done; exec sleep 600")
    terminal = wharf()
    await terminal.until("1 Containers")
    await terminal.until("reader")
    terminal.type("a")
    await terminal.until("ctrl+c leaves")
    terminal.type("onx\x7fe\n")  # backspace edits
    await terminal.until("got:one")
    terminal.type("\x03")
    await terminal.until("1 Containers")
    assert (await engine.container(made.id)).state is State.RUNNING


async def test_resize_between_narrow_and_wide(engine: Engine, busybox_image: str, wharf: Open) -> None:
    await run(engine, busybox_image, "a-name-much-longer-than-its-column-at-eighty", "sleep", "600")
    terminal = wharf(200, 50)
    await terminal.until("5 Resources")
    for columns, lines in ((80, 24), (300, 80), (40, 10), (120, 30)):
        terminal.resize(columns, lines)
        await terminal.until(lambda lines=lines: "help" in terminal.shown.split("\n")[lines - 1])  # type: ignore[misc]
        await terminal.until("a-name")
    assert terminal.process.poll() is None


async def test_killed_workstation_leaves_containers_and_log(engine: Engine, busybox_image: str, wharf: Open) -> None:
    count = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done"
    made = await run(engine, busybox_image, "counter", "sh", "-c", count)
    terminal = wharf()
    await terminal.until("counter")
    terminal.process.kill()
    terminal.process.wait()
    await asyncio.sleep(0.5)
    assert (await engine.container(made.id)).state is State.RUNNING
    again = wharf()
    await again.until("line ")
    await engine.kill(made.id)
    numbers = [int(line.text.split()[1]) async for line in engine.logs(made.id)]
    assert numbers == list(range(len(numbers)))
    await again.until("exit 137")
    assert await again.end() == 0


async def test_last_words_tell_what_runs_on(engine: Engine, busybox_image: str, wharf: Open) -> None:
    await run(engine, busybox_image, "sleeper", "sleep", "600")
    terminal = wharf()
    await terminal.until("1 Containers")
    assert await terminal.end() == 0  # at once, perhaps before its first list
    assert b"1 container runs on" in terminal.raw
