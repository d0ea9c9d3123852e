"""A step's function and constants on their way into another process.

Under fork they are simply there. Under spawn and forkserver they travel as bytes, written by cloudpickle, so that
lambdas, closures and what is defined in a notebook work. Two things need care:

* What `multiprocessing` made (locks, queues, values) can be pickled only while a child is being started. `Payload`
  tries before anything starts, under a stand-in for the child, and writes such constants anew for each child.
* A script's `__main__` is imported again in each child. What the script defines there travels by name, so that a
  class of a message is the same class everywhere; what exists only in the caller travels by value.
"""

from __future__ import annotations

import ast
import contextlib
import io
import multiprocessing.context
import multiprocessing.reduction
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import spawn
from types import FunctionType
from typing import Any

import cloudpickle

from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.exceptions_by_parts import reduce_in_message
from pipeline_executor.pickling import cloudpickle_dumps, is_found_by_name
from pipeline_executor.plan import StepPlan
from pipeline_executor.reducers import look_alikes, plain_table
from pipeline_executor.replica.shared_bytes import SharedBytes

__all__ = ["Payload", "dumps", "introduce", "names_that_children_import", "payloads_of"]


class _UnpicklableConstant(Exception):
    """A part of a step cannot travel. `what` is the constant's name, or None for the function itself."""

    def __init__(self, what: str | None, error: Exception) -> None:
        super().__init__(what, error)
        self.what = what
        self.error = error


#: Bytes. A pipe takes 64 KiB on Linux and 16 KiB at the least elsewhere; the rest of a launch takes some of it.
_MAX_BYTES_IN_PIPE = 8_000


class Payload:
    """One step's function and constants, ready to be sent to any number of children.

    Arguments:
        main_names: what `__main__` will have in these children; see `names_that_children_import`.

    Raises _UnpicklableConstant if they cannot be sent.
    """

    def __init__(self, function: Callable[..., Any], constants: Mapping[str, Any], main_names: frozenset[str]) -> None:
        self._content = (function, dict(constants))
        self._main_names = main_names
        self._reusable: bytes | SharedBytes | None = None
        self._shared: list[SharedBytes] = []
        with _StandInChild() as child:
            try:
                data = dumps(self._content, self._main_names)
            except Exception as error:
                raise self._culprit(error) from error
        if not child.asked:
            self._reusable = self._to_send(data)

    def _culprit(self, error: Exception) -> _UnpicklableConstant:
        function, constants = self._content
        for what, part in [(None, function), *constants.items()]:
            try:
                dumps(part, self._main_names)
            except Exception as own_error:
                return _UnpicklableConstant(what, own_error)
        return _UnpicklableConstant(None, error)

    def to_send(self) -> bytes | SharedBytes:
        """For the child that is being started right now."""
        return self._reusable if self._reusable is not None else self._to_send(dumps(self._content, self._main_names))

    def _to_send(self, data: bytes) -> bytes | SharedBytes:
        if len(data) <= _MAX_BYTES_IN_PIPE or sys.platform == "win32":
            return data
        self._shared.append(SharedBytes(data))
        return self._shared[-1]

    def close(self) -> None:
        """When no child will be started any more and all that were have ended."""
        while self._shared:
            self._shared.pop().close()


def payloads_of(steps: Iterable[StepPlan], main_names: frozenset[str]) -> dict[int, Payload]:
    """One payload for each of these steps, by the step's index. For `main_names` see `Payload`.

    Raises PipelineTypeError that names every function and constant that cannot be sent.
    """
    payloads = {}
    defects = []
    for step in steps:
        try:
            payloads[step.index] = Payload(step.function, step.constants, main_names)
        except _UnpicklableConstant as error:
            part = "its function" if error.what is None else f"constant {error.what!r}"
            defects.append(
                f"step {step.index} {step.name!r}: {part} cannot be pickled, which the start methods spawn and "
                f"forkserver need: {type(error.error).__name__}: {error.error}\n"
                "    Make it inside the step, or use parallelism='process-fork'."
            )
    if defects:
        for payload in payloads.values():
            payload.close()
        raise PipelineTypeError(
            f"{len(defects)} defect{'s' * (len(defects) > 1)} in the pipeline; nothing was started\n  "
            + "\n  ".join(defects),
            defects,
        )
    return payloads


