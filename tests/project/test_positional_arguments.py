"""Functions whose calls stay readable: at most five arguments by position; every further one is keyword-only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline_executor

PACKAGE = Path(pipeline_executor.__file__).parent
MAX_POSITIONAL = 5


def functions_with_too_many(source: str) -> Iterator[tuple[int, str, int]]:
    """(line, name, number of arguments) of each function that takes too many by position, `self` not counted."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > MAX_POSITIONAL:
            yield node.lineno, node.name, count


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(a, b, c, d, e): ...", []),
        ("def f(a, b, c, d, e, *, f, g): ...", []),
        ("def f(a, b, c, /, d, e, f=0): ...", [(1, "f", 6)]),
        ("class C:\n    def f(self, a, b, c, d, e): ...", []),
        ("class C:\n    async def f(self, a, b, c, d, e, f): ...", [(2, "f", 6)]),
    ],
)
def test_functions_with_too_many_positional_arguments_are_found(
    source: str, expected: list[tuple[int, str, int]]
) -> None:
    assert list(functions_with_too_many(source)) == expected


def test_no_function_takes_more_than_five_positional_arguments() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}() takes {count}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, name, count in functions_with_too_many(path.read_text(encoding="utf-8"))
    ]
    assert not found, "make further arguments keyword-only, or pass one record of them:\n" + "\n".join(found)
