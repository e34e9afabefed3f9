"""Keys as a terminal sends them: bytes through the driver and its parser, as many at once as one read gives."""

from __future__ import annotations

import threading

from textual.app import App

from tui.render.parser import InOrderParser


def burst(app: App[None], keys: str) -> None:
    """All of ``keys`` in one read, from another thread as the driver's."""
    driver = app._driver
    assert driver is not None

    def read() -> None:
        parser = InOrderParser()
        for data in (keys, ""):
            for event in parser.feed(data):
                driver.process_message(event)

    reader = threading.Thread(target=read)
    reader.start()
    reader.join()
