"""The check of rule R7, which guards every test, sees each kind of thing that a run could leave."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from capabilities import HAS_PROC
from left_behind import Belongings


@pytest.mark.rule("R7")
@pytest.mark.skipif(not HAS_PROC, reason="descriptors and shared memory are seen on Linux only")
def test_r7_each_kind_of_thing_that_a_run_could_leave_is_seen() -> None:
    def seen() -> list[str]:
        return before.left_behind()

    gc.collect()  # what earlier tests have left to it would go between two looks
    before = Belongings()
    assert seen() == []

    stay = threading.Event()
    thread = threading.Thread(target=stay.wait)
    thread.start()
    assert [text.split()[0] for text in seen()] == ["thread"]
    stay.set()
    thread.join()

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert [text.split()[0] for text in seen()] == ["process", "descriptors"]
        assert str(child.pid) in seen()[0]

    descriptor = os.memfd_create("pipeline_executor-test")
    assert seen() == [f"descriptors {{'{descriptor}': '/memfd:pipeline_executor-test (deleted)'}}"]
    os.close(descriptor)

    handler = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    assert len(seen()) == 1
    assert seen()[0].endswith("of SIGUSR1")
    signal.signal(signal.SIGUSR1, handler)

    lock = multiprocessing.get_context("spawn").Lock()  # has a name under spawn until it is collected
    file = Path("/dev/shm", f"sem.{lock._semlock.name[1:]}")  # type: ignore[attr-defined]
    assert file.exists()
    assert seen() == [f"shared memory {file.name}"], sorted(os.listdir(file.parent))
    del lock
    assert seen() == []
