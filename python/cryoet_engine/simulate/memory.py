# SPDX-License-Identifier: MIT
"""What a simulation takes of memory, told before it begins.

An upper bound, added up from the arrays that live at a time in each stage; `tests/simulate/test_memory.py` measures
that a process keeps to it.
"""

from __future__ import annotations

import math

from .._checks import input_error
from .._memory import available_bytes
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
