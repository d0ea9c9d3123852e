"""A process that crashes leaves a core file without the shared memory, which would make it one of gigabytes."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_rig import children, open_edge, open_run, put
from marks import needs_fork

from pipeline_executor.interfaces import EdgeLayout, Receiver, Run

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists() or not hasattr(mmap, "MADV_DONTDUMP"),
    reason="what is dumped is seen on Linux only",
)


def dumped(arrays: list[np.ndarray]) -> list[str]:
    """The mappings of runs, and those that these arrays lie in, that a core file of this process would have."""
    addresses = [array.ctypes.data for array in arrays]
    found, ours = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            start, stop = (int(address, 16) for address in first.split("-"))
            ours = "memfd:pipeline_executor" in line or any(start <= address < stop for address in addresses)
            mapping = line
        elif ours and first == "VmFlags:" and "dd" not in line.split():
            found.append(mapping)
    return found


def has_mappings() -> bool:
    return "memfd:pipeline_executor" in Path("/proc/self/maps").read_text()


def look(run: Run, dumps: Any) -> None:
    receiver: Receiver = run.receiver(0, 1)
    kept = list(receiver)
    assert len(kept) == 1
    assert has_mappings()
    dumps.send(dumped([]))


@pytest.mark.thorough_where("spawn", "pure")
def test_a_replica_and_its_caller_dump_no_shared_memory(core: str, start_method: str) -> None:
    with open_run(EdgeLayout(1, 1), start_method=start_method) as run, children(start_method) as started:
        sender = run.sender(0, 0, None)
        put(sender, np.zeros(2**18))
        sender.finish()
        dumps, other_end = started.pipe()
        started.start(look, run, other_end)
        assert dumps.recv() == []
        started.join()
        assert has_mappings()
        assert dumped([]) == []


@needs_fork
def test_views_of_results_are_not_dumped_after_a_fork_either(compiled: None) -> None:
    with open_edge() as (_, [sender], [receiver]):
        put(sender, *[np.full(2**18, number) for number in range(3)])
        held = [receiver.poll()[1] for _ in range(3)]
        pid = os.fork()
        if pid == 0:
            held[0][0] = -1
            os._exit(0 if dumped(held) == [] else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert dumped(held) == []
        del held[1]  # its memory is mapped shared again
        put(sender, np.zeros(2**18))
        held.append(receiver.poll()[1])
        assert dumped(held) == []


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", "compiled")
