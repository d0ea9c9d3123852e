"""What tests share has its place: support modules in tests/support, and the system's capabilities in one of these."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
MODULES = {path.relative_to(TESTS).as_posix(): path for path in sorted(TESTS.rglob("*.py"))}

#: How a program asks which system it runs on, or what that offers.
ASKS = re.compile(r"sys\.platform|os\.name|hasattr\((os|signal|socket), |platform\.system\(")


@functools.cache  # reads all files
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def asks(tree: ast.Module) -> bool:
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Call))
    return any(ASKS.match(ast.unparse(node)) for node in found)


def test_what_the_system_can_do_is_asked_in_capabilities_alone() -> None:
    mentioning = [name for name, path in MODULES.items() if ASKS.search(path.read_text(encoding="utf-8"))]
    assert [name for name in mentioning if asks(trees()[name])] == ["support/capabilities.py"]


def test_no_module_imports_a_test_module() -> None:
    # A test module can be imported only while tests of its own folder are collected.
    for name, tree in trees().items():
        for node in ast.walk(tree):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            assert not any(re.match(r"test_|conftest$", each) for each in imported), f"{name}: {ast.unparse(node)}"


def test_no_two_modules_have_the_same_name() -> None:
    # pytest, mypy and children that are spawned know them by their names without folders.
    names = [path.name for path in MODULES.values()]
    assert sorted(names) == sorted(set(names))
