"""Select the core, and tell which one is in use and why.

The environment variable `PIPELINE_EXECUTOR_CORE` chooses:

    compiled    the compiled core; an error if it is not available
    pure        the pure-Python core
    auto        the default: the compiled core if it is available, else the pure one; `reason()` then tells why

    >>> from pipeline_executor import backend
    >>> backend.name(), backend.reason()       # doctest: +SKIP
    ('compiled', 'the compiled core is installed')
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import cast

from .errors import PipelineError
from .interfaces import Core

__all__ = ["name", "reason", "select"]

_VARIABLE = "PIPELINE_EXECUTOR_CORE"
_BUILD_FAILURE = os.path.join(os.path.dirname(__file__), "_core_build_failure.txt")

_selected: dict[str, tuple[Core, str]] = {}


def select() -> Core:
    """Return the core that the environment variable asks for now.

    Raises:
        PipelineError: the variable has an unknown value, or asks for the compiled core, which is not available.
    """
    return _select()[0]


def name() -> str:
    """Return the name of the core in use: "compiled" or "pure"."""
    return select().NAME


def reason() -> str:
    """Return why that core is in use, as a sentence."""
    return _select()[1]


def _select() -> tuple[Core, str]:
    wish = os.environ.get(_VARIABLE, "") or "auto"
    if wish not in _selected:
        _selected[wish] = _load(wish)
    return _selected[wish]


def _load(wish: str) -> tuple[Core, str]:
    if wish not in ("auto", "compiled", "pure"):
        raise PipelineError(
            f"the environment variable {_VARIABLE} is {wish!r}; set it to 'compiled', 'pure' or 'auto', or unset it"
        )
    if wish == "pure":
        return _pure(), f"{_VARIABLE} asks for it"
    try:
        core = cast(Core, importlib.import_module("pipeline_executor._core"))
    except ImportError as error:
        why = _why_absent(error)
        if wish == "compiled":
            raise PipelineError(
                f"{_VARIABLE} asks for the compiled core, which is not available: {why}. "
                "Install a C++17 compiler and reinstall with PIPELINE_EXECUTOR_REQUIRE_CORE=1 to see what is missing, "
                f"or unset {_VARIABLE} to use the pure-Python core."
            ) from error
        return _pure(), f"the compiled core is not available: {why}"
    return core, f"{_VARIABLE} asks for it" if wish == "compiled" else "the compiled core is installed"


def _pure() -> Core:
    return cast(Core, importlib.import_module("pipeline_executor.fallback"))


def _why_absent(error: ImportError) -> str:
    with contextlib.suppress(FileNotFoundError), open(_BUILD_FAILURE, encoding="utf-8") as record:
        return record.read().strip()
    return str(error)
