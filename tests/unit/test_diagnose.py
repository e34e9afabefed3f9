"""Walks of `network check` that are under way at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.errors import Unavailable
from core.model import NetStep
from core.ops.diagnose import _side_by_side
from tests.patience import patience

AT_ONCE = 4


class Walks:
    """``here`` is how many are under way, ``most`` the most that ever were."""

    def __init__(self) -> None:
        self.here = self.most = self.ended = 0
        self.told: list[str] = []
        self.meeting = asyncio.Barrier(AT_ONCE)

    async def walk(self, number: int) -> AsyncIterator[NetStep]:
        self.here += 1
        self.most = max(self.most, self.here)
        try:
            for name in ("veth", "gateway"):
                await self.meeting.wait()  # nobody gets on before as many are here
                yield NetStep(str(number), name, "ok", "")
            if number == 5:
                raise Unavailable("cannot look into it", "it has ended", "")
        finally:
            self.here -= 1
            self.ended += 1


async def told(walks: Walks, count: int) -> list[str]:
    said = []
    async for step in _side_by_side([walks.walk(number) for number in range(count)], AT_ONCE):
        walks.told.append(step.subject)
        said.append(f"{step.subject} {step.name}")
    return said


async def test_each_waits_for_the_others_and_they_are_told_in_order() -> None:
    walks = Walks()
    async with asyncio.timeout(patience(30)):
        assert await told(walks, 4) == [f"{n} {name}" for n in range(4) for name in ("veth", "gateway")]
    assert (walks.most, walks.here) == (AT_ONCE, 0)


async def test_one_that_breaks_off() -> None:
    walks = Walks()
    async with asyncio.timeout(patience(30)):
        with pytest.raises(Unavailable):
            await told(walks, 12)
    assert walks.told == [str(n) for n in range(6) for _ in range(2)]
    assert (walks.most, walks.here) == (AT_ONCE, 0)


async def test_who_listens_no_longer() -> None:
    walks = Walks()
    async with asyncio.timeout(patience(30)):
        found = _side_by_side([walks.walk(number) for number in range(40)], AT_ONCE)
        async for _ in found:
            break
        await found.aclose()
    assert walks.here == 0
    assert walks.ended <= 2 * AT_ONCE
