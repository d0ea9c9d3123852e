"""Prepares the steps that run in processes, before the first process is started."""

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
    """Pickle the steps' functions and constants. Returns them by the step's index; an empty dict under fork.

    Arguments:
        steps: the steps that run in processes.
        has_threads: other steps of the pipeline run in threads of the calling process.
    """
    # `payload` is imported only if something must be pickled: its import, with cloudpickle, takes as long as a short
    # run.
    if not steps:
        return {}
    if start_method != "fork":
        if working_directory_is_gone():
            raise PipelineError(
                "this program's working directory has been deleted, but the start methods spawn and forkserver start "
                "processes in it. Call os.chdir() with a directory that exists, or use parallelism='process-fork', "
                "'thread' or 'sequential'."
            )
        from pipeline_executor.engines.payload import names_that_children_import, payloads_of

        with start_method_left_open():
            main_names = names_that_children_import()
            payloads = payloads_of(steps, main_names)
            if has_threads:  # steps in threads send messages from this process
                share_main_names(main_names)
        return payloads
    share_main_names()
    unimportable = [step.function for step in steps if _is_unimportable(step.function)]
    if unimportable:
        from pipeline_executor.engines.payload import number_unimportable_classes

        number_unimportable_classes(unimportable)
    return {}


def _is_unimportable(function: Callable[..., Any]) -> bool:
    """Whether the function is defined inside another one, or in a script that is not the module `__main__`.

    The latter is so under `python -m cProfile`.
    """
    if "<locals>" in getattr(function, "__qualname__", ""):
        return True
    main = vars(sys.modules["__main__"])
    return getattr(function, "__module__", None) == "__main__" and getattr(function, "__globals__", None) is not main
