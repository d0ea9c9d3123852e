"""`python -m pipeline_executor replay`: run a step on the item that `execute(..., keep_failed_item=...)` has written.

The file is a pickle. Loading a pickle can run any code, so trust the file as you trust code.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pdb
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from pipeline_executor.check.signature import inspect_step
from pipeline_executor.engines.kept_file import read_kept
from pipeline_executor.errors import numbered_items
from pipeline_executor.interfaces import WorkerInfo
from pipeline_executor.replica.worker_info import set_worker_info
from pipeline_executor.task import PipelineTask
from pipeline_executor.words import bounded_repr

__all__ = ["main", "replay"]


def replay(function: Callable[..., Any], kept: dict[str, Any]) -> list[Any]:
    """Run the step on the kept items. There is one, unless the step had taken several for one output.

    Arguments:
        kept: the content of the file; see `read_kept`.

    Returns:
        The step's outputs; an empty list for a sink.

    Raises whatever the step raises.
    """
    set_worker_info(WorkerInfo(*kept["worker_info"]))
    try:
        signature = inspect_step(PipelineTask(function), 1, is_last=True)
        if signature.is_async:
            return _replay_async(function, kept, consumes=signature.consumes)
        result = function(iter(kept["items"]), **kept["constants"])
        return [] if result is None else list(result)
    finally:
        set_worker_info(None)


def _replay_async(function: Callable[..., Any], kept: dict[str, Any], *, consumes: bool) -> list[Any]:
    from pipeline_executor.engines.async_chain import ChainedItems, run_chained_sink

    items = iter(kept["items"])
    if consumes:
        run_chained_sink(function, kept["constants"], items)
        return []
    with contextlib.closing(ChainedItems(function, kept["constants"], items)) as outputs:
        return list(outputs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m pipeline_executor`. Returns the exit code: 0 if the step passed, 1 if it raised, 2 if it could not
    be run."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_executor")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("replay", help="run a step on the item that keep_failed_item has written")
    command.add_argument(
        "file", help="the file that keep_failed_item has written; a pickle: trust it as you trust code"
    )
    command.add_argument(
        "function", nargs="?", help="the step to run, as MODULE:FUNCTION; default: the one that failed"
    )
    command.add_argument("--pdb", action="store_true", help="if the step raises, start the debugger there")
    options = parser.parse_args(arguments)
    sys.path.insert(0, "")  # the step's module may be in the current directory
    try:
        kept = read_kept(options.file)
        function = _find(options.function) if options.function else _function_of(kept)
    except (OSError, ValueError, ImportError, AttributeError, pickle.UnpicklingError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    last, count = kept["item_index"], len(kept["items"])
    which = numbered_items(last - count + 1, last) + (", the last" if count > 1 else "")
    print(f"step {kept['step']} {kept['task']!r} on its {which}: {bounded_repr(kept['item'])}")
    if kept["constants_missing"]:
        missing = ", ".join(kept["constants_missing"])
        print(f"these constants could not be pickled and are missing in the file: {missing}", file=sys.stderr)
    try:
        outputs = replay(function, kept)
    except Exception as error:
        traceback.print_exc()
        if options.pdb:
            pdb.post_mortem(error.__traceback__)
        return 1
    for output in outputs:
        print(f"it yields {bounded_repr(output)}")
    print("it raised nothing")
    return 0


def _function_of(kept: dict[str, Any]) -> Callable[..., Any]:
    function: Callable[..., Any] | None = kept.get("step_function")
    return _find(kept["function"]) if function is None else function


def _find(name: str) -> Callable[..., Any]:
    module, _, path = name.partition(":")
    if not path or "<" in path:
        raise ValueError(f"{name!r} cannot be imported. Give the step as MODULE:FUNCTION, for example app:resize")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} is of type {type(found).__name__!r}. Give a function, as MODULE:FUNCTION")
    function: Callable[..., Any] = found
    return function
