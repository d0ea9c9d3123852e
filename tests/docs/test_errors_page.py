"""docs/errors.md shows what really is printed: its programs are run, and their output is compared with the page.

`PYTHONPATH=tests/support python tests/docs/test_errors_page.py` writes the page's outputs anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from marks import needs_signals

import pipeline_executor
from pipeline_executor import errors

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
PACKAGE = Path(pipeline_executor.__file__).parent

pytestmark = [
    needs_signals,
    pytest.mark.skipif(not PAGE.exists(), reason="the page is not part of this distribution"),
]

_EXAMPLE = re.compile(
    r"^## (?P<title>.*?)$.*?^```python\n(?P<program>.*?)^```\n\n```text\n(?P<output>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+)')


class Example(NamedTuple):
    title: str
    program: str
    output: str


def preamble(page: str) -> str:
    found = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def examples(page: str) -> list[Example]:
    return [Example(*found.groups()) for found in _EXAMPLE.finditer(page)]


def output_of(page: str, example: Example) -> str:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "app.py"
        script.write_text(f"{preamble(page)}\n\n{example.program}", encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHON_COLORS": "0"}
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, env=environment, cwd=folder, check=False
        )
    assert done.returncode == 1, done.stderr
    return normalised(done.stderr, folder)


def normalised(text: str, folder: str) -> str:
    """Without what differs between two runs, two machines or two versions of the interpreter."""
    lines = []
    inside_library = False
    for line in text.splitlines():
        if re.fullmatch(r"\s*[\^~]+\s*", line):
            continue
        if frame := _FRAME.match(line):
            inside_library = folder not in frame["file"] and "app.py" not in frame["file"]
        elif not line.startswith("    "):
            inside_library = False
        if not inside_library:
            lines.append(line.rstrip())
    told = "\n".join(lines).replace(folder + os.sep, "")
    return re.sub(r"pid \d+", "pid 4711", told) + "\n"


EXAMPLES = {example.title: example for example in examples(PAGE.read_text(encoding="utf-8"))} if PAGE.exists() else {}


@pytest.mark.parametrize("title", EXAMPLES)
def test_error_is_shown_as_the_page_says(core: str, title: str) -> None:
    assert output_of(PAGE.read_text(encoding="utf-8"), EXAMPLES[title]) == EXAMPLES[title].output


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name not in ("PipelineError", "TaskFailure")])
def test_each_error_has_an_example_in_which_it_is_shown(name: str) -> None:
    shown = "\n".join(example.output for example in EXAMPLES.values())
    assert re.search(rf"^pipeline_executor\.errors\.{name}: ", shown, re.MULTILINE)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")

    def with_output(found: re.Match[str]) -> str:
        example = Example(*found.groups())
        whole = found[0]
        start = found.start("output") - found.start()
        return whole[:start] + output_of(page, example) + whole[found.end("output") - found.start() :]

    PAGE.write_text(_EXAMPLE.sub(with_output, page), encoding="utf-8")


if __name__ == "__main__":
    main()
