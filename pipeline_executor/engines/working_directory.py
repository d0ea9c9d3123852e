"""Whether the directory that relative paths start from still exists. If not, an error names everything but that."""

from __future__ import annotations

import os

__all__ = ["lacks_working_directory", "working_directory_is_gone"]


def working_directory_is_gone() -> bool:
    """Whether this program's working directory has been deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def lacks_working_directory(error: BaseException) -> bool:
    """Whether an error is that of a path which starts from a working directory that has been deleted."""
    if not isinstance(error, FileNotFoundError):
        return False
    name = error.filename
    is_relative = name is None or (isinstance(name, (str, bytes)) and not os.path.isabs(name))
    return is_relative and working_directory_is_gone()
