"""The file that `keep_failed_item` writes and `python -m pipeline_executor replay` reads.

Where the classes of its content can be imported, `pickle.load` reads the file. The parts of the file, in order:

| part | what it holds |
|---|---|
| content | a pickled dict: see `write_kept` |
| preparation | a pickled dict of plain values: the `sys.path` and the main script that the content needs |
| length | of the preparation, in 8 bytes, little-endian |
| mark | `_MARK` |

What the main script defines is pickled by name if the script can be imported again, as spawn does it. Else it is
pickled by value: in a notebook, under `python -c`, and for a script without a main guard.
"""

from __future__ import annotations

import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import spawn
from typing import Any

__all__ = ["command_for", "read_kept", "write_kept"]

#: The version of the format. Increased when the meaning of the content changes.
FORMAT = 2

_MARK = b"pipeline_executor kept item"


def write_kept(
    path: str | os.PathLike[str],
    function: Callable[..., Any],
    constants: Mapping[str, Any],
    items: Sequence[Any],
    about: Mapping[str, Any],
) -> None:
    """Write items of a failed step, and what is needed to run the step on them.

    Arguments:
        items: in the order in which the step got them. It held the last one.
        about: plain values that say where the items come from.

    Raises OSError if the file cannot be written, and whatever pickling the items raises.
    """
    from pipeline_executor.engines.payload import dumps, names_that_children_import

    names = names_that_children_import(only_guarded=True)
    kept_constants = {name: value for name, value in constants.items() if _can_be_written(value, names)}
    content = {
        "format": FORMAT,
        **about,
        "function": _name_of(function),
        "item": items[-1],
        "items": list(items),
        "constants": kept_constants,
        "constants_missing": sorted(set(constants) - set(kept_constants)),
    }
    # In the same pickle as the items: a class that is pickled by value must be the same class for both.
    if _can_be_written(function, names):
        content["step_function"] = function
    data = dumps(content, names)
    before = pickle.dumps({"sys_path": list(sys.path), **_main_script(is_needed=bool(names))})
    with open(path, "wb") as file:
        file.write(data + before + len(before).to_bytes(8, "little") + _MARK)


def read_kept(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content that `write_kept` has written. If it needs the main script, import that first.

    Raises OSError, ValueError for a file of another kind, and whatever importing or unpickling raises.
    """
    with open(path, "rb") as file:
        data = file.read()
    if not data.endswith(_MARK):
        raise ValueError(_not_of_this_version(path))
    end = len(data) - len(_MARK) - 8
    start = end - int.from_bytes(data[end : end + 8], "little")
    before = pickle.loads(data[start:end])
    sys.path += [folder for folder in before["sys_path"] if folder not in sys.path]
    # multiprocessing's own import of the main script. It imports the script under another name than `__main__`, so that
    # the code behind the main guard does not run, and then makes the module available as `__main__`, too.
    if "init_main_from_name" in before:
        spawn._fixup_main_from_name(before["init_main_from_name"])  # type: ignore[attr-defined]
    elif "init_main_from_path" in before:
        spawn._fixup_main_from_path(before["init_main_from_path"])  # type: ignore[attr-defined]
    content = pickle.loads(data[:start])
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(_not_of_this_version(path))
    return content


def _not_of_this_version(path: str | os.PathLike[str]) -> str:
    return (
        f"{os.fspath(path)} was not written by keep_failed_item of this version of pipeline_executor. Replay it with "
        "the version that wrote it"
    )


def command_for(path: str | os.PathLike[str], function: Callable[..., Any]) -> str:
    """Return the shell command that runs the step on the kept items."""
    words = ["python", "-m", "pipeline_executor", "replay", os.fspath(path)]
    if _is_importable(function):
        words.append(_name_of(function))
    words.append("--pdb")
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', type(function).__module__)}:{name}"


def _is_importable(function: Callable[..., Any]) -> bool:
    """Whether another program finds the function as `MODULE:FUNCTION`."""
    module = getattr(function, "__module__", None)
    if module is None or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for name in getattr(function, "__qualname__", "<nameless>").split("."):
        found = getattr(found, name, None)
    return found is function


def _main_script(*, is_needed: bool) -> dict[str, str]:
    if not is_needed:
        return {}
    prepared = spawn.get_preparation_data("")
    if "init_main_from_name" in prepared:
        return {"init_main_from_name": prepared["init_main_from_name"]}
    return {"init_main_from_path": os.path.abspath(prepared["init_main_from_path"])}


def _can_be_written(value: Any, names: frozenset[str]) -> bool:
    from pipeline_executor.engines.payload import dumps

    try:
        dumps(value, names)
    except Exception:  # of the value's own pickling code. The file lists this constant as missing
        return False
    return True