def introduce(functions: Iterable[Callable[..., Any]]) -> None:
    """Before a fork: let cloudpickle number the classes that the functions use and that no process could import: those
    defined inside a function, and those of a script that is no module, as under `python -m cProfile`. All processes of
    the run inherit the numbers, so that a message's class is the same class in each."""
    for function in functions:
        for unnamed in (function, *_classes_beside(function)):
            with contextlib.suppress(Exception):  # what cannot be pickled need not be, under fork
                # The bytes are not wanted, and the buffers of large arrays are not even copied.
                cloudpickle_dumps(unnamed, plain_table(), lambda _: None)


def _classes_beside(function: Callable[..., Any]) -> list[type]:
    """The classes of a function's script, where that is no module; see `must_be_introduced`."""
    names: dict[str, Any] = getattr(function, "__globals__", {})
    if "<locals>" in getattr(function, "__qualname__", "") or names is vars(sys.modules["__main__"]):
        return []
    return [value for value in names.values() if isinstance(value, type) and value.__module__ == "__main__"]


class _StandInChild:
    """Answers, in place of a child that is being started, what pickling `multiprocessing` objects asks of one."""

    def __init__(self) -> None:
        self.asked = False

    def duplicate_for_child(self, descriptor: int) -> int:
        self.asked = True
        return descriptor

    def DupFd(self, descriptor: int) -> int:  # noqa: N802  (multiprocessing's name)
        return descriptor

    def __enter__(self) -> _StandInChild:
        multiprocessing.context.set_spawning_popen(self)  # type: ignore[arg-type]
        return self

    def __exit__(self, *_: object) -> None:
        multiprocessing.context.set_spawning_popen(None)


def dumps(content: Any, main_names: frozenset[str]) -> bytes:
    """Pickle for a process in which `__main__` has these names: they are written by name, what else it defines by
    value."""
    stream = io.BytesIO()
    _Pickler(stream, main_names).dump(content)
    return stream.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, stream: io.BytesIO, main_names: frozenset[str]) -> None:
        # With the reducers that multiprocessing registered: connections, sockets, shared values. The pickler looks at
        # its table once, when it is initialised.
        theirs = multiprocessing.reduction.ForkingPickler(io.BytesIO()).dispatch_table
        self.dispatch_table = ChainMap(look_alikes(), cloudpickle.Pickler.dispatch_table, theirs)
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._main_names = main_names

    def reducer_override(self, obj: Any) -> Any:
        if (reduced := reduce_in_message(obj)) is not NotImplemented:
            return reduced
        if isinstance(obj, (FunctionType, type)) and is_found_by_name(obj, self._main_names):
            return NotImplemented  # by name, as plain pickle does
        return super().reducer_override(obj)


def names_that_children_import(*, only_guarded: bool = False) -> frozenset[str]:
    """The names that `__main__` will have in a child under spawn or forkserver.

    Arguments:
        only_guarded: none if the script has no main guard, so that whoever imports it runs the program again.
    """
    prepared = spawn.get_preparation_data("")
    name = prepared.get("init_main_from_name", "")
    if name == "__main__" or name.endswith(".__main__"):
        return frozenset()  # `python -m package`, `python folder`: multiprocessing does not import these
    if "init_main_from_name" not in prepared and "init_main_from_path" not in prepared:
        return frozenset()  # an interactive session, `python -c`: there is nothing to import
    path = getattr(sys.modules["__main__"], "__file__", None)
    try:
        with open(path or "", "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    if only_guarded and not any(map(_is_main_guard, tree.body)):
        return frozenset()
    return frozenset(_bound_names(tree.body))


def _bound_names(statements: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif not _is_main_guard(statement):
            # Assignments (a NamedTuple, a lambda) and imports, wherever they stand.
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.id)
                elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    names.add(node.name)
                elif isinstance(node, ast.alias):
                    names.add((node.asname or node.name).partition(".")[0])
    return names


def _is_main_guard(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.If):
        return False
    names = [node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)]
    return "__name__" in names
