"""Whether the kernel's OOM killer has killed processes, read from the kernel's own counters.

Sources: the kernel's documentation of cgroup v2 (`memory.events`), of cgroup v1 (`memory.oom_control`), and
`oom_kill` in /proc/vmstat.
"""

from __future__ import annotations

import re

__all__ = ["OutOfMemoryKills"]


class OutOfMemoryKills:
    """Counts the processes that the OOM killer has killed since this object was made.

    Arguments:
        root: a folder to read in place of "/", for tests.
    """

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._before = self._count()

    def happened(self) -> bool | None:
        """Whether any process was killed; None if this system, or this container, shows no counter."""
        now = self._count()
        return any(count > self._before.get(path, count) for path, count in now.items()) if now else None

    def _count(self) -> dict[str, int]:
        counters = {path: self._counter(path) for path in ("/proc/vmstat", *self._of_this_group())}
        return {path: count for path, count in counters.items() if count is not None}

    def _of_this_group(self) -> list[str]:
        paths = []
        for line in self._read("/proc/self/cgroup").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            # The path is that of the host. Inside a container the group is often mounted as the root.
            for group in {path.rstrip("/"), ""}:
                if number == "0":
                    paths.append(f"/sys/fs/cgroup{group}/memory.events")
                elif "memory" in controllers.split(","):
                    paths.append(f"/sys/fs/cgroup/memory{group}/memory.oom_control")
        return paths

    def _counter(self, path: str) -> int | None:
        found = re.search(r"^oom_kill (\d+)$", self._read(path), re.MULTILINE)
        return int(found[1]) if found else None

    def _read(self, path: str) -> str:
        try:
            with open(self._root + path, encoding="ascii", errors="replace") as file:
                return file.read()
        except OSError:  # there is no such file
            return ""
