"""Waiting for processes and for the bell (see `interfaces.Supervisor`)."""

from __future__ import annotations

from multiprocessing.connection import Connection, wait

from pipeline_executor.fallback.run_state import RunState

__all__ = ["Supervisor"]

#: Longest wait after a poll that could not take a lock.
_RETRY_S = 0.005

#: Longest wait with the bell armed, in case its ring was missed.
_ARMED_WAIT_S = 0.5


class Supervisor:
    """See `interfaces.Supervisor`."""

    def __init__(self, run: RunState, bell: Connection) -> None:
        self._run = run
        self._bell = bell
        self._entries: dict[int | Connection, int] = {}  # handle -> entry
        self._armed = False

    def watch(self, entry: int, handle: int | Connection) -> None:
        self._entries[handle] = entry

    def arm(self) -> None:
        self._run.ledger.bell_armed = True
        # Producers should see the flag before the caller looks at the queue for the last time. Python has no full fence
        # on every processor to ensure that, so `wait` ends after `_ARMED_WAIT_S`, and the caller looks again.
        self._armed = True

    def wait(self, timeout_s: float | None, *, bell: bool = True, processes: bool = True) -> list[int]:
        self._run.check_open()
        if not bell:
            pass
        elif self._run.take_retry():
            timeout_s = _RETRY_S if timeout_s is None else min(timeout_s, _RETRY_S)
        elif self._armed:
            timeout_s = _ARMED_WAIT_S if timeout_s is None else min(timeout_s, _ARMED_WAIT_S)
        if bell:
            self._armed = False
        watched = [*([self._bell] if bell else []), *(self._entries if processes else [])]
        ready = wait(watched, timeout_s)
        if self._run.closed:  # a signal handler or another thread has closed it
            return []
        while bell and self._bell.poll():
            self._bell.recv_bytes()
        return [
            self._entries.pop(handle)
            for handle in ready
            if handle is not self._bell and isinstance(handle, (int, Connection))
        ]

    def close(self) -> None:
        self._entries.clear()
