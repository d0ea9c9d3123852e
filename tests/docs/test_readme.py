"""README.md and the pages in docs/ are true: examples run, rules have tests, links and commands are in order."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest

import pipeline_executor
from pipeline_executor import PipelineTask, errors, execute, stream

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PACKAGE = "pipeline_executor"
PACKAGE_PARENT = str(Path(pipeline_executor.__file__).parents[1])

RULES = [f"R{number}" for number in range(1, 9)]


#: What a reader sees of README.md before scrolling.
FIRST_SCREEN_LINES = 45


@functools.cache
def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README = page("README.md")


class Block(NamedTuple):
    heading: str
    language: str
    text: str


def fenced_blocks(text: str = README) -> list[Block]:
    """Every fenced block with the heading that it stands under."""
    blocks: list[Block] = []
    heading = ""
    language: str | None = None
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if language is not None:
            if line.strip() == "```":
                blocks.append(Block(heading, language, "".join(lines)))
                language = None
            else:
                lines.append(line)
        elif line.startswith("```"):
            language, lines = line.strip().removeprefix("```"), []
        elif found := re.match(r"#+\s+(.*?)\s*$", line):
            heading = found[1]
    assert language is None, "a fenced block is not closed"
    return blocks


def prose() -> str:
    return re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)


def headings() -> list[str]:
    return re.findall(r"^#+\s+(.*?)\s*$", prose(), flags=re.MULTILINE)


# ---- the commands


@pytest.mark.parametrize(
    ("heading", "command"),
    [
        ("Run it", "pip install '.[examples]' && python examples/photo_catalog.py\n"),
        ("Test it", "pip install -e '.[test]' && pytest -n auto\n"),
        (
            "A PyTorch example",
            "pip install '.[examples]' torch==2.13.0 && python examples/pytorch_batcher.py\n",
        ),
    ],
)
def test_readme_command_stands_alone_under_its_heading(heading: str, command: str) -> None:
    assert headings().count(heading) == 1
    assert [block.text for block in fenced_blocks() if block.heading == heading] == [command]


def test_readme_commands_run_programs_that_exist() -> None:
    programs = re.findall(r"\bpython (\S+\.py)\b", "".join(block.text for block in fenced_blocks()))
    assert len(programs) >= 2
    for program in programs:
        assert (ROOT / program).is_file(), f"README.md runs {program}, which does not exist"


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_readme_command_is_what_the_gate_extracts(heading: str) -> None:
    gate = ROOT / ".ci" / "run"
    if not gate.exists():
        pytest.skip("the gate is not part of a source distribution")
    reader = re.search(r"^readme_command\(\).*?<<'PYTHON'\n(.*?)^PYTHON$", gate.read_text(), re.MULTILINE | re.DOTALL)
    assert reader is not None
    program = subprocess.run(
        [sys.executable, "-c", reader[1], heading], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (program.returncode, program.stderr) == (0, "")
    assert [program.stdout] == [block.text for block in fenced_blocks() if block.heading == heading]


# ---- the examples


def example(name: str = "README.md") -> str:
    """The one program of a page."""
    blocks = [block.text for block in fenced_blocks(page(name)) if block.language == "python"]
    (program,) = [text for text in blocks if "if __name__" in text]
    return program


def printed_by_example(name: str = "README.md", words: str = "It prints") -> str:
    found = re.search(rf"{words} `(.*?)`", page(name))
    assert found is not None
    return found[1]


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    script = folder / "example.py"
    script.write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": PACKAGE_PARENT}
    return subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_readme_example_is_about_twenty_lines() -> None:
    assert 15 <= len([line for line in example().splitlines() if line.strip()]) <= 22


def test_readme_example_runs_as_it_stands(core: str, tmp_path: Path) -> None:
    program = run_script(tmp_path, example())
    assert (program.returncode, program.stderr) == (0, "")
    assert program.stdout.strip() == printed_by_example()


def test_readme_example_runs_under_every_start_method(start_method: str, tmp_path: Path) -> None:
    choose = (
        f"import multiprocessing\nif __name__ == '__main__':\n    multiprocessing.set_start_method({start_method!r})\n"
    )
    program = run_script(tmp_path, choose + example())
    assert (program.returncode, program.stderr) == (0, "")
    assert program.stdout.strip() == printed_by_example()


def test_readme_example_fails_as_shown(tmp_path: Path) -> None:
    (shown,) = [block.text for block in fenced_blocks() if block.language == "text"]
    program = run_script(tmp_path, example().replace("range(2, stop)", "range(-1, stop)"))
    assert program.returncode == 1
    assert without_replica(program.stderr).endswith(without_replica(shown))


def without_replica(error: str) -> str:
    """The text without what differs between two runs: which replica took the item, and its process id."""
    return re.sub(r"replica \d of 2, pid \d+", "replica", error)


def test_example_of_an_asynchronous_step_runs_as_it_stands(core: str, tmp_path: Path) -> None:
    program = run_script(tmp_path, example("docs/async-steps.md"))
    assert (program.returncode, program.stderr) == (0, "")
    assert program.stdout.strip() == printed_by_example("docs/async-steps.md", "Its output is")


def test_command_that_shows_the_core_works(core: str) -> None:
    (command,) = [block.text for block in fenced_blocks(page("docs/cores.md"))]
    found = re.fullmatch(r'python -c "(.*)"\n', command)
    assert found is not None
    environment = {**os.environ, "PYTHONPATH": PACKAGE_PARENT}
    program = subprocess.run(
        [sys.executable, "-c", found[1]], env=environment, capture_output=True, text=True, check=False
    )
    assert program.stdout == f"{core} - PIPELINE_EXECUTOR_CORE asks for it\n"


def test_readme_shows_on_its_first_screen_what_the_library_is() -> None:
    shown = [line for line in README.splitlines() if not line.startswith("<!--")]
    screen = "\n".join(shown[:FIRST_SCREEN_LINES])
    assert "`pip install" in screen
    assert example() in screen
    assert [block.language for block in fenced_blocks(screen)] == ["python", "text"]
    assert len(re.findall(r"^- ", screen, flags=re.MULTILINE)) == 4
    assert re.search(r"!\[[^\]]+\]\(docs/benchmarks/\w+\.svg\)", screen)
    peers = re.findall(r"^\| (.*?) \|", screen.partition("|---|---|---|\n")[2], flags=re.MULTILINE)
    assert len(peers) == 6


def test_readme_figures_are_those_of_the_results() -> None:
    found = json.loads(page("docs/benchmarks/results.json"))
    measured = {
        row["name"]: {each["contender"]: statistics.median(each["values"]) for each in row["results"] if each["values"]}
        for row in found["rows"]
    }
    ours = {row: medians["compiled"] for row, medians in measured.items() if "compiled" in medians}
    ints = measured["ints"]
    arrays = ours["arrays-1mb"] / measured["arrays-1mb"]["copy-limit"]
    figures = [
        f"{ours['ints'] / 1e6:.1f} million ints a second",
        f"{ours['ints'] / ints['pipeline-lib']:.0f} times as many as pipeline-lib",
        f"{ours['ints'] / ints['one-process']:.2f} times as many as one process",
        f"{ours['arrays-1mb']:.1f} GB/s with arrays of 1 MB, {arrays:.2f} times as fast as copying",
        f"a hop takes {ours['latency']:.2f} µs",
        f"uses {ours['blocked']:.3f} % of one core",
        f"in {ours['start-fork']:.1f} ms under fork, in {measured['start-spawn']['compiled-spawn']:.0f} ms under spawn",
        f"the import takes {ours['import']:.0f} ms",
    ]
    lacking = [figure for figure in figures if figure not in README]
    assert not lacking


# ---- the rules


RULES_PAGE = "docs/rules.md"


def rules_on_the_page() -> dict[str, str]:
    """The list item of each rule, in the order of the page."""
    items = re.findall(r"^- \*\*(R\d+)\*\* (.*?)(?=^- |\Z)", page(RULES_PAGE), flags=re.MULTILINE | re.DOTALL)
    return dict(items)


@functools.cache  # reads all files
def rules_in_tests() -> dict[str, dict[str, set[str]]]:
    """For each rule, the test functions that are marked with it, by file."""
    marked: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for rule in filter(None, map(_rule_of, node.decorator_list)):
                    marked[rule][path.relative_to(ROOT).as_posix()].add(node.name)
    return marked


def _rule_of(decorator: ast.expr) -> str | None:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
        (argument,) = decorator.args
        assert isinstance(argument, ast.Constant)
        return str(argument.value)
    return None


def links_of(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)


def test_page_states_every_rule_once_and_in_order() -> None:
    assert list(rules_on_the_page()) == RULES
    assert len(re.findall(r"^- \*\*R\d+\*\*", page(RULES_PAGE), flags=re.MULTILINE)) == len(RULES)


def test_rules_of_the_tests_are_those_of_the_page() -> None:
    assert sorted(rules_in_tests()) == RULES


@pytest.mark.parametrize("rule", RULES)
def test_page_links_each_rule_to_tests_that_are_marked_with_it(rule: str) -> None:
    text, marked = rules_on_the_page()[rule], rules_in_tests()[rule]
    links = [link.removeprefix("../") for link in links_of(text) if link.startswith("../tests/")]
    assert links
    for link in links:
        assert marked.get(link), f"{link} has no test that is marked with {rule}"
    prefixes = re.findall(r"`(test_\w+)\*`", text)
    assert prefixes == [f"test_{rule.lower()}_"]
    for link in links:
        assert any(name.startswith(prefixes[0]) for name in marked[link])


@pytest.mark.parametrize("rule", RULES)
def test_rule_in_a_tests_name_is_the_rule_of_its_mark(rule: str) -> None:
    prefix = re.compile(r"test_(r\d+)_")
    for path, names in rules_in_tests()[rule].items():
        for name in names:
            found = prefix.match(name)
            assert found is None or found[1].upper() == rule, f"{path}: {name} is marked with {rule}"


# ---- the links and names


def anchor_of(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


def anchors_of(text: str) -> set[str]:
    return {anchor_of(heading) for heading in re.findall(r"^#+\s+(.*?)\s*$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", *PAGES])
def test_every_relative_link_resolves(name: str) -> None:
    for link in links_of(page(name)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / unquote(path) if path else ROOT / name
        assert target.exists(), f"{name} links to {link}, which does not exist"
        if anchor:
            anchors = anchors_of(target.read_text(encoding="utf-8"))
            assert anchor in anchors, f"{name} links to {link}, and there is no such heading"


@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_reached_from_the_readme(name: str) -> None:
    assert name in links_of(README), f"README.md does not link to {name}"


def test_contributing_names_files_that_exist() -> None:
    """The paths in its tables. A path may begin in the package or in tests/."""
    if not (ROOT / "_core").is_dir():
        pytest.skip("the sources are not beside the page")
    rows = "\n".join(line for line in page("CONTRIBUTING.md").splitlines() if line.startswith("|"))
    paths = [name for name in re.findall(r"`([\w./]+)`", rows) if re.search(r"/|\.(py|md|toml)$", name)]
    assert len(paths) > 40
    folders = (ROOT, ROOT / PACKAGE, TESTS)
    lacking = [path for path in paths if not any((folder / path).exists() for folder in folders)]
    assert not lacking, "CONTRIBUTING.md names files that do not exist"


def test_readme_links_somewhere() -> None:
    assert len(links_of(README)) > len(RULES)


def test_page_lists_every_error_with_its_bases() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page("docs/errors.md"), flags=re.MULTILINE)
    listed = {name: re.findall(r"`(\w+)`", bases) for name, bases in rows}
    exceptions = [name for name in errors.__all__ if issubclass(getattr(errors, name), Exception)]
    assert listed == {name: [base.__name__ for base in getattr(errors, name).__bases__] for name in exceptions}


COMPUTE_MODEL = "docs/compute-model.md"


def options_under(heading: str) -> dict[str, str]:
    """The options that a table lists, each with its default as it is written there."""
    section = page(COMPUTE_MODEL).partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\|", section, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "function"), [("Options of a run", execute), ("Options of a run", stream), ("Options of a task", None)]
)
def test_page_lists_every_option_with_its_default(heading: str, function: Callable[..., object] | None) -> None:
    if function is None:
        defaults = {field.name: field.default for field in dataclasses.fields(PipelineTask)}
    else:
        parameters = inspect.signature(function).parameters.values()
        defaults = {found.name: found.default for found in parameters if found.name != "tasks"}
    listed = options_under(heading)
    assert list(listed) == list(defaults)
    for name, default in defaults.items():
        if default is not None and default is not dataclasses.MISSING:
            assert listed[name] == f"`{default!r}`".replace("'", '"'), name


def test_page_names_the_defaults_of_the_bounds() -> None:
    from pipeline_executor.interfaces import (
        DEFAULT_BUFFER_BYTES,
        DEFAULT_PACKETS_IN_FLIGHT,
        DEFAULT_REFERENCES_IN_FLIGHT,
    )

    listed = options_under("Options of a task")
    assert listed["packets_in_flight"] == f"{DEFAULT_PACKETS_IN_FLIGHT} items"
    assert listed["max_buffer_bytes"] == f"{DEFAULT_BUFFER_BYTES // 2**20} MiB"
    assert f"`packets_in_flight` is {DEFAULT_REFERENCES_IN_FLIGHT} unless given" in page(COMPUTE_MODEL)


def test_changelog_has_an_unreleased_section() -> None:
    text = page("CHANGELOG.md")
    assert re.search(r"^## \[Unreleased\]$", text, flags=re.MULTILINE)
    kinds = re.findall(r"^### (.*)$", text.partition("## [Unreleased]")[2].partition("\n## ")[0], flags=re.MULTILINE)
    assert "Added" in kinds
