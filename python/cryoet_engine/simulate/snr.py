# SPDX-License-Identifier: MIT
"""The signal-to-noise ratio of Frank and Al-Ali (Nature 256:376, 1975), measured, and met by counting electrons.

Of two aligned, equally noisy records of one structure the correlation coefficient is r = S / (S + N), S being the
variance of what they share and N that of the noise; so the ratio is S / N = r / (1 - r). Records are boxes about a
lone complex, and variances those within a box; the ratio depends on its edge, therefore, and falls as the box grows.

Counting more electrons (not exposing to more, which would do damage) leaves S as it is and divides N. Both are
measured on reconstructions of one row of boxes, S without noise, N without a specimen, and the factor follows:

    dose factor = asked ratio * N(factor 1) / S

(Behind protein fewer electrons arrive than in an empty row, and make less noise. That is below 1 %, and left out.)

What is shared is what the recipe's own microscope makes of the complex, its errors of alignment and defocus included:
all copies of a tomogram have them in common, so they blur, which lowers S, but do not tell copies apart. They are drawn
as for the tomogram itself, so each tomogram has the ratio that was asked for, however unlucky its errors. (Copies from
different tomograms share less; their ratio is lower.)

S depends on the orientation, through the missing wedge. For complexes that lie anyhow it is the mean over six
orientations: any one, with its axes permuted. The region that a tilt series measures is mirror-symmetric along each
axis, so this is the mean over the octahedral group's 24, which is exact for all spherical harmonics below order 4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from .._checks import input_error
from .._progress import Progress, silent
from ..volume import Float32Array, Region
from ._ranges import number
from .complexes import ComplexRecipe, read_complexes
from .microscope import Imaging, record_tilt_series
from .recipe import Recipe
from .reconstruction import reconstruct, record_directly
from .specimen import margins
from .structures import Matrix, Structure

_AROUND_VOX = 8  # between a box's face and its neighbour's; defocus spreads a complex by less at 10 Å
_NOISE_VOXELS = 4_000_000  # of noise at least: its variance is then known to 0.35 %
_NOISE_EDGE = 64  # about the edge of the noise's section across the tilt axis, in voxels
_NO_NOISE = 1e9  # a dose factor at which a count is its own expectation
_ANY_ORIENTATION = (0.36, 0.48, 0.8)  # axis of a turn by one radian, after which nothing lies along the grid


class MeasuredSnr(NamedTuple):
    """A measured ratio and its standard error, from leaving out one copy after the other (jackknife)."""

    snr: float
    standard_error: float


def frank_al_ali_snr(copies: npt.NDArray[Any]) -> float:
    """r / (1 - r), r being the mean of Pearson's correlation coefficients of all pairs of aligned copies.

    copies: (n, z, y, x), two at least. Takes O(n): the sum over all pairs of unit vectors' products is the squared
    length of their sum. In float64.

    Errors: InputError for fewer than two copies, and for a copy that is constant or not finite.
    """
    unit = _unit_copies(copies)
    return _ratio(_mean_correlation(np.sum(unit, axis=0), len(unit)))


def _unit_copies(copies: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Copies as vectors (n, voxels) of mean 0 and length 1."""
    found = np.asarray(copies)
    if found.ndim < 2 or len(found) < 2:
        expected = "two copies or more (n, z, y, x)"
        raise input_error("frank_al_ali_snr", "copies", expected=expected, got=f"shape {found.shape}")
    rows = found.reshape(len(found), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.sum(rows * rows, axis=1))
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        wrong = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
        raise input_error("frank_al_ali_snr", f"copy {wrong}", expected="finite values that vary", got="none")
    rows /= lengths[:, None]
    return np.asarray(rows)


def _mean_correlation(total: npt.NDArray[np.float64], n: int) -> float:
    return (float(np.sum(total * total)) - n) / (n * (n - 1))


def _ratio(r: float) -> float:
    return r / (1 - r) if r < 1 else math.inf


