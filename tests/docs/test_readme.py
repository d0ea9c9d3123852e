"""README.md keeps what it says: its example runs, its rules have tests, its links and commands are in order."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest

import pipeline_executor
from pipeline_executor import errors

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE_PARENT = str(Path(pipeline_executor.__file__).parents[1])

RULES = [f"R{number}" for number in range(1, 9)]


class Block(NamedTuple):
    heading: str
    language: str
    text: str


def fenced_blocks() -> list[Block]:
    """Every fenced block with the heading that it stands under."""
    blocks: list[Block] = []
    heading = ""
    language: str | None = None
    lines: list[str] = []
    for line in README.splitlines(keepends=True):
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


# ---- the example


def example(heading: str = "An example") -> str:
    (text,) = [block.text for block in fenced_blocks() if (block.heading, block.language) == (heading, "python")]
    return text


def printed_by_example(words: str = "It prints") -> str:
    found = re.search(rf"{words} `(.*?)`", README)
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


def test_readme_example_of_an_asynchronous_step_runs_as_it_stands(core: str, tmp_path: Path) -> None:
    program = run_script(tmp_path, example("Asynchronous steps"))
    assert (program.returncode, program.stderr) == (0, "")
    assert program.stdout.strip() == printed_by_example("Its output is")


def test_readme_command_that_shows_the_core_works(core: str) -> None:
    (command,) = [block.text for block in fenced_blocks() if block.heading == "The two cores"]
    found = re.fullmatch(r'python -c "(.*)"\n', command)
    assert found is not None
    environment = {**os.environ, "PYTHONPATH": PACKAGE_PARENT}
    program = subprocess.run(
        [sys.executable, "-c", found[1]], env=environment, capture_output=True, text=True, check=False
    )
    assert program.stdout == f"{core} - PIPELINE_EXECUTOR_CORE asks for it\n"


# ---- the rules


def rules_in_readme() -> dict[str, str]:
    """The list item of each rule, in the order of the README."""
    section = README.partition("## The rules\n")[2].partition("\n## ")[0]
    items = re.findall(r"^- \*\*(R\d+)\*\* (.*?)(?=^- |\Z)", section, flags=re.MULTILINE | re.DOTALL)
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


def test_readme_states_every_rule_once_and_in_order() -> None:
    assert list(rules_in_readme()) == RULES
    assert len(re.findall(r"^- \*\*R\d+\*\*", README, flags=re.MULTILINE)) == len(RULES)


def test_rules_of_the_tests_are_those_of_the_readme() -> None:
    assert sorted(rules_in_tests()) == RULES


@pytest.mark.parametrize("rule", RULES)
def test_readme_links_each_rule_to_tests_that_are_marked_with_it(rule: str) -> None:
    text, marked = rules_in_readme()[rule], rules_in_tests()[rule]
    links = links_of(text)
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


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", *PAGES])
def test_every_relative_link_resolves(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    anchors = {anchor_of(heading) for heading in re.findall(r"^#+\s+(.*?)\s*$", text, flags=re.MULTILINE)}
    for link in links_of(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        if path:
            assert ((ROOT / name).parent / unquote(path)).exists(), f"{name} links to {link}, which does not exist"
        else:
            assert anchor in anchors, f"{name} links to {link}, and has no such heading"


def test_readme_links_somewhere() -> None:
    assert len(links_of(README)) > len(RULES)


def test_readme_lists_every_error_with_its_bases() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", README, flags=re.MULTILINE)
    listed = {name: re.findall(r"`(\w+)`", bases) for name, bases in rows}
    exceptions = [name for name in errors.__all__ if issubclass(getattr(errors, name), Exception)]
    assert listed == {name: [base.__name__ for base in getattr(errors, name).__bases__] for name in exceptions}


def test_readme_names_the_defaults_of_the_bounds() -> None:
    from pipeline_executor.interfaces import DEFAULT_BUFFER_BYTES, DEFAULT_PACKETS_IN_FLIGHT

    assert f"`packets_in_flight`, {DEFAULT_PACKETS_IN_FLIGHT} unless given" in README
    assert f"`max_buffer_bytes`, {DEFAULT_BUFFER_BYTES // 2**20} MiB unless given" in README


def test_changelog_has_an_unreleased_section() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[Unreleased\]$", text, flags=re.MULTILINE)
    kinds = re.findall(r"^### (.*)$", text.partition("## [Unreleased]")[2].partition("\n## ")[0], flags=re.MULTILINE)
    assert "Added" in kinds
