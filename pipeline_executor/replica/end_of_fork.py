"""Ends a process that a step has forked and in which the step's code has returned or raised.

In a plain program the code that called the step would continue in the fork. Here that code is this library, which must
do nothing of the replica's work in a fork. So the fork ends as a process of multiprocessing whose target has returned
or raised, with the same exit code and traceback. No exit hooks run, because they belong to the process that registered
them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any, NoReturn

from pipeline_executor.frames import from_the_step

__all__ = ["end_fork"]


def end_fork(error: BaseException | None) -> NoReturn:
    """End this process, which a step has forked.

    Arguments:
        error: what the step's code has raised here; None if it has returned.
    """
    code = 1
    try:
        code = _exit_code(error)
        _wait_for_children_and_threads()
    except BaseException as second:
        code = 1
        _print(second)
    finally:
        with contextlib.suppress(Exception):  # the stream is closed or broken
            sys.stdout.flush()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        _print(error)
        return 1
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _print(error: BaseException) -> None:
    import traceback
    from multiprocessing import current_process

    text = "".join(traceback.format_exception(type(error), error, from_the_step(error.__traceback__)))
    sys.stderr.write(f"Process {os.getpid()}, forked by {current_process().name}:\n{text}")


def _wait_for_children_and_threads() -> None:
    # multiprocessing does the same at the end of its processes: it flushes queues and joins children and threads. The
    # children of the parent are taken out first, because a fork cannot join them.
    from multiprocessing import process, util

    children: set[Any] = getattr(process, "_children", set())
    children -= {child for child in children if child._parent_pid != os.getpid()}
    util._exit_function()  # type: ignore[attr-defined]
    threading._shutdown()  # type: ignore[attr-defined]
