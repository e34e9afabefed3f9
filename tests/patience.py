"""How long a test waits for what must come about. ``WHARF_TEST_PATIENCE`` multiplies it, for machines that are slow: in
the emulated one of ``make test-v2`` everything takes about twenty times as long."""

from __future__ import annotations

import os

_FACTOR = float(os.environ.get("WHARF_TEST_PATIENCE", "1"))


def patience(seconds: float) -> float:
    """A deadline in seconds, for this machine; not for times that are themselves what is tested."""
    return seconds * _FACTOR
