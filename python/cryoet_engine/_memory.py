# SPDX-License-Identifier: MIT
"""Memory that there is: the machine's, or what a container or a batch system leaves of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def available_bytes() -> int:
    """Memory that this process may still take: what the machine has free, or its control group if that is less."""
    free = [_machine_bytes()]
    for group in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            limit = int((group / "memory.max").read_text())
            cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used = int((group / "memory.current").read_text()) - int(cached.get("inactive_file", 0))
            free.append(limit - used)
    return max(min(free), 0)


def total_bytes() -> int:
    """Memory that this process may hold at most, the same each time: the machine's, or its control group's if less."""
    limits = [_machine_total()]
    for group in _control_groups():
        with contextlib.suppress(OSError, ValueError):
            limits.append(int((group / "memory.max").read_text()))
    return min(limits)


def _machine_bytes() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return _machine_total()  # not Linux


def _machine_total() -> int:
    return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))


def _control_groups() -> list[Path]:
    """This process's control group (version 2) and those around it, each of which may set a limit."""
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, IndexError):
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        path = root / own[3:].strip("/")
        return [path, *(parent for parent in path.parents if parent.is_relative_to(root))]
    return []
