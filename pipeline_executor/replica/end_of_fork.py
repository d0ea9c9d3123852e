"""The end of a fork in which a step's code has returned to us, or raised: as multiprocessing ends a process.

In a plain program the code that called the step would go on there. Here that is the engine, which has no business in a
fork: none of the step's duties is done, the exit code and the traceback are those of a process whose target has
returned or raised. No exit hook runs, for those belong to the process that has registered them.
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
    """End this process, a fork of a step's.

    Arguments:
        error: what the step's code has raised there; None: it has returned.
    """
    code = 1
    try:
        code = _exit_code(error)
        _wait_for_what_it_has_started()
    except BaseException as second:
        code = 1
        _print(second)
    finally:
        with contextlib.suppress(Exception):  # a closed or broken stream
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


def _wait_for_what_it_has_started() -> None:
    # As at the end of a process that multiprocessing has started: its queues are flushed, its children and threads
    # joined. Those of the process that it is a fork of are not its to end.
    from multiprocessing import process, util

    children: set[Any] = getattr(process, "_children", set())
    children -= {child for child in children if child._parent_pid != os.getpid()}
    util._exit_function()  # type: ignore[attr-defined]
    threading._shutdown()  # type: ignore[attr-defined]
