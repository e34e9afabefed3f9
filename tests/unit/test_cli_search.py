"""What `wharf search` lets through."""

from __future__ import annotations

import pytest

from core.cli.command import BOOLEAN, parse_filters
from core.cli.search import _FILTERS, _passes
from core.model import FoundRepository


@pytest.mark.parametrize("word", ["t", "T", "1", "true", "TRUE", "True"])
def test_what_go_takes_for_true(word: str) -> None:
    filters = parse_filters([f"is-official={word}"], _FILTERS, {"is-official": BOOLEAN})
    assert [_passes(FoundRepository("x", official=official), filters) for official in (True, False)] == [True, False]


def test_stars() -> None:
    assert [_passes(FoundRepository("x", stars=count), {"stars": ["3", "4"]}) for count in (3, 4)] == [False, True]
