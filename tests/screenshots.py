"""Pictures of the live workstation with the demo running (``make screenshots``): SVG, and PNG where it can be made.

It runs in a data root of its own, and takes everything away afterwards.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from textual.pilot import Pilot

from core.local import LocalEngine
from tui.app import WharfApp

OUT = ROOT / "screenshots"
WARM_UP = 25.0  # seconds: the meters' history fills, the demo's healthcheck fails once
Step = Callable[[WharfApp, Pilot[None]], Awaitable[None]]


def keys(*names: str) -> Step:
    """Press these keys and let the screen settle."""

    async def press(app: WharfApp, pilot: Pilot[None]) -> None:
        await pilot.press(*names)
        await pilot.pause(1.2)

    return press


async def look_at(app: WharfApp, name: str) -> None:
    """Put the cursor on the demo's container of that name, where there is one."""
    for container in app.desk.snapshot.containers:
        if name in container.name:
            app.desk.choose(container.id)


def on(name: str, *names: str) -> Step:
    """The cursor on a container, then keys."""

    async def go(app: WharfApp, pilot: Pilot[None]) -> None:
        await look_at(app, name)
        await pilot.pause(0.5)
        await keys(*names)(app, pilot)

    return go


SHOTS: tuple[tuple[str, tuple[int, int], str, Step], ...] = (
    ("wide", (200, 50), "dark", on("json", "1")),
    ("light", (200, 50), "light", on("web", "1")),
    ("run", (200, 50), "dark", on("web", "n")),
    ("narrow", (80, 24), "dark", on("web", "1")),
    ("narrow-log", (80, 24), "dark", on("json", "enter")),
    ("help", (120, 40), "nord", keys("question_mark")),
)


def save(app: WharfApp, name: str) -> None:
    """``screenshots/NAME.svg`` and, where cairosvg is there, ``NAME.png``."""
    svg = app.export_screenshot(title="wharf", simplify=True)
    (OUT / f"{name}.svg").write_text(svg, encoding="utf-8")
    try:
        import cairosvg
    except (ImportError, OSError):  # it needs the cairo library of the system
        return
    # cairosvg fetches no web fonts: name one that the system has and that holds braille and box drawing.
    local = svg.replace("Fira Code", "DejaVu Sans Mono")
    cairosvg.svg2png(bytestring=local.encode(), write_to=str(OUT / f"{name}.png"), output_width=1600)


async def take(engine: LocalEngine) -> None:
    """All the shots, one run of the workstation each."""
    for name, size, theme, step in SHOTS:
        app = WharfApp(engine)
        async with app.run_test(size=size) as pilot:
            app.theme = theme
            await pilot.pause(WARM_UP if name == SHOTS[0][0] else 12.0)
            await step(app, pilot)
            save(app, name)
            print(f"screenshots/{name}.svg", flush=True)


async def main() -> None:
    """Make the demo, take the pictures, and leave nothing behind."""
    base = Path(tempfile.mkdtemp(prefix="wharf-shots-"))
    os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_STATE_HOME"] = str(base / "user")
    OUT.mkdir(exist_ok=True)
    engine = await LocalEngine.open(base / "root", base / "run")
    try:
        async for line in engine.demo():
            print(line, flush=True)
        await take(engine)
    finally:
        for container in await engine.containers():
            await engine.remove(container.id, force=True)
        await engine.destroy_networks()
        await engine.close()
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
