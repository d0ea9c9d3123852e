"""Whether the program's working directory still exists.

If it does not, relative paths fail with a FileNotFoundError that does not mention the directory.
"""

from __future__ import annotations

import os

__all__ = ["lacks_working_directory", "working_directory_is_gone"]


def working_directory_is_gone() -> bool:
    """Whether the working directory of this program has been deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def lacks_working_directory(error: BaseException) -> bool:
    """Whether the error comes from a relative path, and the working directory has been deleted."""
    if not isinstance(error, FileNotFoundError):
        return False
    name = error.filename
    is_relative = name is None or (isinstance(name, (str, bytes)) and not os.path.isabs(name))
    return is_relative and working_directory_is_gone()