def measured_snr(recipe: ComplexRecipe, *, copies: int = 48, progress: Progress = silent) -> MeasuredSnr:
    """Simulate aligned copies of the recipe's reference, with noise of their own, and measure their ratio.

    What a recipe with `snr` asks for is met to 1.5 %, beside the error of measuring it. Copies stand in a row with
    nothing around them; there are as many of each of the orientations over which the calibration takes its mean, and at
    least three.

    Errors: those of `dose_factor`; InputError for a wrong number of copies.
    """
    number("measured_snr", "copies", copies, 2, 10_000, whole=True)
    structure = reference(recipe)
    poses = _poses(recipe.aligned)
    each = max(3, math.ceil(copies / len(poses)))  # leaving one out has to leave a pair
    row = _Row(structure, recipe, recipe.voxel_size_A, recipe.snr_box, _depth(recipe))
    factor = dose_factor(recipe, progress=progress)
    # A generator as the tomogram's, for its errors; the calibration's noise comes from this one's later children.
    rng = _microscope_rng(recipe)
    boxes = row.copies([pose for pose in poses for _ in range(each)], rng, dose_factor=factor, progress=progress)
    found = [_with_error(boxes[i * each : (i + 1) * each]) for i in range(len(poses))]
    mean = sum(one.snr for one in found) / len(found)
    return MeasuredSnr(mean, math.sqrt(sum(one.standard_error**2 for one in found)) / len(found))


def _with_error(copies: Float32Array) -> MeasuredSnr:
    unit = _unit_copies(copies)
    total, n = np.sum(unit, axis=0), len(unit)
    ratio = _ratio(_mean_correlation(total, n))
    without = np.array([_ratio(_mean_correlation(total - one, n - 1)) for one in unit])
    return MeasuredSnr(ratio, math.sqrt((n - 1) / n * float(np.sum((without - without.mean()) ** 2))))


def dose_factor(recipe: Recipe, *, progress: Progress = silent) -> float:
    """What multiplies the electrons that are counted in a recipe's tomogram: 1 unless it asks for a ratio.

    Errors: those of `read_structure`; InputError where the reference shows nothing in its box.
    """
    if not isinstance(recipe, ComplexRecipe) or not recipe.snr:
        return 1.0
    return dose_factor_for(
        recipe.snr,
        reference(recipe),
        recipe,
        voxel_size_A=recipe.voxel_size_A,
        box=recipe.snr_box,
        rng=_microscope_rng(recipe),
        depth=_depth(recipe),
        aligned=recipe.aligned,
        progress=progress,
    )


def _depth(recipe: ComplexRecipe) -> int:
    return recipe.shape[0] + 2 * margins(recipe)[0]


def reference(recipe: ComplexRecipe) -> Structure:
    """The complex whose ratio is meant."""
    return read_complexes(recipe)[recipe.names.index(recipe.snr_reference) if recipe.snr_reference else 0]


def _microscope_rng(recipe: ComplexRecipe) -> Generator:
    return np.random.default_rng([recipe.seed, 1])  # as in `simulate`


def dose_factor_for(
    snr: float,
    structure: Structure,
    imaging: Imaging,
    *,
    voxel_size_A: float,
    box: int,
    rng: Generator,
    depth: int = 0,
    aligned: bool = False,
    progress: Progress = silent,
) -> float:
    """The factor on the counted electrons at which aligned copies of a lone complex have a ratio, in boxes of `box`^3.

    rng: a fresh generator of the seed that the tomogram's recording is given: both then draw the same errors.
    depth: of the specimen that the tomogram shows, in voxels; `fast` goes by it: its wedge is as sharp as that allows.
    aligned: copies stand upright; else S is the mean over orientations.

    Errors: InputError for SIRT, whose noise is not the same everywhere, and where the complex shows nothing in its box.
    """
    if imaging.reconstruction != "wbp":
        fix = "SIRT's noise depends on the place: a tomogram has no one ratio"
        raise input_error("dose_factor_for", "reconstruction", expected="wbp", got=imaging.reconstruction, fix=fix)
    row = _Row(structure, imaging, voxel_size_A, box, depth)
    share = _mean_variance(row.copies(_poses(aligned), rng, dose_factor=_NO_NOISE, progress=progress))
    noise = _mean_variance(row.empty(_NOISE_VOXELS, rng, progress=progress))
    # Below that, what is left of the noise (1 / _NO_NOISE) would be taken for signal.
    if not share > 1e-6 * noise:
        got, fix = f"{share / noise:.2g} of the noise's variance", "a box that holds more of it, or other optics"
        raise input_error("dose_factor_for", structure.name, expected="a complex that shows", got=got, fix=fix)
    return snr * noise / share


