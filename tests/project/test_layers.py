"""Data flows one way through the package, and a module imports only against that direction.

definition -> check -> plan -> replica -> engine -> transport -> accounting -> report

A module imports from the layers to its left, from its own layer where that makes no circle, and from the leaves. The
façade wires them together, so nobody imports it.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline_executor
from pipeline_executor import PipelineTask, errors

PACKAGE = Path(pipeline_executor.__file__).parent
NAME = PACKAGE.name

#: From left to right. Every module of the package stands in exactly one layer; `_core` is the compiled module.
LAYERS: dict[str, set[str]] = {
    "system": {"plain_signals"},
    "leaf": {
        "descriptors",
        "errors",
        "exceptions_by_parts",
        "forks",
        "frames",
        "interfaces",
        "pickling",
        "reducers",
        "streams",
        "version",
        "words",
    },
    "definition": {"task"},
    "check": {
        "check",
        "check.common_mistakes",
        "check.constants",
        "check.conversion_advice",
        "check.defects",
        "check.definition",
        "check.edges",
        "check.exact_match",
        "check.item_types",
        "check.relation",
        "check.relation.annotations",
        "check.relation.assignable",
        "check.relation.base_classes",
        "check.relation.callables",
        "check.relation.class_members",
        "check.relation.read_annotation",
        "check.relation.relation",
        "check.relation.rules",
        "check.relation.stdlib_stubs",
        "check.relation.tuples",
        "check.relation.type_checking_imports",
        "check.relation.type_forms",
        "check.relation.type_variables",
        "check.relation.typed_dicts",
        "check.relation.write_type",
        "check.signature",
        "check.sync_or_async",
        "check.task_settings",
        "check.uncheckable",
        "check.why_not_assignable",
    },
    "plan": {"options", "plan"},
    "replica": {
        "replica",
        "replica.async_items",
        "replica.async_step",
        "replica.carried_exception",
        "replica.checked_sender",
        "replica.child",
        "replica.end_of_fork",
        "replica.exit_hooks",
        "replica.early_setup",
        "replica.flush_in_fork_server",
        "replica.unblock_in_fork_server",
        "replica.lifeline",
        "replica.process_group",
        "replica.run_tracker",
        "replica.seeds",
        "replica.shared_bytes",
        "replica.signals",
        "replica.stacks",
        "replica.stdin",
        "replica.step_result",
        "replica.waiting_threads",
        "replica.worker",
        "replica.worker_info",
    },
    "engine": {
        "engines",
        "engines.async_chain",
        "engines.accounting",
        "engines.failed_item",
        "engines.failures",
        "engines.fork_server",
        "engines.inactivity",
        "engines.suspect_items",
        "engines.kept_file",
        "engines.local",
        "engines.memory_pressure",
        "engines.open_runs",
        "engines.payload",
        "engines.preparation",
        "engines.process_handle",
        "engines.processes",
        "engines.registry",
        "engines.sequential",
        "engines.signals",
        "engines.started_replica",
        "engines.supervision",
        "engines.system_limits",
        "engines.termination",
        "engines.threads",
        "engines.watch",
        "engines.working_directory",
    },
    "transport": {
        "_core",
        "backend",
        "fallback",
        "fallback.arena",
        "fallback.codec",
        "fallback.edge",
        "fallback.ends",
        "fallback.wait_queue",
        "fallback.link",
        "fallback.locks",
        "fallback.memory",
        "fallback.order",
        "fallback.ordered",
        "fallback.ring",
        "fallback.run",
        "fallback.run_state",
        "fallback.signals",
        "fallback.supervisor",
    },
    "accounting": {"fallback.ledger"},
    "report": {"replay", "report", "results"},
    "façade": {"execute", "__init__", "__main__"},
}
ORDER = list(LAYERS)

#: The two cores are interchangeable, so they know nothing but the leaves and themselves. The pure one is one package
#: over two layers: its run holds its ledger.
CORES = {"fallback"} | {module for modules in LAYERS.values() for module in modules if module.startswith("fallback.")}

MAX_LINES = 450


def layer_of(module: str) -> str:
    (layer,) = [layer for layer, modules in LAYERS.items() if module in modules]
    return layer


def source_files() -> dict[str, Path]:
    """Every module of the package by its name without the package's."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        files[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return files


