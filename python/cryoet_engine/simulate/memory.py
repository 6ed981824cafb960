# SPDX-License-Identifier: MIT
"""What a simulation takes of memory, told before it begins.

An upper bound, added up from the arrays that live at a time in each stage; `tests/simulate/test_memory.py` measures
that a process keeps to it.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from .._checks import input_error
from .recipe import Recipe, StoredRecipe
from .specimen import margins

_FIXED = 96 << 20  # structures, one particle's window, what the allocator does not give back
_PLANE_BYTES = 900  # for each (y, x): slabs of grain, both borders with what is computed of them


def memory_bytes(recipe: StoredRecipe) -> int:
    """The most bytes that `simulate(recipe)` takes at a time, beyond what Python and its libraries hold."""
    if not isinstance(recipe, Recipe):
        return 8 * math.prod(recipe.shape) + _FIXED  # images, truth and instances
    around = margins(recipe)
    nz, ny, nx = (n + 2 * int(m) for n, m in zip(recipe.shape, around, strict=True))
    canvas, tomogram = nz * ny * nx, math.prod(recipe.shape)
    # Potential 4, parts 1, instances 2, and one byte for what keeps particles apart.
    build = 8 * canvas + 12 * tomogram + _PLANE_BYTES * ny * nx
    held = 4 * canvas + 4 * tomogram  # the potential, truth, parts and instances
    if recipe.fast:
        record = 36.0 * canvas  # a spectrum of noise and one of signal, their weights, in part as float64
    else:
        views = 4 * len(recipe.tilt_angles_deg) * ny * (math.hypot(nz, nx) + 16)
        record = 5 * views  # as recorded, low-passed, filtered, turned, and one in the works
        if recipe.reconstruction == "sirt":
            record += 12 * nz * recipe.shape[1] * nx
        record += 4 * tomogram
    grey = 16 * tomogram
    return int(max(build, held + record, held + grey)) + _FIXED


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


def _machine_bytes() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))  # not Linux: all there is


def _control_groups() -> list[Path]:
    """This process's control group (version 2) and those around it, each of which may set a limit."""
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, IndexError):
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        path = root / own[3:].strip("/")
        return [path, *(parent for parent in path.parents if parent.is_relative_to(root))]
    return []


def check_memory(recipe: StoredRecipe, where: str) -> None:
    """Raise an InputError where the recipe's simulation does not fit the memory that there is."""
    needed, there = memory_bytes(recipe), available_bytes()
    if needed > there:
        shape = " x ".join(map(str, recipe.shape))
        raise input_error(
            where,
            f"shape {shape}",
            expected=f"what fits the {there / 2**30:.3g} GiB of memory that are free",
            got=f"{needed / 2**30:.3g} GiB needed",
            fix="choose a smaller shape, or a machine with more memory",
        )
