"""When nothing moves in a pipeline: noticed from its counters, without a thread."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from pipeline_executor.interfaces import ReplicaCounters, State, Waiting

__all__ = ["InactivityWatch", "stuck_entries"]

#: Looks within one timeout: it is noticed after the timeout, and at most a tenth of it later.
_LOOKS = 10
_MIN_INTERVAL_S = 0.005


class InactivityWatch:
    """Looks at the counters again and again.

    Attributes:
        timeout_s: seconds without any movement that are too many.
        interval_s: seconds between two looks.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.interval_s = max(timeout_s / _LOOKS, _MIN_INTERVAL_S)
        self.restart()

    def restart(self) -> None:
        """What was until now does not count: nobody has waited for the pipeline."""
        self._seen: list[tuple[State, int, int]] | None = None
        self._since = time.monotonic()

    def is_over(self, counters: Sequence[ReplicaCounters]) -> bool:
        """Whether nothing has moved for the timeout. An item taken, an item handed over, a replica's start or end are
        movements."""
        now = [(replica.state, replica.items_in, replica.items_out) for replica in counters]
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since >= self.timeout_s


def stuck_entries(counters: Sequence[ReplicaCounters], alive: Collection[int]) -> list[int]:
    """Those that keep the others waiting: the replicas that have not ended and wait for nobody; all that have not ended
    if each waits; and if all have ended, those whose processes have not.

    Arguments:
        alive: the entries of the replicas whose processes have not ended.
    """
    running = [entry for entry, replica in enumerate(counters) if replica.state < State.STOPPED]
    return [entry for entry in running if counters[entry].waiting is Waiting.NOTHING] or running or sorted(alive)