def _mean_variance(boxes: Float32Array) -> float:
    return sum(float(np.var(one, dtype=np.float64)) for one in boxes) / len(boxes)


def _poses(aligned: bool) -> list[Matrix]:
    """Upright, or six orientations (see above)."""
    if aligned:
        return [np.eye(3)]
    axis = np.array(_ANY_ORIENTATION)  # of length 1
    # Rodrigues' formula, for one radian.
    turn = (
        math.cos(1.0) * np.eye(3)
        + math.sin(1.0) * np.cross(np.eye(3), axis)
        + (1 - math.cos(1.0)) * np.outer(axis, axis)
    )
    poses: list[Matrix] = []
    for order in itertools.permutations(range(3)):
        exchange = np.eye(3)[list(order)]
        poses.append(round(np.linalg.det(exchange)) * turn[list(order)])
    return poses


class _Row:
    """Boxes in a row along the tilt axis, where neighbours are projected to places of their own."""

    def __init__(self, structure: Structure, imaging: Imaging, voxel_size_A: float, box: int, depth: int) -> None:
        self.structure, self.imaging, self.voxel, self.box = structure, imaging, voxel_size_A, box
        self.period = max(box, math.ceil(2 * structure.radius_A / voxel_size_A) + 1) + 2 * _AROUND_VOX
        # What weighted back-projection makes of a place does not depend on how far the specimen goes on around it.
        self.depth = max(self.period, depth) if imaging.fast else self.period

    def copies(
        self, poses: Sequence[Matrix], rng: Generator, *, dose_factor: float, progress: Progress
    ) -> Float32Array:
        """Reconstructions (n, box, box, box) of the complex in these orientations."""
        potential = np.zeros((self.depth, len(poses) * self.period, self.period), np.float32)
        for i, one in enumerate(poses):
            turned = self.structure.rotated(one)
            middle = np.array([self.depth // 2, i * self.period + self.period // 2, self.period // 2])
            first = middle - np.array(turned.centre)
            z, y, x = (slice(int(a), int(a) + s) for a, s in zip(first, turned.potential.shape, strict=True))
            potential[z, y, x] += turned.potential
        shown = self._reconstructed(potential, self.box, rng, dose_factor, progress)
        start = self.period // 2 - self.box // 2
        rows = shown.reshape(self.box, len(poses), self.period, self.box)[:, :, start : start + self.box]
        return np.ascontiguousarray(rows.transpose(1, 0, 2, 3))

    def empty(self, voxels: int, rng: Generator, *, progress: Progress) -> Float32Array:
        """Boxes (n, box, box, box) of noise alone at a dose factor of one, wall to wall, of so many voxels or more."""
        box, side = self.box, max(1, _NOISE_EDGE // self.box)
        n = math.ceil(voxels / (side**2 * box**3))
        depth = self.depth if self.imaging.fast else side * box
        potential = np.zeros((max(depth, side * box), n * box, side * box), np.float32)
        shown = self._reconstructed(potential, side * box, rng, 1.0, progress)
        cut = shown.reshape(side, box, n, box, side, box)
        return np.ascontiguousarray(cut.transpose(0, 2, 4, 1, 3, 5)).reshape(-1, box, box, box)

    def _reconstructed(
        self, potential: Float32Array, edge: int, rng: Generator, dose_factor: float, progress: Progress
    ) -> Float32Array:
        """(edge, y, edge), the middle of each section across the tilt axis."""
        z, x = (slice(n // 2 - edge // 2, n // 2 - edge // 2 + edge) for n in (potential.shape[0], potential.shape[2]))
        region: Region = (z, slice(0, potential.shape[1]), x)
        imaging = self.imaging
        settings: dict[str, Any] = {"voxel_size_A": self.voxel, "rng": rng, "dose_factor": dose_factor}
        if imaging.fast:
            return record_directly(potential, region, imaging, **settings, progress=progress)
        series = record_tilt_series(potential, imaging, **settings, progress=progress)
        return reconstruct(series, potential.shape, region, imaging, progress=progress)
