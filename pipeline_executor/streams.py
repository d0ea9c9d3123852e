"""`ResultStream`: what an engine returns to the façade if the last step yields results. A leaf, like `interfaces`."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["ResultStream"]


class ResultStream(Protocol):
    """The results of a running pipeline whose last step yields to the caller."""

    def next_result(self) -> Any:
        """Wait for the next result and return it. Raise StopIteration when every step has ended without an error."""

    def poll_result(self) -> tuple[bool, Any]:
        """Return (True, result) if a result can be had without waiting for another process or thread.

        Else return (False, None): there is no result yet, or the run has ended. `next_result` finds out which.
        """

    def close(self) -> None:
        """Stop the pipeline without an error. No process, thread or file descriptor of the run remains."""
