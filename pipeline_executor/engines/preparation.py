"""What has to be done for steps that run in processes before the first process is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_executor.engines.processes import start_method_left_open
from pipeline_executor.plan import StepPlan

if TYPE_CHECKING:
    from pipeline_executor.engines.payload import Payload

__all__ = ["prepare"]


def prepare(steps: list[StepPlan], start_method: str) -> dict[int, Payload]:
    """Returns what the steps' functions and constants travel as, by the step's index; nothing under fork."""
    # `payload` is imported where there is something to pickle: it and cloudpickle take as long as all of a short run.
    if not steps:
        return {}
    if start_method != "fork":
        from pipeline_executor.engines.payload import payloads_of

        with start_method_left_open():
            payloads = payloads_of(steps)
        return payloads
    if any("<locals>" in getattr(step.function, "__qualname__", "") for step in steps):
        from pipeline_executor.engines.payload import introduce

        introduce(step.function for step in steps)
    return {}
