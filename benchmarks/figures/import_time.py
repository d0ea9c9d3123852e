"""The time that importing a library takes, each time in an interpreter that has imported nothing else."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Figure, Task
from benchmarks.pipeline import NotInstalledError

MODULES = {
    "compiled": "pipeline_executor",
    "pipeline-lib": "pipeline_lib",
    "queue": "multiprocessing.queues",
    "faster-fifo": "faster_fifo",
    "mpire": "mpire",
    "pypeln": "pypeln",
    "spdl": "spdl.pipeline",
    "dataloader": "torch.utils.data",
}

# The source folder is appended to the path, so that an installed package is found first.
_PROGRAM = """
import sys, time
sys.path.append(sys.argv[1])
started = time.perf_counter()
try:
    import {module}
except ModuleNotFoundError as error:
    sys.exit(f"not installed: {{error}}")
print(time.perf_counter() - started)
"""


def measure(task: Task) -> Figure:
    """Measure milliseconds: the median of the repeats, after one import that fills the system's caches."""
    program = _PROGRAM.format(module=MODULES[task.contender])
    root = Path(__file__).resolve().parents[2]
    durations_ms = []
    for _ in range(task.repeats + 1):
        ended = subprocess.run(
            [sys.executable, "-P", "-c", program, str(root)], check=False, capture_output=True, text=True
        )
        if ended.stderr.startswith("not installed"):
            raise NotInstalledError(ended.stderr.strip())
        ended.check_returncode()
        durations_ms.append(float(ended.stdout) * 1000)
    return Figure(statistics.median(durations_ms[1:]))
