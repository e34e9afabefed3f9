"""The workstation of an ordinary user, on a host that has nothing to give containers a network with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.person import Person, single_person, view, why_not

pytestmark = pytest.mark.real

# Runs as that user, and so by itself: with nothing of the tests, to which the user may have no way.
PROGRAM = r"""
import asyncio
from core.engine import become_root, open_engine
become_root()
from textual.widgets import Input
from tui.app import WharfApp

async def until(pilot, true):
    for _ in range(1500):
        if true():
            return
        await pilot.pause(0.02)
    raise SystemExit("it did not come about")

async def main():
    engine = await open_engine()
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        await pilot.press("3")
        await until(pilot, lambda: app.desk.networks.note.display)
        print("pane:", " ".join(str(app.desk.networks.note.content).split()))
        print("rows:", [row.cells[0] for row in app.desk.networks.table.rows])
        await pilot.press("n")
        await until(pilot, lambda: bool(app.screen.query("#name")))
        app.screen.query_one("#name", Input).value = "web"
        await pilot.press("enter")
        said = app.screen.query(".error").first()
        await until(pilot, lambda: said.display)
        print("form:", " ".join(str(said.content).split()))
    await engine.close()

asyncio.run(main())
"""


@pytest.fixture
def person() -> Iterator[Person]:
    """A user without pasta and slirp4netns."""
    if why := why_not():
        pytest.skip(why)
    with single_person() as found:
        poor = replace(found, mounts=view(found.base))
        try:
            yield poor
        finally:
            poor.end()


def test_the_pane_says_what_is_missing_and_the_form_why_it_fails(person: Person) -> None:
    done = person.code(PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr
    pane, rows, form = (line.partition(": ")[2] for line in done.stdout.splitlines()[-3:])
    assert "pasta" in pane
    assert "passt" in pane  # what to install
    assert rows == "['host', 'none']"
    assert "an ordinary user's container can have no address" in form
    assert "pasta" in form
