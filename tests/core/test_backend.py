"""Which core is in use, and why: the environment's wish, the fallback, and what an import costs."""

from __future__ import annotations

import importlib
import importlib.machinery
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import steps
from capabilities import HAS_COMPILED_CORE

import pipeline_executor
from pipeline_executor import PipelineError, PipelineTask, backend, execute
from pipeline_executor.interfaces import EdgeLayout, RunLayout

PACKAGE_PARENT = str(Path(pipeline_executor.__file__).parents[1])

#: Where the build makes the compiled core, and an install without it is a failed one.

needs_compiled = pytest.mark.skipif(not HAS_COMPILED_CORE, reason="there is no compiled core for this system yet")


def run_python(text: str, wish: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": PACKAGE_PARENT}
    environment.pop("PIPELINE_EXECUTOR_CORE", None)
    if wish is not None:
        environment["PIPELINE_EXECUTOR_CORE"] = wish
    return subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=False)


def output_of(text: str, wish: str | None = None) -> list[str]:
    program = run_python(text, wish)
    assert (program.returncode, program.stderr) == (0, "")
    return program.stdout.splitlines()


# ---- the compiled core really loaded


def test_compiled_core_is_what_a_plain_install_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails, and does not skip, where the build should have made the compiled core."""
    monkeypatch.delenv("PIPELINE_EXECUTOR_CORE", raising=False)
    if not HAS_COMPILED_CORE:
        assert backend.name() == "pure"
        assert backend.reason().startswith("the compiled core is not available: ")
        return
    assert (backend.name(), backend.reason()) == ("compiled", "the compiled core is installed")
    core = importlib.import_module("pipeline_executor._core")
    assert core.__file__ is not None
    assert core.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
    assert isinstance(core.__loader__, importlib.machinery.ExtensionFileLoader)
    assert Path(core.__file__).parent == Path(backend.__file__).parent


@needs_compiled
def test_compiled_core_makes_the_runs() -> None:
    assert modules_of_a_run("compiled") == {"pipeline_executor._core"}


def test_pure_core_makes_the_runs() -> None:
    assert {module.rpartition(".")[0] for module in modules_of_a_run("pure")} == {"pipeline_executor.fallback"}


def modules_of_a_run(wish: str) -> set[str]:
    """Where the classes of a run's parts are defined."""
    context = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_EXECUTOR_CORE", wish)
        run = backend.select().open_run(RunLayout((EdgeLayout(1, 1),), 2), context)
    parts = [run, run.ledger, run.sender(0, 0, None), run.receiver(0, 1)]
    modules = {type(part).__module__ for part in parts}
    del parts
    run.close()
    return modules


# ---- the wish


@needs_compiled
def test_wish_compiled_is_fulfilled() -> None:
    assert output_of("from pipeline_executor import backend as b; print(b.name()); print(b.reason())", "compiled") == [
        "compiled",
        "PIPELINE_EXECUTOR_CORE asks for it",
    ]


def test_wish_pure_is_fulfilled_without_a_look_at_the_other() -> None:
    text = (
        "import sys; from pipeline_executor import backend as b; print(b.name()); print(b.reason());"
        "print('pipeline_executor._core' in sys.modules)"
    )
    assert output_of(text, "pure") == ["pure", "PIPELINE_EXECUTOR_CORE asks for it", "False"]


@pytest.mark.parametrize("wish", [None, "", "auto"])
def test_wish_auto_is_the_default(wish: str | None) -> None:
    expected = "compiled" if HAS_COMPILED_CORE else "pure"
    assert output_of("from pipeline_executor import backend; print(backend.name())", wish) == [expected]


