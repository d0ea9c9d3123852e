"""What has to be done for steps that run in processes before the first process is started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline_executor.engines.processes import start_method_left_open
from pipeline_executor.engines.working_directory import working_directory_is_gone
from pipeline_executor.errors import PipelineError
from pipeline_executor.pickling import share_main_names
from pipeline_executor.plan import StepPlan

if TYPE_CHECKING:
    from pipeline_executor.engines.payload import Payload

__all__ = ["prepare"]


def prepare(steps: list[StepPlan], start_method: str, *, has_threads: bool) -> dict[int, Payload]:
    """Returns what the steps' functions and constants travel as, by the step's index; nothing under fork.

    Arguments:
        steps: those that run in processes.
        has_threads: others run in threads of the calling process.
    """
    # `payload` is imported where there is something to pickle: it and cloudpickle take as long as all of a short run.
    if not steps:
        return {}
    if start_method != "fork":
        if working_directory_is_gone():
            raise PipelineError(
                "this program's working directory has been deleted, and the start methods spawn and forkserver start a "
                "process there. Call os.chdir() with a directory that exists, or use parallelism='process-fork', "
                "'thread' or 'sequential'."
            )
        from pipeline_executor.engines.payload import names_that_children_import, payloads_of

        with start_method_left_open():
            main_names = names_that_children_import()
            payloads = payloads_of(steps, main_names)
            if has_threads:  # which send to processes from here
                share_main_names(main_names)
        return payloads
    share_main_names()
    unnamed = [step.function for step in steps if _uses_what_has_no_name(step.function)]
    if unnamed:
        from pipeline_executor.engines.payload import introduce

        introduce(unnamed)
    return {}


def _uses_what_has_no_name(function: Callable[..., Any]) -> bool:
    """Whether it is defined inside another function, or in a script that is no module (`python -m cProfile`)."""
    if "<locals>" in getattr(function, "__qualname__", ""):
        return True
    main = vars(sys.modules["__main__"])
    return getattr(function, "__module__", None) == "__main__" and getattr(function, "__globals__", None) is not main
