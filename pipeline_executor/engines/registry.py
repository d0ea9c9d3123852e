"""Which engine runs a pipeline, by its `parallelism`. A new engine gets its line in `ENGINES` and a module of its own.

An engine's module is imported when it is first used: a run in one thread needs nothing of what starts processes.
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
        replicates: a step has as many replicas as its task says; else it has one.
        all_in_threads: steps whose tasks do not say so run in threads, too.
    """

    @property
    def replicates(self) -> bool: ...
    @property
    def all_in_threads(self) -> bool: ...

    def run(self, plan: Plan, core: Core, options: RunOptions) -> ResultStream | None:
        """Run the plan.

        Returns:
            None when all is done, if the last step consumes; else the stream of its outputs.

        Raises:
            PipelineError: this plan cannot be run here. Nothing was started.
            Whatever a step raised, or a TaskError.
        """


@dataclass(frozen=True)
class _LocalEngine:
    """Processes and threads of this machine. `start_method`: None for the interpreter's default."""

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

    # Asked in a way that does not settle it: the program may still call set_start_method.
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


ENGINES: Mapping[str, Engine] = {
    "process": _LocalEngine(),
    "process-fork": _LocalEngine("fork"),
    "process-forkserver": _LocalEngine("forkserver"),
    "process-spawn": _LocalEngine("spawn"),
    "thread": _LocalEngine(all_in_threads=True),
    "sequential": _SequentialEngine(),
}
