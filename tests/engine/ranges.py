"""Ranges of addresses for tests: several test processes run at once on one host, and each has its own."""

from __future__ import annotations

from tests.shares import SHARE


def range4(number: int) -> str:
    """The ``number``-th /24 of this process, as its first three parts: ``10.131.7``."""
    return f"10.{130 + SHARE}.{number}"


def range6(number: int) -> str:
    """The ``number``-th /64 of this process, without its closing ``::``."""
    return f"fd00:7e57:{SHARE}:{number}"
