"""Pictures of the live workstation with the demo running (``make screenshots``): SVG, and PNG where it can be made.

It runs in a data root of its own, and takes everything away afterwards.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from textual.pilot import Pilot

from core.local import LocalEngine
from core.model import EndpointSpec, NetworkSpec
from core.store.paths import find_instance
from tests.instance import end_instance
from tui.app import WharfApp

OUT = ROOT / "screenshots"
CELL, LINE, BASELINE = 12.2, 24.4, 18.5  # of Textual's SVG: a cell's width and height, and its baseline below its top
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


async def look_at_map(app: WharfApp, pilot: Pilot[None]) -> None:
    """The map, with the rates of two readings at least."""
    await keys("3", "m")(app, pilot)
    await pilot.pause(4.0)


SHOTS: tuple[tuple[str, tuple[int, int], str, Step], ...] = (
    ("wide", (200, 50), "dark", on("json", "1")),
    ("light", (200, 50), "light", on("web", "1")),
    ("run", (200, 50), "dark", on("web", "n")),
    ("narrow", (80, 24), "dark", on("web", "1")),
    ("narrow-log", (80, 24), "dark", on("json", "enter")),
    ("help", (120, 40), "nord", keys("question_mark")),
    ("map", (140, 30), "dark", look_at_map),
)


def _dots(code: int, x: float, baseline: float) -> str:
    """A braille cell as circles; the numbering of the dots is Unicode's (chapter 21.1)."""
    top = baseline - BASELINE
    places = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))
    return "".join(
        f'<circle cx="{x + CELL * (0.25 + column / 2):.1f}" cy="{top + LINE * (0.125 + row / 4):.1f}" r="2.3"/>'
        for bit, (column, row) in enumerate(places)
        if code >> bit & 1
    )


def _draw_braille(match: re.Match[str]) -> str:
    """One text element with its braille drawn: few monospaced fonts have it, and those disagree on its width."""
    attributes, content = match[1], match[2]
    if not any(0x2800 <= ord(character) < 0x2900 for character in content):
        return match[0]
    place = {key: float(value) for key, value in re.findall(r'\b(x|y)="([\d.]+)"', attributes)}
    words, dots = [], []
    for at, token in enumerate(re.findall(r"&[^;]+;|.", content, re.DOTALL)):
        code = ord(token) if len(token) == 1 else 0
        if 0x2800 <= code < 0x2900:
            dots.append(_dots(code - 0x2800, place["x"] + at * CELL, place["y"]))
            token = "&#160;"
        words.append(token)
    style = re.search(r'class="([^"]+)"', attributes)
    drawn = f'<g class="{style[1] if style else ""}">{"".join(dots)}</g>'
    return f"<text{attributes}>{''.join(words)}</text>{drawn}"


def portable(svg: str) -> str:
    """The picture without fonts from elsewhere (a README may not load them)."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    return re.sub(r"<text([^>]*)>([^<]*)</text>", _draw_braille, svg)


PNG = ("wide", "narrow")  # for places that show no SVG


def save(app: WharfApp, name: str) -> None:
    """``screenshots/NAME.svg`` and, of two of them and where cairosvg is there, ``NAME.png``."""
    svg = portable(app.export_screenshot(title="wharf", simplify=True))
    (OUT / f"{name}.svg").write_text(svg, encoding="utf-8")
    if name not in PNG:
        return
    try:
        import cairosvg
    except (ImportError, OSError):  # it needs the cairo library of the system
        return
    # cairosvg knows no textLength: at this size a character of the font is exactly one cell wide.
    fitted = svg.replace("font-size: 20px", "font-size: 20.264px").replace("DejaVu Sans Mono, Menlo, Consolas, ", "")
    fitted = fitted.replace("monospace", "DejaVu Sans Mono")
    cairosvg.svg2png(bytestring=fitted.encode(), write_to=str(OUT / f"{name}.png"), output_width=1600)


async def lay_networks(engine: LocalEngine) -> None:
    """Two networks for the map, with some of the demo's containers."""
    await engine.create_network(NetworkSpec("front", ipv6=True))
    await engine.create_network(NetworkSpec("back", internal=True))
    boxes = {box.name: box for box in await engine.containers() if box.state.live and box.endpoints}
    for network, word, alias in (
        ("front", "web", "shop"),
        ("front", "client", ""),
        ("back", "web", ""),
        ("back", "json", "api"),
    ):
        for name, box in boxes.items():
            if word in name:
                await engine.connect(box.id, EndpointSpec(network, aliases=(alias,) if alias else ()))


async def take(engine: LocalEngine, wanted: Collection[str]) -> None:
    """The shots, all or those that are named, one run of the workstation each."""
    for name, size, theme, step in SHOTS:
        if wanted and name not in wanted:
            continue
        if name == "map":
            await lay_networks(engine)
        app = WharfApp(engine)
        async with app.run_test(size=size) as pilot:
            app.desk.set_theme(theme)
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
        await take(engine, sys.argv[1:])
    finally:
        await engine.close()
        await end_instance(find_instance(base / "root", base / "run"))
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
