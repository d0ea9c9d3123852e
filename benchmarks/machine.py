"""Facts about the machine and the versions of all packages, which are stored with the figures."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DISTRIBUTIONS", "describe_machine", "usable_cores"]

DISTRIBUTIONS = (
    "pipeline-executor",
    "pipeline-lib",
    "faster-fifo",
    "mpire",
    "pypeln",
    "spdl-core",
    "torch",
    "numpy",
    "cloudpickle",
)


def usable_cores() -> int:
    """Return the number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict[str, object]:
    """Return what a reader needs to judge the figures, and nothing that identifies the machine or its user."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "usable_cores": usable_cores(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {name: version for name in DISTRIBUTIONS if (version := _version(name))},
    }


def _processor() -> str:
    for key, value in _colon_lines(Path("/proc/cpuinfo")):
        if key == "model name":
            return value
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    for key, value in _colon_lines(Path("/proc/meminfo")):
        if key == "MemTotal":
            return round(int(value.split()[0]) / 1e6, 1)
    return None


def _colon_lines(file: Path) -> Iterator[tuple[str, str]]:
    if not sys.platform.startswith("linux"):
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
