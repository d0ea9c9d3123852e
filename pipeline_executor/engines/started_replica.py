"""A replica as the engine holds it, whether it is a process or a thread of the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["ExitStatus", "Replica"]


@dataclass(frozen=True)
class ExitStatus:
    """How a replica ended: by an exit code or by a signal. Both None: nobody can tell any more. The end of a thread is
    the exit code 0."""

    exit_code: int | None
    signal_name: str | None

    @property
    def clean(self) -> bool:
        return self.exit_code == 0

    @property
    def unknown(self) -> bool:
        return self.exit_code is None and self.signal_name is None

    def __str__(self) -> str:
        if self.signal_name is not None:
            return f"was killed by {self.signal_name}"
        if self.exit_code is not None:
            return f"exited with code {self.exit_code}"
        return "ended, its exit status taken by another part of this program"


class Replica(Protocol):
    """Started when made."""

    @property
    def pid(self) -> int: ...
    @property
    def handle(self) -> int | None:
        """Becomes readable (on Windows: signalled) when the replica ends. None: it rings the run's bell then."""

    @property
    def ordered_to_die(self) -> bool:
        """Whether an end by a signal is our own doing."""

    @property
    def ended(self) -> bool:
        """For a replica without a handle: nothing of the step's runs any more."""

    def interrupt(self) -> None:
        """Have a step that is busy see that it is to stop, by an exception."""

    def kill(self) -> None:
        """End it whatever it does, with all that it has started, where that is possible."""

    def kill_descendants(self) -> None:
        """End what it has started and left running. To be called before `reap`."""

    def reap(self) -> ExitStatus:
        """How it ended. To be called once, after it has."""
