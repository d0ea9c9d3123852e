"""The file that `keep_failed_item` writes and `python -m pipeline_executor replay` reads.

It is one pickle, a dict, so that `pickle.load` reads it where its classes can be imported. What the main script defines
is written by its name where the script can be imported again, as spawn does it, and by value elsewhere (a notebook,
`python -c`, a script without a main guard). So behind the pickle stands what has to be done before it can be read: a
second pickle, of plain values, its length in 8 bytes, and a mark.
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

#: Changed with the meaning of the file.
FORMAT = 2

_MARK = b"pipeline_executor kept item"


def write_kept(
    path: str | os.PathLike[str],
    function: Callable[..., Any],
    constants: Mapping[str, Any],
    items: Sequence[Any],
    about: Mapping[str, Any],
) -> None:
    """Write items of a step that failed, and what it takes to run the step on them.

    Arguments:
        items: in the order in which the step got them; the last is the one that it held.
        about: plain values that tell where they come from.

    Raises OSError where the file cannot be written, and whatever pickling the items raises.
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
    # In the same pickle as the items, so that a class which travels by value is one and the same for both.
    if _can_be_written(function, names):
        content["step_function"] = function
    data = dumps(content, names)
    before = pickle.dumps({"sys_path": list(sys.path), **_main_script(is_needed=bool(names))})
    with open(path, "wb") as file:
        file.write(data + before + len(before).to_bytes(8, "little") + _MARK)


def read_kept(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_kept` has written. Imports the main script that it came from, if it needs that.

    Raises OSError, ValueError for another file, and whatever importing or unpickling raises.
    """
    with open(path, "rb") as file:
        data = file.read()
    if not data.endswith(_MARK):
        raise ValueError(f"{os.fspath(path)} is not a file of this version's keep_failed_item")
    end = len(data) - len(_MARK) - 8
    start = end - int.from_bytes(data[end : end + 8], "little")
    before = pickle.loads(data[start:end])
    sys.path += [folder for folder in before["sys_path"] if folder not in sys.path]
    # As multiprocessing imports the main script in a child: under another name than `__main__`, so that what stands
    # behind its guard does not run, and then as `__main__` as well.
    if "init_main_from_name" in before:
        spawn._fixup_main_from_name(before["init_main_from_name"])  # type: ignore[attr-defined]
    elif "init_main_from_path" in before:
        spawn._fixup_main_from_path(before["init_main_from_path"])  # type: ignore[attr-defined]
    content = pickle.loads(data[:start])
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{os.fspath(path)} is not a file of this version's keep_failed_item")
    return content


def command_for(path: str | os.PathLike[str], function: Callable[..., Any]) -> str:
    """What to type to run the step on the kept items, quoted for this system's shell."""
    words = ["python", "-m", "pipeline_executor", "replay", os.fspath(path)]
    if _is_importable(function):
        words.append(_name_of(function))
    words.append("--pdb")
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', type(function).__module__)}:{name}"


def _is_importable(function: Callable[..., Any]) -> bool:
    """Whether `MODULE:FUNCTION` names it in another program."""
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
    except Exception:  # whatever its own code raises: it is named as missing
        return False
    return True
