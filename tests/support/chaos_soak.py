"""The chaos test for as long as one likes.

    python tests/support/chaos_soak.py --minutes 60 --seed 1 [--core compiled|pure]
    python tests/support/chaos_soak.py --pipeline '{...}' [--times 100]

Prints the seed, how many runs there were, and how many ended in which way. At the first outcome that the rules do not
allow, at anything that is left behind, or when memory, descriptors or threads of this process have grown, it stops
with exit code 1 and prints the command that runs the same pipeline again.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import json
import random
import sys
import threading
import time
from collections import Counter
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import chaos
import psutil
from chaos_steps import Pipeline
from left_behind import Belongings

EXAMPLES_IN_A_BATCH = 25

#: A run of a minute is one that hangs: its stacks are printed, and the soak ends.
MAX_RUN_S = 60

#: Growth of this process from the end of the first minutes on that is not put down to the allocator and to caches.
WARM_UP_S = 120
MAX_GROWTH_BYTES = 40 * 2**20


def _give_back_what_is_free() -> None:
    """What the allocator keeps of messages that passed through threads of this process is no leak."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class WrongOutcomeError(Exception):
    pass


class Soak:
    """What has been seen so far."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.ended: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.seed = 0
        self._before = Belongings()
        self._warm_bytes: int | None = None
        self._process = psutil.Process()

    def judged(self, pipeline: Pipeline, outcome: chaos.Outcome, duration_s: float) -> None:
        faulthandler.dump_traceback_later(MAX_RUN_S, exit=True)
        wrong = chaos.judge(pipeline, outcome)
        kind, shown = outcome.kind, repr(outcome.error)
        outcome.error = None  # its traceback holds on to much
        wrong += self._before.left_behind()
        if wrong:
            raise WrongOutcomeError(f"{wrong}\n{shown}\n{chaos.reproducer(pipeline)}")
        self.ended[kind] += 1
        self.methods[f"{pipeline.core} {pipeline.start_method}"] += 1
        self.slowest_s = max(self.slowest_s, duration_s)

    def check_growth(self) -> None:
        gc.collect()
        _give_back_what_is_free()
        used_bytes = self._process.memory_info().rss
        if self._warm_bytes is None:
            if time.monotonic() - self.started >= WARM_UP_S:
                self._warm_bytes = used_bytes
        elif used_bytes > self._warm_bytes + MAX_GROWTH_BYTES:
            raise WrongOutcomeError(f"this process has grown from {self._warm_bytes} to {used_bytes} bytes")

    def __str__(self) -> str:
        used = f"{self._process.memory_info().rss / 2**20:.0f} MiB, {self._process.num_fds()} descriptors"
        return (
            f"{time.monotonic() - self.started:.0f} s, seed {self.seed}: {self.ended.total()} runs, "
            f"{used}, {threading.active_count()} threads, slowest {self.slowest_s:.1f} s\n"
            f"  {dict(self.ended.most_common())}\n  {dict(self.methods)}"
        )


def soak(minutes: float, first_seed: int, core: str | None) -> int:
    seen = Soak()
    seen.seed = first_seed
    reported = time.monotonic()
    try:
        while time.monotonic() - seen.started < 60 * minutes:
            chaos.run_batch(seen.seed, EXAMPLES_IN_A_BATCH, core, seen.judged)
            seen.check_growth()
            seen.seed += 1
            if time.monotonic() - reported > 60:
                print(seen, flush=True)
                reported = time.monotonic()
    except WrongOutcomeError as error:
        print(f"WRONG with seed {seen.seed}: {error}\n{seen}", flush=True)
        return 1
    print(f"first seed {first_seed}, no hang, no leak, no wrong outcome\n{seen}", flush=True)
    return 0


def again(pipeline: Pipeline, times: int) -> int:
    before = Belongings()
    ended: Counter[str] = Counter()
    for _ in range(times):
        outcome = chaos.run(pipeline)
        ended[outcome.kind] += 1
        wrong = chaos.judge(pipeline, outcome)
        shown = repr(outcome.error)
        outcome.error = None  # its traceback holds on to much
        wrong += before.left_behind()
        if wrong:
            print(f"WRONG: {wrong}\n{shown}\nreceived {outcome.received}")
            return 1
    print(dict(ended))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run random pipelines with random faults.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--core", choices=["compiled", "pure"], default=None)
    parser.add_argument("--pipeline", default=None, help="one pipeline as JSON, or a file that holds it")
    parser.add_argument("--times", type=int, default=1)
    arguments = parser.parse_args()
    # The interpreter's own, which stay.
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    if arguments.pipeline is not None:
        text: str = arguments.pipeline
        if not text.startswith("{"):
            text = Path(text).read_text(encoding="utf-8")
        return again(Pipeline.from_data(json.loads(text)), arguments.times)
    first_seed = arguments.seed if arguments.seed is not None else random.randrange(10**6) * 1000
    print(f"seed {first_seed}", flush=True)
    faulthandler.dump_traceback_later(MAX_RUN_S, exit=True)
    return soak(arguments.minutes, first_seed, arguments.core)


if __name__ == "__main__":
    sys.exit(main())
