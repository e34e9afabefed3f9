"""When a container is started again, and how long that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.model.container import RestartPolicy

FIRST_DELAY = 0.1  # seconds; doubles with every failure
LONGEST_DELAY = 60.0
GOOD_RUN = 10.0  # a run of this many seconds starts the delays anew


class Restarts:
    """One container's restart policy (Docker's), with its memory.

    ``count`` is how often it was started again in all.
    """

    def __init__(self, policy: RestartPolicy, count: int = 0) -> None:
        self._policy = policy
        self.count = count
        self._streak = count if policy.name == "on-failure" else 0
        self._delay = FIRST_DELAY

    def next_delay(self, exit_code: int | None, ran: float) -> float | None:
        """Seconds to wait before the next start, or None where there is none.

        :param exit_code: of the run that ended; None (unknown) counts as a failure
        :param ran: how many seconds that run took
        """
        if self._policy.name == "no":
            return None
        if self._policy.name == "on-failure":
            if exit_code == 0:
                return None
            if self._policy.max_retries and self._streak >= self._policy.max_retries:
                return None
        if ran >= GOOD_RUN:
            self._delay = FIRST_DELAY
        delay = self._delay
        self._delay = min(self._delay * 2, LONGEST_DELAY)
        self._streak += 1
        self.count += 1
        return delay
