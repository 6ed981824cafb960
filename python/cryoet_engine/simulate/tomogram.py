# SPDX-License-Identifier: MIT
"""From a recipe to a tomogram with its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._progress import Progress, silent
from ..volume import Float32Array, Volume
from .microscope import reconstruct, record_tilt_series
from .phantom import build_virions
from .recipe import VirionRecipe


@dataclass(frozen=True, eq=False)
class Simulation:
    """A tomogram whose every voxel is known.

    tomogram: (z, y, x), grey values, protein dark. truth: uint8, 1 background, 2 membrane, 3 spikes, 4 lumen.
    recipe: what it was made from. notes: what did not go as the recipe asked, in words.
    """

    tomogram: Volume
    truth: Volume
    recipe: VirionRecipe
    notes: tuple[str, ...] = ()


def simulate_virions(recipe: VirionRecipe | None = None, *, progress: Progress = silent) -> Simulation:
    """Build virions in ice, record a tilt series of them and reconstruct it.

    The same recipe gives the same bytes. Memory: about 35 bytes a voxel. An exception from `progress` cancels.
    """
    recipe = VirionRecipe() if recipe is None else recipe
    # Specimen and microscope draw from streams of their own: one specimen can be photographed in many ways.
    specimen, microscope = (np.random.default_rng([recipe.seed, stream]) for stream in range(2))
    phantom = build_virions(recipe, specimen, progress=progress)
    series = record_tilt_series(
        phantom.potential, recipe, voxel_size_A=recipe.voxel_size_A, rng=microscope, progress=progress
    )
    density = reconstruct(series, phantom.potential.shape, phantom.box, progress=progress)
    note = f"simulated virions, seed {recipe.seed}"
    size = (recipe.voxel_size_A,) * 3
    tomogram = Volume(_grey_scale(density, recipe), voxel_size_A=size, notes=(note,))
    truth = Volume(phantom.truth, voxel_size_A=size, notes=(f"truth of {note}",))
    return Simulation(tomogram, truth, recipe, phantom.notes)


def _grey_scale(density: Float32Array, recipe: VirionRecipe) -> npt.NDArray[Any]:
    """Mean `offset`, standard deviation `gain`."""
    mean, std = density.mean(dtype=np.float64), density.std(dtype=np.float64)
    grey = np.float32(recipe.offset) + (density - np.float32(mean)) * np.float32(recipe.gain / std)
    if recipe.dtype == "float32":
        return grey
    kind = np.iinfo(recipe.dtype)
    return np.asarray(np.clip(np.rint(grey), kind.min, kind.max), dtype=recipe.dtype)
