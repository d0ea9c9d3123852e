"""Names under `if TYPE_CHECKING:`: found if their module is loaded, else accepted with a warning."""

from __future__ import annotations

import importlib.util
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_executor.check import check_definition
from pipeline_executor.check.relation.type_checking_imports import type_checking_import
from pipeline_executor.errors import PipelineTypeError
from pipeline_executor.task import PipelineTask

GUARDED = """
from __future__ import annotations
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import decimal as numbers_of_money
    import email.message
    import module_that_nobody_has.inner
    from decimal import Decimal, Decimal as Money
    from . import sibling
    from module_that_nobody_has import Thing

if typing.TYPE_CHECKING:
    from fractions import Fraction

def decimals() -> Iterable[Decimal]: ...
def money() -> Iterable[Money]: ...
def by_module() -> Iterable[numbers_of_money.Decimal]: ...
def fractions() -> Iterable[Fraction]: ...
def things() -> Iterable[Thing]: ...
def takes_decimals(xs: Iterable[Decimal]) -> None: ...
def takes_strings(xs: Iterable[str]) -> None: ...
def takes_things(xs: Iterable[Thing]) -> None: ...
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], types.ModuleType]:
    def make(text: str) -> types.ModuleType:
        path = tmp_path / "guarded_module.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("guarded_module", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return make


def check(*steps: Any) -> None:
    check_definition([PipelineTask(step) for step in steps])


@pytest.mark.parametrize("source", ["decimals", "money", "by_module"])
def test_guarded_name_of_a_loaded_module_is_checked(make: Callable[[str], types.ModuleType], source: str) -> None:
    import decimal  # noqa: F401 - somebody has loaded it

    module = make(GUARDED)
    check(getattr(module, source), module.takes_decimals)
    with pytest.raises(PipelineTypeError, match=r"produces Iterable\[Decimal\], accepts Iterable\[str\]"):
        check(getattr(module, source), module.takes_strings)


def test_guarded_name_under_the_long_form_of_the_guard(make: Callable[[str], types.ModuleType]) -> None:
    import fractions  # noqa: F401 - somebody has loaded it

    module = make(GUARDED)
    with pytest.raises(PipelineTypeError, match=r"produces Iterable\[Fraction\], accepts Iterable\[Decimal\]"):
        check(module.fractions, module.takes_decimals)


def test_guarded_name_of_a_module_that_is_not_loaded_warns_and_passes(
    make: Callable[[str], types.ModuleType],
) -> None:
    module = make(GUARDED)
    with pytest.warns(UserWarning, match="Thing cannot be resolved at run time"):
        check(module.things, module.takes_strings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(module.things, module.takes_things)


def test_checker_import_finds_nothing_else(make: Callable[[str], types.ModuleType]) -> None:
    names = vars(make(GUARDED))
    assert type_checking_import("Decimal", names) is __import__("decimal").Decimal
    assert type_checking_import("email", names) is __import__("email")
    assert type_checking_import("module_that_nobody_has", names) is None
    assert type_checking_import("sibling", names) is None
    assert type_checking_import("Iterable", names) is None
    assert type_checking_import("nowhere", names) is None
    assert type_checking_import("Decimal", {}) is None
    assert type_checking_import("Decimal", {"__file__": "no_such_file.py"}) is None


def test_checker_import_of_a_file_that_changed_to_something_else(make: Callable[[str], types.ModuleType]) -> None:
    module = make("TYPE_CHECKING = 1")
    assert module.__file__ is not None
    Path(module.__file__).write_text("if TYPE_CHECKING: ((")
    assert type_checking_import("Decimal", vars(module)) is None
