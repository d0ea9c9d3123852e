"""Run a list of ordinary Python generators as a pipeline, each step in its own operating-system process.

>>> from pipeline_executor import PipelineTask, execute                        # doctest: +SKIP
>>> execute([PipelineTask(load), PipelineTask(infer, num_procs=2), PipelineTask(save)])  # doctest: +SKIP

`execute` runs a pipeline to its end. `stream` runs one and iterates over what its last step yields. `check_pipeline`
checks one without running it. Import every public name from here. `pipeline_executor.backend` tells which core is in
use.
"""

from __future__ import annotations

from pipeline_executor.errors import (
    InactivityError,
    MessageError,
    PipelineError,
    PipelineTypeError,
    StoppedEarlyError,
    TaskDied,
    TaskError,
    TaskFailure,
)
from pipeline_executor.execute import check_pipeline, execute, stream
from pipeline_executor.interfaces import WorkerInfo
from pipeline_executor.replica.worker_info import worker_info
from pipeline_executor.report import RunReport, StepReport
from pipeline_executor.results import PipelineResults
from pipeline_executor.task import PipelineTask
from pipeline_executor.version import __version__

__all__ = [
    "InactivityError",
    "MessageError",
    "PipelineError",
    "PipelineResults",
    "PipelineTask",
    "PipelineTypeError",
    "RunReport",
    "StepReport",
    "StoppedEarlyError",
    "TaskDied",
    "TaskError",
    "TaskFailure",
    "WorkerInfo",
    "__version__",
    "check_pipeline",
    "execute",
    "stream",
    "worker_info",
]