SOURCE_FILES = source_files()


def imports_of(module: str) -> set[str]:
    """The package's modules that a module imports anywhere in it, also for the type checker or inside a function."""
    path = SOURCE_FILES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    dotted_names = (
        dotted
        for node in ast.walk(tree)
        for dotted in _dotted_names(node, module, is_package=path.name == "__init__.py")
    )
    return {found for dotted in dotted_names if (found := _module_of(dotted)) is not None and found != module}


def _dotted_names(node: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            here = [NAME, *(() if module == "__init__" else module.split("."))]
            above = here[: len(here) - node.level + (is_package and module != "__init__")]
            base = ".".join([*(above or [NAME]), *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        yield from (constant for constant in constants if isinstance(constant, str))


def _module_of(dotted: str) -> str | None:
    """The module that "pipeline_executor.plan.Plan" lies in; None outside of the package."""
    package, _, inner = dotted.partition(".")
    if package != NAME:
        return None
    parts = inner.split(".") if inner else []
    while parts:
        if ".".join(parts) in SOURCE_FILES or parts == ["_core"]:
            return ".".join(parts)
        parts.pop()
    return "__init__"


# ---- the table


def test_layers_hold_every_module_exactly_once() -> None:
    listed = [module for modules in LAYERS.values() for module in modules]
    assert len(listed) == len(set(listed))
    assert set(listed) - {"_core"} == set(SOURCE_FILES), "a new module needs an entry in LAYERS, a deleted one none"


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("engines.local", "from pipeline_executor.plan import Plan", {"plan"}),
        ("engines.local", "from pipeline_executor import backend, execute", {"backend", "execute"}),
        ("engines.local", "import pipeline_executor.report", {"report"}),
        ("engines.local", "from .registry import ENGINES", {"engines.registry"}),
        ("engines.local", "from ..replica.worker import run_replica", {"replica.worker"}),
        ("engines", "from .local import run_local", {"engines.local"}),
        ("backend", "from . import errors", {"errors"}),
        ("backend", "def f():\n    from .errors import PipelineError", {"errors"}),
        ("backend", "if TYPE_CHECKING:\n    from .errors import PipelineError", {"errors"}),
        ("backend", "import importlib\nimportlib.import_module('pipeline_executor._core')", {"_core"}),
        ("backend", "import os\nfrom multiprocessing import util", set()),
        ("__init__", "from .task import PipelineTask", {"task"}),
        ("plan", "from pipeline_executor import PipelineTask", {"__init__"}),
    ],
)
def test_layers_see_every_form_of_import(
    module: str, source: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SOURCE_FILES[module].name
    path.write_text(source)
    monkeypatch.setitem(SOURCE_FILES, module, path)
    assert imports_of(module) == expected


# ---- the direction


@pytest.mark.parametrize("module", sorted(SOURCE_FILES))
def test_layers_are_imported_from_the_left_only(module: str) -> None:
    own = ORDER.index(layer_of(module))
    if module in CORES:
        return  # test_cores_know_only_the_leaves says more
    wrong = {found: layer_of(found) for found in imports_of(module) if ORDER.index(layer_of(found)) > own}
    assert not wrong, f"{module} ({ORDER[own]}) imports from layers to its right: {wrong}"


def test_layers_of_one_module_make_no_circle() -> None:
    graph = {module: imports_of(module) & set(SOURCE_FILES) for module in SOURCE_FILES}
    while graph:
        free = {module for module, needs in graph.items() if not needs & set(graph)}
        assert free, f"these modules import each other in a circle: {sorted(graph)}"
        graph = {module: needs for module, needs in graph.items() if module not in free}


def test_relation_between_types_knows_nothing_of_steps() -> None:
    relation = {module for module in LAYERS["check"] if module.startswith("check.relation")}
    for module in relation:
        assert {found for found in imports_of(module) if found.startswith("check")} <= relation


@pytest.mark.parametrize("module", sorted(LAYERS["leaf"]))
def test_leaves_know_only_the_system(module: str) -> None:
    assert imports_of(module) <= LAYERS["system"]


@pytest.mark.parametrize("module", sorted(LAYERS["system"]))
def test_system_knows_nothing_of_the_package(module: str) -> None:
    assert imports_of(module) == set()


@pytest.mark.parametrize("module", sorted(CORES))
def test_cores_know_only_the_leaves(module: str) -> None:
    assert imports_of(module) <= CORES | LAYERS["leaf"]


def test_compiled_core_knows_only_the_leaves() -> None:
    sources = PACKAGE.parent / "_core"
    if not sources.is_dir():
        pytest.skip("the sources of the compiled core are not beside the package under test")
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(sources.rglob("*.p[xy]*"))}
    assert texts
    lines = [line.strip() for text in texts.values() for line in text.splitlines() if "import" in line and NAME in line]
    allowed = tuple(f"from {NAME}.{leaf} import " for leaf in LAYERS["leaf"])
    assert [line for line in lines if line.startswith(("from ", "import ")) and not line.startswith(allowed)] == []


@pytest.mark.parametrize("core", ["_core", "fallback"])
def test_cores_are_chosen_by_the_backend_alone(core: str) -> None:
    users = {
        module
        for module in SOURCE_FILES
        if module not in CORES and any(found.split(".")[0] == core for found in imports_of(module))
    }
    assert users <= {"backend"}


# ---- the surface


def test_public_api_is_the_one_of_the_design() -> None:
    functions = {"check_pipeline", "execute", "stream", "worker_info"}
    classes = {"PipelineResults", "PipelineTask", "RunReport", "StepReport", "TaskFailure", "WorkerInfo"}
    exceptions = {
        "InactivityError",
        "MessageError",
        "PipelineError",
        "PipelineTypeError",
        "StoppedEarlyError",
        "TaskDied",
        "TaskError",
    }
    assert set(pipeline_executor.__all__) == functions | classes | exceptions | {"__version__"}
    assert len(pipeline_executor.__all__) == len(set(pipeline_executor.__all__))
    for name in pipeline_executor.__all__:
        assert getattr(pipeline_executor, name).__doc__, f"{name} has no docstring"


def test_public_api_has_no_other_name() -> None:
    tree = ast.parse(SOURCE_FILES["__init__"].read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    bound = {alias.asname or alias.name for node in imports for alias in node.names}
    assert sorted(bound - {"annotations"}) == sorted(pipeline_executor.__all__)


def test_public_exceptions_are_the_tree_of_the_design() -> None:
    tree = {name: {base.__name__ for base in getattr(errors, name).__bases__} for name in errors.__all__}
    del tree["TaskFailure"]
    assert tree == {
        "PipelineError": {"RuntimeError"},
        "PipelineTypeError": {"PipelineError", "TypeError"},
        "TaskError": {"PipelineError"},
        "TaskDied": {"TaskError"},
        "StoppedEarlyError": {"TaskError"},
        "MessageError": {"TaskError"},
        "InactivityError": {"PipelineError"},
    }


def test_public_task_has_the_settings_of_the_design() -> None:
    fields = {field.name: (field.default, field.kw_only) for field in dataclasses.fields(PipelineTask)}
    assert fields == {
        "generator": (dataclasses.MISSING, False),
        "constants": (None, False),
        "num_procs": (1, False),
        "num_threads": (None, True),
        "name": (None, True),
        "packets_in_flight": (None, True),
        "max_buffer_bytes": (None, True),
        "max_message_size": (None, True),
        "ordered": (False, True),
        "may_stop_early": (False, True),
        "env": (None, True),
        "resources": (None, True),
    }


@pytest.mark.parametrize("module", sorted(SOURCE_FILES))
def test_modules_are_short(module: str) -> None:
    lines = len(SOURCE_FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines: does it do one thing?"


@pytest.mark.parametrize("module", sorted(SOURCE_FILES))
def test_modules_have_a_docstring_and_say_what_they_export(module: str) -> None:
    tree = ast.parse(SOURCE_FILES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    exported = [
        node
        for node in tree.body
        if (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        or (isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "__all__")
    ]
    if module not in ("engines", "replica", "check.relation"):  # nothing but the packages of their modules
        assert len(exported) == 1
