"""One run on the pure core (see `interfaces.Run`)."""

from __future__ import annotations

from multiprocessing.context import BaseContext

from pipeline_executor.fallback.ends import Receiver, Sender
from pipeline_executor.fallback.ordered import OrderedReceiver, OrderedSender
from pipeline_executor.fallback.run_state import RunState
from pipeline_executor.fallback.supervisor import Supervisor
from pipeline_executor.interfaces import RunLayout

__all__ = ["Run", "open_run"]


def open_run(layout: RunLayout, context: BaseContext) -> Run:
    """Create the shared state of a run whose processes are started by `context`."""
    return Run(layout, context)


class Run(RunState):
    """See `interfaces.Run`. It adds to the state the functions that make senders, receivers and the supervisor."""

    def sender(self, edge: int, entry: int, max_message_bytes: int | None = None) -> Sender:
        self.check_open()
        kind = Sender if self.edges[edge].order is None else OrderedSender
        return kind(self, edge, entry, max_message_bytes)

    def receiver(self, edge: int, entry: int, orders: int | None = None) -> Receiver:
        self.check_open()
        return Receiver(self, edge, entry) if orders is None else OrderedReceiver(self, edge, entry, orders)

    def supervisor(self) -> Supervisor:
        self.check_open()
        assert self.bell_reader is not None
        return Supervisor(self, self.bell_reader)
