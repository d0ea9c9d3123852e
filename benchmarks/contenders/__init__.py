"""The contenders: one module for each library, with one function for each way to use it.

Such a function imports the library and returns a `Run`. Only the call of the `Run` is timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.pipeline import NotInstalledError, Run

__all__ = ["CONTENDERS", "Contender", "prepare"]


@dataclass(frozen=True)
class Contender:
    """One way to run a pipeline.

    Attributes:
        title: its name in reports.
        prepare: the function that returns its `Run`, as "module:function" in this package.
        module: the module that must be installed; "" for the standard library and this library.
    """

    title: str
    prepare: str
    module: str = ""


CONTENDERS = {
    "compiled": Contender("pipeline_executor, compiled core", "ours:compiled"),
    "pure": Contender("pipeline_executor, pure core", "ours:pure"),
    "compiled-spawn": Contender("pipeline_executor, compiled core, spawn", "ours:compiled_spawn"),
    "pure-spawn": Contender("pipeline_executor, pure core, spawn", "ours:pure_spawn"),
    "compiled-threads": Contender("pipeline_executor, compiled core, threads", "ours:compiled_threads"),
    "pure-threads": Contender("pipeline_executor, pure core, threads", "ours:pure_threads"),
    "one-process": Contender("one process, the generators chained", "bare:one_process"),
    "pickle-limit": Contender("limit: cores / (hops × (dumps + loads))", "bare:one_process"),
    "copy-limit": Contender("limit: one copy for each hop", "bare:one_process", "numpy"),
    "bare-spawn": Contender("limit: three processes that do nothing, spawn", "bare:nothing_spawned"),
    "bare-processes": Contender("processes that share no data", "bare:separate_processes"),
    "pipeline-lib": Contender("pipeline-lib, fork, shared memory", "of_pipeline_lib:fork", "pipeline_lib"),
    "pipeline-lib-shared": Contender("pipeline-lib, fork, shared_buffer", "of_pipeline_lib:shared", "pipeline_lib"),
    "pipeline-lib-threads": Contender("pipeline-lib, threads", "of_pipeline_lib:threads", "pipeline_lib"),
    "pipeline-lib-spawn": Contender("pipeline-lib, spawn, shared memory", "of_pipeline_lib:spawn", "pipeline_lib"),
    "queue": Contender("multiprocessing.Queue by hand", "queues:queue"),
    "simple-queue": Contender("multiprocessing.SimpleQueue by hand", "queues:simple_queue"),
    "thread-queue": Contender("queue.SimpleQueue by hand, threads", "queues:thread_queue"),
    "faster-fifo": Contender("faster-fifo by hand", "queues:faster_fifo", "faster_fifo"),
    "pool-imap": Contender("Pool.imap", "pools:pool_imap"),
    "mpire": Contender("mpire, imap", "pools:mpire", "mpire"),
    "pypeln": Contender("pypeln, processes", "of_pypeln:processes", "pypeln"),
    "spdl": Contender("SPDL, threads", "of_spdl:threads", "spdl"),
    "dataloader": Contender("PyTorch DataLoader, one hop", "of_torch:dataloader", "torch"),
}


def prepare(name: str) -> Run:
    """Import the contender's library and return its `Run`. Raise NotInstalledError if the library is missing."""
    contender = CONTENDERS[name]
    module_name, _, function_name = contender.prepare.partition(":")
    module = importlib.import_module(f"{__name__}.{module_name}")
    function: Callable[[], Run] = getattr(module, function_name)
    try:
        return function()
    except ImportError as error:
        raise NotInstalledError(str(error)) from error