@pytest.mark.parametrize("wish", ["Compiled", "nonsense", " pure", "0"])
def test_wish_nonsense_is_an_error_before_anything_starts(
    wish: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", wish)
    for ask in (backend.name, backend.reason, backend.select):
        with pytest.raises(PipelineError) as caught:
            ask()
        assert str(caught.value) == (
            f"the environment variable PIPELINE_EXECUTOR_CORE is {wish!r}; "
            "set it to 'compiled', 'pure' or 'auto', or unset it"
        )
    with pytest.raises(PipelineError, match="PIPELINE_EXECUTOR_CORE is"):
        execute([PipelineTask(steps.note_the_end, {"items": [], "path": tmp_path / "ran"})], type_check_pipeline=False)
    assert not (tmp_path / "ran").exists()


def test_wish_is_read_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for wish in ("pure", "nonsense", "pure"):
        monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", wish)
        if wish == "pure":
            assert backend.name() == "pure"
        else:
            with pytest.raises(PipelineError):
                backend.name()


# ---- without the compiled core

BLOCKER = """\
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "pipeline_executor._core":
            raise ImportError("blocked for the test")

sys.meta_path.insert(0, Blocker())

from collections.abc import Iterable
from pipeline_executor import PipelineError, PipelineTask, backend, execute

def count() -> Iterable[int]:
    yield from range(3)

def total() -> int | str:
    try:
        return sum(execute([PipelineTask(count)]))
    except PipelineError as error:
        return str(error)
"""


def test_forced_compiled_without_it_is_a_clear_error() -> None:
    (text,) = output_of(BLOCKER + "print(total())", "compiled")
    assert text.startswith("PIPELINE_EXECUTOR_CORE asks for the compiled core, which is not available: ")
    assert "PIPELINE_EXECUTOR_REQUIRE_CORE=1" in text  # what to do to see the reason
    assert "unset PIPELINE_EXECUTOR_CORE" in text  # what to do otherwise


@needs_compiled
def test_forced_compiled_without_it_tells_why() -> None:
    (text,) = output_of(BLOCKER + "print(total())", "compiled")
    assert "which is not available: blocked for the test." in text


def test_auto_without_it_falls_back_and_keeps_the_reason() -> None:
    name, reason, result = output_of(BLOCKER + "print(backend.name(), backend.reason(), total(), sep='\\n')", "auto")
    assert (name, result) == ("pure", "3")
    assert reason.startswith("the compiled core is not available: ")
    if HAS_COMPILED_CORE:
        assert reason.endswith("blocked for the test")


def test_auto_without_it_tells_why_the_build_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the build left behind says more than "no module named"."""
    record = tmp_path / "record.txt"
    record.write_text("compiling it failed: c++ ended with exit status 1\n", encoding="utf-8")
    monkeypatch.setattr(backend, "_BUILD_FAILURE", record)
    monkeypatch.setattr(backend, "_selected", {})
    monkeypatch.setitem(sys.modules, "pipeline_executor._core", None)
    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", "auto")
    assert backend.name() == "pure"
    expected = "the compiled core is not available: compiling it failed: c++ ended with exit status 1"
    assert backend.reason() == expected


# ---- what an import brings


@pytest.mark.parametrize("wish", ["compiled", "pure"])
@pytest.mark.parametrize("module", ["numpy", "typeguard", "rich", "ray"])
def test_import_does_not_bring(module: str, wish: str) -> None:
    if wish == "compiled" and not HAS_COMPILED_CORE:
        wish = "auto"
    text = (
        "import sys, pipeline_executor; from pipeline_executor import backend; backend.select();"
        f"print({module!r} in sys.modules)"
    )
    assert output_of(text, wish) == ["False"]


def test_run_does_not_bring_numpy() -> None:
    text = BLOCKER.partition("sys.meta_path")[0] + BLOCKER.partition("Blocker())\n")[2]
    assert output_of(
        text + "print(total(), [name for name in ('numpy', 'typeguard', 'rich') if name in sys.modules])"
    ) == ["3 []"]


def test_import_settles_no_start_method() -> None:
    text = "import multiprocessing, pipeline_executor; print(multiprocessing.get_start_method(allow_none=True))"
    assert output_of(text) == ["None"]
