"""One measurement in an interpreter of its own: `measure` starts this file with the task and a file for the answer.

Run as a file, not as a module, and with `-P`: the folder of the sources is appended to the path, so that an installed
package is found before the source tree, whose compiled part may be missing. Spawned processes import this file too,
so it imports little.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
sys.path.append(ROOT)


def main(task_json: str, answer_file: str) -> None:
    """Make the measurement and write status, value, details and, if there is no value, why."""
    import json
    import os
    from importlib.machinery import PathFinder

    if PathFinder.find_spec("pipeline_executor", [entry for entry in sys.path if entry != ROOT]) is None:
        # Not installed, or editable: spawned processes must find it before they are told this path.
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
