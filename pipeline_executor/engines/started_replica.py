"""The interface of a started replica, whether it is a process or a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["ExitStatus", "Replica"]


@dataclass(frozen=True)
class ExitStatus:
    """How a replica ended.

    | replica | `exit_code` | `signal_name` |
    |---|---|---|
    | a process that exited; a thread (0) | the code | None |
    | a process that was killed by a signal | None | the signal |
    | a process whose exit status other code of the program has taken | None | None |
    """

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
        return "ended with an unknown exit status, because other code of this program has reaped it"


class Replica(Protocol):
    """A replica, which is started when the object is made."""

    @property
    def pid(self) -> int: ...
    @property
    def handle(self) -> int | None:
        """Becomes readable (on Windows: signalled) when the replica ends. None: the replica rings the run's bell."""

    @property
    def ordered_to_die(self) -> bool:
        """Whether the engine has interrupted or killed the replica, so that its end by a signal is no failure."""

    @property
    def ended(self) -> bool:
        """Whether the replica has ended. Only for a replica without a handle."""

    def interrupt(self) -> None:
        """Stop a busy step by an exception."""

    def kill(self) -> None:
        """End the replica whatever it does, and all processes that it has started, as far as that is possible."""

    def kill_descendants(self) -> None:
        """End the processes that the replica has started and left running. To be called before `reap`."""

    def reap(self) -> ExitStatus:
        """Return how the replica ended. To be called once, after its end."""
