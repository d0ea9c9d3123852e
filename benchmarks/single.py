"""The program that makes one measurement. `measure.run_task` starts it in a fresh interpreter.

It runs as a file with `-P`, not as a module. So the source folder is not the first entry of the path but is appended to
it, and an installed package is found before the source tree, which may lack the compiled core. Spawned processes import
this file as well, so it imports little.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
sys.path.append(ROOT)


def main(task_json: str, answer_file: str) -> None:
    """Make the measurement, and write an answer: the status, and either the value and details or the reason."""
    import json
    import os
    from importlib.machinery import PathFinder

    if PathFinder.find_spec("pipeline_executor", [entry for entry in sys.path if entry != ROOT]) is None:
        # The package is not installed, or it is an editable install. Spawned processes need this path from the start.
        os.environ["PYTHONPATH"] = ROOT

    from benchmarks.figures import Task, measure
    from benchmarks.pipeline import NotInstalledError, UnfitError

    answer: dict[str, object]
    try:
        figure = measure(Task(**json.loads(task_json)))
    except NotInstalledError as error:
        answer = {"status": "not installed", "why": str(error)}
    except UnfitError as error:
        answer = {"status": "unfit", "why": str(error)}
    except Exception as error:
        answer = {"status": "failed", "why": f"{type(error).__name__}: {error}"}
    else:
        answer = {"status": "ok", "value": figure.value, "details": dict(figure.details)}
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
