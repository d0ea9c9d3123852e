"""What an engine gives to the façade. A leaf, like `interfaces`."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["ResultStream"]


class ResultStream(Protocol):
    """What an engine gives for a pipeline whose last step yields to the caller."""

    def next_result(self) -> Any:
        """The next result; raises StopIteration after the last, once everything has ended well."""

    def poll_result(self) -> tuple[bool, Any]:
        """Without waiting for another process or thread: (True, item), or (False, None) where `next_result` has to see
        to it: nothing is there yet, or the run has ended."""

    def close(self) -> None:
        """Stop the pipeline quietly and leave nothing behind."""
