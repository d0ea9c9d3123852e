"""What a pipeline of three processes could carry at best if one copy for each hop were all that it does.

Two processes: one copies an array into blocks of shared memory, the other from there into further blocks. They tell
each other by two words in that memory, and no message is made.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import time
from typing import Any

from benchmarks.figures import Figure, Task
from benchmarks.workloads import WORKLOADS

#: As few as keep both busy: more would not fit into caches.
BLOCKS = 8


def measure(task: Task) -> Figure:
    """Gigabytes per second."""
    import numpy as np

    size = WORKLOADS[task.workload].item_bytes
    words = np.frombuffer(mmap.mmap(-1, 4096), dtype=np.int64)  # how many were copied, by each of the two
    shared = [np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8) for _ in range(2 * BLOCKS)]
    for block in shared:
        block[:] = 0  # its pages are there
    arrays = [np.full(size, number, dtype=np.uint8) for number in range(BLOCKS)]
    second = multiprocessing.get_context("fork").Process(target=_copy_on, args=(words, shared, task.items))
    second.start()
    started = time.perf_counter()
    for number in range(task.items):
        while number - words[1] >= BLOCKS:
            os.sched_yield()
        np.copyto(shared[number % BLOCKS], arrays[number % BLOCKS])
        words[0] = number + 1
    while words[1] < task.items:
        os.sched_yield()
    duration_s = time.perf_counter() - started
    second.join()
    return Figure(task.items * size / duration_s / 1e9)


def _copy_on(words: Any, shared: list[Any], items: int) -> None:
    import numpy as np

    for number in range(items):
        while words[0] <= number:
            os.sched_yield()
        np.copyto(shared[BLOCKS + number % BLOCKS], shared[number % BLOCKS])
        words[1] = number + 1
