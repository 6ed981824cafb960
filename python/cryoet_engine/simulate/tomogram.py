# SPDX-License-Identifier: MIT
"""From a recipe to a tomogram with its truth."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from .._progress import Progress, silent
from ..cuda.device import DeviceName, choose_device
from ..volume import Float32Array, Volume
from .complexes import ComplexRecipe, build_complexes
from .liposomes import LiposomeRecipe, build_liposomes
from .membranes2d import MembraneImages, Membranes2DRecipe, draw_membranes
from .memory import check_memory
from .microscope import record_tilt_series
from .recipe import Recipe, StoredRecipe, VirionRecipe
from .reconstruction import reconstruct, record_directly
from .snr import dose_factor
from .specimen import Particle, Specimen
from .virions import build_virions


@dataclass(frozen=True, eq=False)
class Simulation:
    """A tomogram whose every voxel is known.

    tomogram: (z, y, x), grey values, protein dark. truth: uint8, numbers of `recipe.classes`, 0 the background.
    parts: uint8, finer labels, numbers of `recipe.parts`. instances: uint16, 0 for none, else a particle's number.
    particles: what was placed. recipe: what it was made from. notes: what did not go as the recipe asked, in words.
    """

    tomogram: Volume
    truth: Volume
    parts: Volume
    instances: Volume
    particles: tuple[Particle, ...]
    recipe: StoredRecipe
    notes: tuple[str, ...] = ()


#: How specimens are built, by the type of their recipe.
_BUILDERS: Mapping[type[Recipe], Callable[..., Specimen]] = {
    VirionRecipe: build_virions,
    LiposomeRecipe: build_liposomes,
    ComplexRecipe: build_complexes,
}

_RECIPES: tuple[type[StoredRecipe], ...] = (*_BUILDERS, Membranes2DRecipe)

#: Kind -> type of recipe.
KINDS: Mapping[str, type[StoredRecipe]] = {recipe.kind: recipe for recipe in _RECIPES}


def read_recipe(text: str) -> StoredRecipe:
    """A recipe of any kind from TOML, whose `kind` says which. InputError: what is wrong with it."""
    where = "read_recipe"
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise input_error(where, "recipe", expected="TOML", got=str(error)) from error
    kind = str(entries.get("kind"))
    if kind not in KINDS:
        raise input_error(where, "kind", expected=", ".join(KINDS), got=repr(entries.get("kind")))
    entries.pop("strokes", None)  # how they are drawn stands beside it in a tomogram's folder (see `storage`)
    return KINDS[kind].from_entries(entries)


def simulate(recipe: StoredRecipe, *, device: DeviceName = "cpu", progress: Progress = silent) -> Simulation:
    """Build a specimen, record a tilt series of it and reconstruct it; or draw images (see `Membranes2DRecipe`).

    The same recipe gives the same bytes, on any number of threads. device: "cuda" projects and back-projects on an
    NVIDIA card, which rounds otherwise: grey values may differ by one. An exception from `progress` cancels.
    InputError: it does not fit into memory (see `memory_bytes`), or there is no such device.
    """
    if not isinstance(recipe, Recipe | Membranes2DRecipe):
        raise input_error("simulate", "recipe", expected=f"one of {', '.join(KINDS)}", got=type(recipe).__name__)
    check_memory(recipe, "simulate")
    on_card = choose_device(device, where="simulate") is not None
    # Specimen and microscope draw from streams of their own: one specimen can be photographed in many ways.
    specimen_rng, microscope_rng = (np.random.default_rng([recipe.seed, stream]) for stream in range(2))
    if isinstance(recipe, Membranes2DRecipe):
        drawn = draw_membranes(recipe, specimen_rng, progress=progress)
        return _simulation(recipe, drawn.images, drawn)
    specimen = _BUILDERS[type(recipe)](recipe, specimen_rng, progress=progress)
    density = image(specimen, recipe, microscope_rng, on_card=on_card, progress=progress)
    return _simulation(recipe, _grey_scale(density, recipe), specimen)


def _simulation(recipe: StoredRecipe, grey: npt.NDArray[Any], made: Specimen | MembraneImages) -> Simulation:
    note = f"simulated {recipe.kind}, seed {recipe.seed}"

    def volume(data: npt.NDArray[Any], what: str) -> Volume:
        return Volume(data, voxel_size_A=(recipe.voxel_size_A,) * 3, notes=tuple(textwrap.wrap(what, 80)))

    return Simulation(
        volume(grey, note),
        volume(made.truth, f"truth of {note}: {', '.join(f'{i} {c}' for i, c in enumerate(recipe.classes))}"),
        volume(made.parts, f"parts of {note}"),
        volume(made.instances, f"instances of {note}"),
        made.particles,
        recipe,
        made.notes,
    )


def image(
    specimen: Specimen,
    recipe: Recipe,
    rng: np.random.Generator | None,
    *,
    on_card: bool = False,
    progress: Progress = silent,
) -> Float32Array:
    """The reconstructed density of a specimen's box, in contrast per voxel; rng None: without noise and errors."""
    size, potential = recipe.voxel_size_A, specimen.potential
    factor = 1.0 if rng is None else dose_factor(recipe, progress=progress)
    if recipe.fast:
        return record_directly(
            potential, specimen.box, recipe, voxel_size_A=size, rng=rng, dose_factor=factor, progress=progress
        )
    series = record_tilt_series(
        potential, recipe, voxel_size_A=size, rng=rng, dose_factor=factor, on_card=on_card, progress=progress
    )
    return reconstruct(series, potential.shape, specimen.box, recipe, on_card=on_card, progress=progress)


def simulate_virions(recipe: VirionRecipe | None = None, *, progress: Progress = silent) -> Simulation:
    """`simulate` for virions; by default those of a plain VirionRecipe."""
    return simulate(VirionRecipe() if recipe is None else recipe, progress=progress)


def simulate_membranes_2d(recipe: Membranes2DRecipe | None = None, *, progress: Progress = silent) -> Simulation:
    """`simulate` for images of membranes, stacked along z; by default the 2000 of a plain Membranes2DRecipe."""
    return simulate(Membranes2DRecipe() if recipe is None else recipe, progress=progress)


def _grey_scale(density: Float32Array, recipe: Recipe) -> npt.NDArray[Any]:
    """Mean `offset`, standard deviation `gain`."""
    mean, std = density.mean(dtype=np.float64), density.std(dtype=np.float64)
    scale, kind = np.float32(recipe.gain / std), np.dtype(recipe.dtype)
    grey = np.empty(density.shape, kind)
    for z, plane in enumerate(density):
        values = np.float32(recipe.offset) + (plane - np.float32(mean)) * scale
        if kind.kind == "i":
            values = np.clip(np.rint(values), np.iinfo(kind).min, np.iinfo(kind).max)
        grey[z] = values
    return grey
