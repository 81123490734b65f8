"""What can this machine do at once? As much as its cores and its free memory allow."""

import contextlib
import os
from pathlib import Path

CGROUP = "/sys/fs/cgroup"  # where Linux reports a container's memory (cgroup v2)


def available_memory(cgroup: str | os.PathLike[str] = CGROUP) -> int | None:
    """Returns the bytes of memory that this process can still have; None where unknown.

    cgroup: the folder of a container's memory.* files.
    """
    free = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        free.append(1024 * int(lines["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, ValueError):
        limit, used = (
            int(Path(cgroup, f"memory.{name}").read_text()) for name in ("max", "current")
        )
        with contextlib.suppress(OSError, ValueError, KeyError):
            # Linux caches files that were read, but frees that memory for whoever needs it.
            statistics = Path(cgroup, "memory.stat").read_text().splitlines()
            used -= int(dict(line.split(" ", 1) for line in statistics)["inactive_file"])
        free.append(limit - used)
    return min(free, default=None)


def usable_cores() -> int:
    """Returns the number of cores that this process may use, in its container on Linux."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, Path(CGROUP, "cpu.max").read_text().split())
        count = min(count, max(quota // period, 1))
    return count
