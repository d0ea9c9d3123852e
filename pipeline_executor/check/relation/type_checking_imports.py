"""Find names that a module imports under `if TYPE_CHECKING:`.

Such a name does not exist when the module runs, but the import statement says where it comes from. Usually that module
is loaded already, because values of its types exist, and the name is looked up there. Nothing is imported here.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["type_checking_import"]


def type_checking_import(name: str, module_names: Mapping[str, Any]) -> object | None:
    """Return the object that a module imports under `if TYPE_CHECKING:` by a name.

    Arguments:
        name: the name.
        module_names: the namespace of the module.

    Returns:
        The object; None if there is no such import, or if the module to import from is not loaded.
    """
    path = module_names.get("__file__")
    if not isinstance(path, str):
        return None
    source = "".join(linecache.getlines(path))
    if "TYPE_CHECKING" not in source:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # the file has changed since, or it is not Python
        return None
    for statement in _checker_statements(tree):
        for alias in statement.names:
            if name == (alias.asname or alias.name.partition(".")[0]):
                return _loaded(statement, alias, module_names)
    return None


def _checker_statements(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            for statement in node.body:
                if isinstance(statement, (ast.Import, ast.ImportFrom)):
                    yield statement


def _loaded(statement: ast.Import | ast.ImportFrom, alias: ast.alias, module_names: Mapping[str, Any]) -> object | None:
    if isinstance(statement, ast.Import):
        return sys.modules.get(alias.name if alias.asname else alias.name.partition(".")[0])
    origin = statement.module or ""
    if statement.level:
        package = str(module_names.get("__package__") or "").split(".")
        above = package[: len(package) - statement.level + 1]
        origin = ".".join([*above, *([origin] if origin else [])])
    module = sys.modules.get(origin)
    found: object | None = getattr(module, alias.name, None)
    return found if found is not None else sys.modules.get(f"{origin}.{alias.name}")
