"""mypy and pyright must accept `accepted.py`, and refuse the marked lines of `refused.py` and no others."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ACCEPTED, REFUSED = HERE / "accepted.py", HERE / "refused.py"


def marked_lines(path: Path) -> list[int]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines, 1) if line.endswith("# refused")]


def lines_of_mypy(path: Path, folder: Path) -> list[int]:
    pytest.importorskip("mypy")
    options = [
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
        "--disable-error-code=type-arg",
        "--output=json",
    ]
    # mypy refuses a MYPYPATH that names site-packages. It finds a package that is installed there without help.
    beside = {} if "site-packages" in package_parent().parts else {"MYPYPATH": str(package_parent())}
    command = [sys.executable, "-m", "mypy", *options, str(shutil.copy(path, folder))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | beside, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    print(done.stdout)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return sorted({entry["line"] for entry in found if entry["severity"] == "error"})


def lines_of_pyright(path: Path, folder: Path) -> list[int]:
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    shutil.copy(path, folder)
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(package_parent())]}))
    command = [pyright, "--pythonpath", sys.executable, "--outputjson", "--project", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    print(done.stdout)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    found = report["generalDiagnostics"]
    return sorted({entry["range"]["start"]["line"] + 1 for entry in found if entry["severity"] == "error"})


def package_parent() -> Path:
    spec = importlib.util.find_spec("pipeline_executor")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent


CHECKERS = {"mypy": lines_of_mypy, "pyright": lines_of_pyright}


@pytest.mark.parametrize("checker", CHECKERS)
def test_checker_infers_the_types_of_tasks(checker: str, tmp_path: Path) -> None:
    assert CHECKERS[checker](ACCEPTED, tmp_path) == []


@pytest.mark.parametrize("checker", CHECKERS)
def test_checker_refuses_the_marked_lines(checker: str, tmp_path: Path) -> None:
    assert CHECKERS[checker](REFUSED, tmp_path) == marked_lines(REFUSED)


def test_files_can_be_compiled() -> None:
    for path in (ACCEPTED, REFUSED):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
    assert marked_lines(REFUSED)
