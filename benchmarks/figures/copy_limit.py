"""The highest bandwidth that three processes could reach if all they did were one copy for each hop.

One process copies an array into blocks of shared memory, and a second process copies those into further blocks. Each
counts its copies in a word of shared memory that the other one reads. No message is made.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import time
from typing import Any

from benchmarks.figures import Figure, Task
from benchmarks.workloads import WORKLOADS

#: Enough blocks to keep both processes busy. More would not fit into the caches.
BLOCKS = 8


def measure(task: Task) -> Figure:
    """Measure gigabytes per second."""
    import numpy as np

    size = WORKLOADS[task.workload].item_bytes
    words = np.frombuffer(mmap.mmap(-1, 4096), dtype=np.int64)  # number of copies made by each process
    shared = [np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8) for _ in range(2 * BLOCKS)]
    for block in shared:
        block[:] = 0  # so that the kernel has allocated the pages before the measurement
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
