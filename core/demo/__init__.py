"""``wharf demo``: an image made from this host, and a handful of containers that show what a workstation shows.

Works with no network and no registry. :mod:`core.demo.image` makes the image, :mod:`core.demo.elf` finds the shared
libraries it needs, ``scripts/`` holds what the containers run, :mod:`core.demo.run` starts them through the
:class:`~core.engine.Engine` protocol and nothing else.
"""

from core.demo.run import run_demo

__all__ = ["run_demo"]
