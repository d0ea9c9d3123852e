"""Notices from a run's counters that nothing moves. The thread that waits for the run compares them now and then."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from pipeline_executor.interfaces import ReplicaCounters, State, Waiting

__all__ = ["InactivityWatch", "stuck_entries"]

#: Looks during one timeout. Inactivity is noticed after the timeout, and at most a tenth of it later.
_LOOKS = 10
_MIN_INTERVAL_S = 0.005


class InactivityWatch:
    """Compares the counters with those of the last look.

    Attributes:
        timeout_s: seconds without any movement after which the run counts as inactive.
        interval_s: seconds between two looks.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.interval_s = max(timeout_s / _LOOKS, _MIN_INTERVAL_S)
        self.restart()

    def restart(self) -> None:
        """Start the timeout anew, because nobody has waited for the pipeline until now."""
        self._seen: list[tuple[State, int, int]] | None = None
        self._since = time.monotonic()

    def is_over(self, counters: Sequence[ReplicaCounters]) -> bool:
        """Whether nothing has moved for the timeout. An item taken or handed over is a movement, and a replica's start
        or end."""
        now = [(replica.state, replica.items_in, replica.items_out) for replica in counters]
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since >= self.timeout_s


def stuck_entries(counters: Sequence[ReplicaCounters], alive: Collection[int]) -> list[int]:
    """Return the entries of the replicas that keep the others waiting.

    | replicas that have not ended | returned |
    |---|---|
    | some of them wait for nobody | these |
    | all of them wait | all of them |
    | there are none | the replicas whose processes have not ended |

    Arguments:
        alive: the entries of the replicas whose processes have not ended.
    """
    running = [entry for entry, replica in enumerate(counters) if replica.state < State.STOPPED]
    return [entry for entry in running if counters[entry].waiting is Waiting.NOTHING] or running or sorted(alive)
