"""How frames reach the terminal: only cells that changed, and no faster than the terminal takes them.

This package alone uses names that Textual keeps private, so it is tied to the version it was written against
(:data:`KNOWN_TEXTUAL`). With any other version, with ``WHARF_RENDER=stock``, or after an error of its own, the app
renders the stock way: slower over a thin line, never wrong.

* :mod:`tui.render.painter` turns Textual's updates into the fewest bytes: it knows what the terminal shows.
* :mod:`tui.render.compositor` has widgets render only the lines that are dirty.
* :mod:`tui.render.flow` asks the terminal for a sign of life after each 2 kB and holds frames until it comes.
* :mod:`tui.render.typist` gives on keys one after another, each when what the one before it did has come to rest.
* :mod:`tui.render.parser` tells Esc apart from the key after it.
* :mod:`tui.render.driver` asks for fewer mouse reports.
* :mod:`tui.render.app` puts them into an app: :class:`RenderApp`.
"""

from tui.render.app import KNOWN_TEXTUAL, RenderApp

__all__ = ["KNOWN_TEXTUAL", "RenderApp"]
