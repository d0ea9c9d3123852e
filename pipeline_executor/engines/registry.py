"""The table of engines, by `parallelism`. A new engine gets a line in `ENGINES` and a module of its own.

An engine's module is imported when the engine is first used, so that a sequential run does not import the code that
starts processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline_executor.interfaces import Core
    from pipeline_executor.options import RunOptions
    from pipeline_executor.plan import Plan
    from pipeline_executor.streams import ResultStream

__all__ = ["ENGINES", "Engine"]


class Engine(Protocol):
    """Runs a plan.

    Attributes:
        replicates: a step has as many replicas as its task asks for. False: every step has one replica.
        all_in_threads: every step runs in threads. False: only a step whose task sets `num_threads` does.
    """

    @property
    def replicates(self) -> bool: ...
    @property
    def all_in_threads(self) -> bool: ...

    def run(self, plan: Plan, core: Core, options: RunOptions) -> ResultStream | None:
        """Run the plan.

        Returns:
            The stream of the last step's outputs. If the last step consumes: None, when the run has ended.

        Raises:
            PipelineError: this engine cannot run the plan. Nothing was started.
            Whatever a step raised, or a TaskError.
        """


@dataclass(frozen=True)
class _LocalEngine:
    """Runs replicas in processes and threads of this machine.

    Arguments:
        start_method: of the processes; None for the interpreter's default.
    """

    start_method: str | None = None
    all_in_threads: bool = False
    replicates: bool = True

    def run(self, plan: Plan, core: Core, options: RunOptions) -> ResultStream | None:
        from pipeline_executor.engines.local import run_local

        return run_local(plan, core, options, self.start_method or _default_start_method())


@dataclass(frozen=True)
class _SequentialEngine:
    all_in_threads: bool = False
    replicates: bool = False

    def run(self, plan: Plan, core: Core, options: RunOptions) -> ResultStream | None:
        from pipeline_executor.engines.sequential import run_sequential

        return run_sequential(plan, core, options)


def _default_start_method() -> str:
    import multiprocessing

    # Plain get_start_method() would fix the default, and the program could no longer call set_start_method().
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


ENGINES: Mapping[str, Engine] = {
    "process": _LocalEngine(),
    "process-fork": _LocalEngine("fork"),
    "process-forkserver": _LocalEngine("forkserver"),
    "process-spawn": _LocalEngine("spawn"),
    "thread": _LocalEngine(all_in_threads=True),
    "sequential": _SequentialEngine(),
}
