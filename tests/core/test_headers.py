"""The compiled core's algorithms without Python: the programs in `cpp`, plain and under sanitizers.

ThreadSanitizer does not understand fences, and g++ warns of that; the warning is off. What it then cannot judge is how
those who sleep meet those who wake them (`event.hpp`): that is made of fences over relaxed atomics, and a wake-up that
is lost shows here only as a test that hangs, if the hardware happens to reorder. All plain memory, the messages and
their blocks, is ordered by releases and acquires alone, and that it does check:
`test_thread_sanitizer_reports_when_the_orders_are_weakened` shows it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from capabilities import HAS_FUTEX

pytest.importorskip("fcntl")
from made_once import made_once

HERE = Path(__file__).parent
INCLUDE = HERE.parents[1] / "_core" / "include"

pytestmark = [
    pytest.mark.skipif(not HAS_FUTEX, reason="the headers have no platform layer for this system yet"),
    pytest.mark.skipif(not INCLUDE.is_dir(), reason="the tests run without the sources of the core"),
]

FLAGS = {
    "plain": ["-O2"],
    "thread": ["-O1", "-fsanitize=thread"],
    "address,undefined": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}

# mode, producers, consumers, messages of each producer, limit of items, limit of bytes
CASES = [
    ("complete", 1, 1, 500, 1, 100),  # in lock-step: each message is a switch of threads
    ("complete", 1, 1, 5000, 64, 10_000),
    ("complete", 4, 1, 2000, 8, 2000),
    ("complete", 1, 4, 5000, 8, 1_000_000),
    ("complete", 4, 4, 2000, 3, 1000),
    ("complete", 4, 4, 2000, 1024, 5000),
    ("complete", 6, 1, 1000, 64, 700),  # most producers wait for bytes most of the time
    ("signals", 2, 2, 2000, 4, 1000),
    ("signals", 6, 1, 500, 64, 700),
    ("stop", 3, 3, 0, 8, 2000),
    ("stop", 2, 1, 0, 1, 100),
    ("stop", 6, 1, 0, 64, 700),
    ("quit", 3, 3, 0, 8, 2000),
    ("quit", 1, 1, 0, 64, 1_000_000),
    ("abort", 3, 3, 0, 8, 2000),
    ("abort", 4, 1, 0, 1, 100),
    ("abort", 6, 1, 0, 64, 700),
]

# mode, replicas, items, limit of items, limit of bytes
ORDERED_CASES = [
    ("complete", 1, 200, 2, 100),  # in lock-step
    ("complete", 2, 2000, 3, 100_000),
    ("complete", 4, 2000, 5, 3000),
    ("complete", 4, 2000, 5, 100),
    ("complete", 4, 2000, 256, 5000),
    ("complete", 6, 2000, 1024, 1_000_000),
    ("complete", 24, 2000, 26, 1_000_000),
    ("complete", 24, 2000, 40, 3000),
    ("signals", 3, 2000, 5, 2000),
    ("signals", 12, 1000, 14, 3000),
    ("besides", 3, 1500, 4, 3000),
    ("besides", 2, 1500, 64, 100_000),
    ("stop", 3, 2000, 4, 2000),
    ("stop", 3, 2000, 64, 2000),
    ("abort", 4, 2000, 5, 2000),
    ("abort", 4, 2000, 64, 100),
]

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Gives the program built with a sanitizer; each is built once, and skipped where that cannot be."""
    folder = tmp_path_factory.mktemp("edge_stress")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    built: dict[tuple[str, ...], Path] = {}

    def compile_with(flags: list[str], source: Path, program: Path) -> subprocess.CompletedProcess[str]:
        assert compiler is not None
        extra = ["-Wno-tsan"] if "-fsanitize=thread" in flags and "clang" not in compiler else []
        # Weakened, an exchange may have an order for its failure that is stronger than that for its success.
        warnings = ["-Wall", "-Wextra", "-Wno-error" if "-DWEAKENED" in flags else "-Werror"]
        command = [*compiler.split(), "-std=c++17", "-g1", "-pthread", *warnings, *extra, *flags, f"-I{INCLUDE}"]
        return subprocess.run([*command, str(source), "-o", str(program)], capture_output=True, text=True, check=False)

    def check_sanitizer(flags: list[str]) -> None:
        """Skip where a program without a fault cannot be built and run with these flags."""
        source, program = folder / "empty.cpp", folder / "empty"
        source.write_text("#include <atomic>\nint main() { return 0; }\n")
        result = compile_with(flags, source, program)
        if result.returncode != 0:
            pytest.skip(f"the compiler cannot build with {' '.join(flags)}: {result.stderr.strip()[-300:]}")
        ran = subprocess.run([program], capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            pytest.skip(f"programs built with {' '.join(flags)} do not run here: {ran.stderr.strip()[-300:]}")

    def get(sanitizer: str, name: str, *defines: str) -> Path:
        key = (sanitizer, name, *defines)
        if key not in built:
            if compiler is None:
                pytest.skip("there is no C++ compiler")
            flags = [*FLAGS[sanitizer], *defines]

            def make(folder: Path) -> None:
                check_sanitizer(flags)
                result = compile_with(flags, HERE / "cpp" / f"{name}.cpp", folder / name)
                assert result.returncode == 0, result.stderr

            built[key] = made_once(tmp_path_factory, "_".join(key), make) / name
        return built[key]

    return get


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.pairwise
@pytest.mark.parametrize("waiting", ["spins", "parks"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.parametrize("sanitizer", FLAGS)
def test_edge_keeps_its_promises_when_threads_work_on_it(
    build: Build, sanitizer: str, case: tuple[object, ...], waiting: str
) -> None:
    mode, *numbers = case
    result = run(build(sanitizer, "edge_stress"), mode, waiting, *numbers)
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == ("ok\n", "")


@pytest.mark.pairwise
@pytest.mark.parametrize("waiting", ["spins", "parks"])
@pytest.mark.parametrize("case", ORDERED_CASES, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.parametrize("sanitizer", FLAGS)
def test_ordered_edge_keeps_its_promises_when_threads_work_on_it(
    build: Build, sanitizer: str, case: tuple[object, ...], waiting: str
) -> None:
    mode, *numbers = case
    result = run(build(sanitizer, "order_stress"), mode, waiting, *numbers)
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == ("ok\n", "")


@pytest.mark.parametrize("sanitizer", FLAGS)
def test_a_message_that_an_abort_keeps_from_the_ring_is_still_in_its_slot(build: Build, sanitizer: str) -> None:
    result = run(build(sanitizer, "order_abort"))
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == ("ok\n", "")


V2 = "0::/a/b\n"
V2_MOUNT = "38 31 0:35 / /cg rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
V1 = "9:name=systemd:/\n4:memory:/a/b\n2:cpuacct,cpu:/a/b\n1:cpuset:/\n"
V1_MOUNTS = "31 1 0:1 / /set rw - cgroup cgroup rw,cpuset\n32 1 0:2 / /cg rw - cgroup cgroup rw,cpu,cpuacct\n"

#: Files of a system, and how many processors they allow.
QUOTAS = {
    "no files": ({}, "unlimited"),
    "no quota": (
        {"proc/self/cgroup": V2, "proc/self/mountinfo": V2_MOUNT, "cg/a/b/cpu.max": "max 100000\n"},
        "unlimited",
    ),
    "of the group": (
        {"proc/self/cgroup": V2, "proc/self/mountinfo": V2_MOUNT, "cg/a/b/cpu.max": "250000 100000\n"},
        "2",
    ),
    "less than one": (
        {"proc/self/cgroup": V2, "proc/self/mountinfo": V2_MOUNT, "cg/a/b/cpu.max": "50000 100000\n"},
        "1",
    ),
    "of a group around it": (
        {
            "proc/self/cgroup": V2,
            "proc/self/mountinfo": V2_MOUNT,
            "cg/a/b/cpu.max": "800000 100000\n",
            "cg/a/cpu.max": "max 100000\n",
            "cg/cpu.max": "300000 100000\n",
        },
        "3",
    ),
    "of a container that sees a part of the tree": (
        {
            "proc/self/cgroup": "0::/docker/a/b\n",
            "proc/self/mountinfo": "38 31 0:35 /docker/a /cg rw - cgroup2 cgroup2 rw\n",
            "cg/b/cpu.max": "max 100000\n",
            "cg/cpu.max": "400000 100000\n",
            "cpu.max": "100000 100000\n",
        },
        "4",
    ),
    "of a container in a name space of its own": (
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT, "cg/cpu.max": "500000 100000\n"},
        "5",
    ),
    "version 1": (
        {
            "proc/self/cgroup": V1,
            "proc/self/mountinfo": V1_MOUNTS,
            "cg/a/b/cpu.cfs_quota_us": "-1\n",
            "cg/a/b/cpu.cfs_period_us": "100000\n",
            "cg/a/cpu.cfs_quota_us": "60000\n",
            "cg/a/cpu.cfs_period_us": "10000\n",
        },
        "6",
    ),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_quota_of_control_groups_bounds_the_processors(build: Build, tmp_path: Path, case: str) -> None:
    files, expected = QUOTAS[case]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    result = run(build("address,undefined", "processors"), tmp_path)
    assert (result.stdout, result.stderr) == (f"{expected}\n", "")


def test_processors_are_counted_that_the_process_may_run_on(build: Build) -> None:
    allowed, usable = run(build("plain", "processors")).stdout.split()
    assert int(allowed) == len(os.sched_getaffinity(0))
    assert 1 <= int(usable) <= int(allowed)


def test_thread_sanitizer_reports_when_the_orders_are_weakened(build: Build) -> None:
    result = run(build("thread", "edge_stress", "-DWEAKENED"), "complete", "spins", 4, 4, 2000, 3, 1000)
    assert "ThreadSanitizer: data race" in result.stderr
    assert result.returncode != 0


def test_thread_sanitizer_reports_when_the_orders_of_an_ordered_edge_are_weakened(build: Build) -> None:
    result = run(build("thread", "order_stress", "-DWEAKENED"), "complete", "spins", 4, 2000, 64, 100_000)
    assert "ThreadSanitizer: data race" in result.stderr
    assert result.returncode != 0
