"""Pickles a step's function and constants for another process.

Under fork a child inherits them. Under spawn and forkserver they are sent as bytes, written by cloudpickle, so that
lambdas, closures and definitions of a notebook work. Two things need care:

* Objects of `multiprocessing` (locks, queues, values) can be pickled only while a child is being started. `Payload`
  tries to pickle them before anything is started, with a stand-in for the child, and pickles them anew for each child.
* Each child imports the main script again. What the script defines is pickled by name, so that a message's class is the
  same class in every process. What exists only in the caller's `__main__` is pickled by value.
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

__all__ = ["Payload", "dumps", "names_that_children_import", "number_unimportable_classes", "payloads_of"]


class _UnpicklableConstant(Exception):
    """A part of a step cannot be pickled. `what` is the constant's name, or None for the function itself."""

    def __init__(self, what: str | None, error: Exception) -> None:
        super().__init__(what, error)
        self.what = what
        self.error = error


#: A pipe takes 64 KiB on Linux and at least 16 KiB elsewhere, and the rest of a `Launch` needs some of it.
_MAX_BYTES_IN_PIPE = 8_000


class Payload:
    """One step's function and constants, ready to be sent to any number of children.

    Arguments:
        main_names: the names that `__main__` will have in these children; see `names_that_children_import`.

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
        """Return what is to be sent to the child that is being started right now."""
        return self._reusable if self._reusable is not None else self._to_send(dumps(self._content, self._main_names))

    def _to_send(self, data: bytes) -> bytes | SharedBytes:
        if len(data) <= _MAX_BYTES_IN_PIPE or sys.platform == "win32":
            return data
        self._shared.append(SharedBytes(data))
        return self._shared[-1]

    def close(self) -> None:
        """Free the files. To be called when all children have ended and no other will be started."""
        while self._shared:
            self._shared.pop().close()


def payloads_of(steps: Iterable[StepPlan], main_names: frozenset[str]) -> dict[int, Payload]:
    """Return a payload for each of these steps, by the step's index. For `main_names` see `Payload`.

    Raises PipelineTypeError, which names every function and constant that cannot be pickled.
    """
    payloads = {}
    defects = []
    for step in steps:
        try:
            payloads[step.index] = Payload(step.function, step.constants, main_names)
        except _UnpicklableConstant as error:
            part = "its function" if error.what is None else f"constant {error.what!r}"
            defects.append(
                f"step {step.index} {step.name!r}: {part} cannot be pickled, as the start methods spawn and forkserver "
                f"require: {type(error.error).__name__}: {error.error}\n"
                "    Create the object inside the step, or use parallelism='process-fork'."
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


def number_unimportable_classes(functions: Iterable[Callable[..., Any]]) -> None:
    """Before a fork, have cloudpickle number the classes that the functions use and that no process can import.

    These are the classes defined inside a function, and those of a script that is not the module `__main__`, as under
    `python -m cProfile`. All processes of the run inherit the numbers. By them a message's class is the same class in
    each process.
    """
    for function in functions:
        for unnamed in (function, *_classes_beside(function)):
            with contextlib.suppress(Exception):  # under fork the function itself is never sent
                # Only the numbering is wanted: the bytes are dropped, and large arrays are not copied.
                cloudpickle_dumps(unnamed, plain_table(), lambda _: None)


def _classes_beside(function: Callable[..., Any]) -> list[type]:
    """Return the classes of the function's script, if the script is not the module `__main__`."""
    names: dict[str, Any] = getattr(function, "__globals__", {})
    if "<locals>" in getattr(function, "__qualname__", "") or names is vars(sys.modules["__main__"]):
        return []
    return [value for value in names.values() if isinstance(value, type) and value.__module__ == "__main__"]


class _StandInChild:
    """Takes the place of a child that is being started, which objects of `multiprocessing` need to be pickled."""

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
    """Pickle for a process in which `__main__` has these names. They are written by name, the rest of it by value."""
    stream = io.BytesIO()
    _Pickler(stream, main_names).dump(content)
    return stream.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, stream: io.BytesIO, main_names: frozenset[str]) -> None:
        # multiprocessing has reducers for connections, sockets and shared values. The table must be complete before the
        # pickler is initialised, which reads it once.
        of_multiprocessing = multiprocessing.reduction.ForkingPickler(io.BytesIO()).dispatch_table
        self.dispatch_table = ChainMap(look_alikes(), cloudpickle.Pickler.dispatch_table, of_multiprocessing)
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._main_names = main_names

    def reducer_override(self, obj: Any) -> Any:
        if (reduced := reduce_in_message(obj)) is not NotImplemented:
            return reduced
        if isinstance(obj, (FunctionType, type)) and is_found_by_name(obj, self._main_names):
            return NotImplemented  # so that pickle writes only its name
        return super().reducer_override(obj)


def names_that_children_import(*, only_guarded: bool = False) -> frozenset[str]:
    """Return the names that `__main__` will have in a child under spawn or forkserver.

    Arguments:
        only_guarded: return no names if the script has no main guard, because its import would run the program again.
    """
    prepared = spawn.get_preparation_data("")
    name = prepared.get("init_main_from_name", "")
    if name == "__main__" or name.endswith(".__main__"):
        return frozenset()  # `python -m package` or `python folder`, which multiprocessing does not import
    if "init_main_from_name" not in prepared and "init_main_from_path" not in prepared:
        return frozenset()  # an interactive session or `python -c`: there is no script to import
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
            # Assignments (of a NamedTuple or a lambda, for example) and imports, at any depth.
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
