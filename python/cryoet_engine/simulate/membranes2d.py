# SPDX-License-Identifier: MIT
"""Images of simulated membranes to train a two-dimensional network on (paper 2, section 4.1).

Ellipses and circles of varied size, thickness and orientation, small discs beside them for proteins with a globular
domain, and grey values drawn pixel by pixel from one Gaussian for each class, fitted to a tomogram's histograms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import ndimage, optimize
from scipy.special import ndtr

from .._checks import input_error
from .._progress import Progress, silent
from ..volume import Volume
from ._ranges import choice, number, span, triple, within
from .recipe import StoredRecipe
from .specimen import Particle

_CLEAR_PX = 2.0  # at least, between things of an image
_TRIES = 40  # of a membrane or a protein, before it is left out
_MOST_INSTANCES = 65535  # uint16
_LEAST_VOXELS = 30  # of a class, to fit a Gaussian to
_LEAST_BINS = 5
_FLANK, _ROUNDS = 2.0, 4  # deviations that a fit looks at, and how often it looks anew


@dataclass(frozen=True, kw_only=True)
class Membranes2DRecipe(StoredRecipe):
    """A stack of images of simulated membranes with labels; nothing in them comes from a microscope.

    shape: (image, y, x): how many images, and their size in pixels. Paper 2 trains on 2000.
    voxel_size_A: edge of a pixel.
    n_membranes: least and largest number of an image. diameter_nm: of their long axes, from middle to middle of the
        membrane; those that reach beyond the image are cut. circle_share: of them, are circles; the rest are ellipses
        whose short axis is axis_ratio (least, largest) of the long one, at any orientation.
    thickness_nm: least and largest thickness of a membrane; it is the same all around.
    n_proteins: least and largest number of discs beside a membrane, on either side. protein_diameter_nm: of them.
    protein_distance_nm: from the membrane's border to the disc's.
    background_mean, background_std and so on: the Gaussian of each class's grey values, protein dark (see
        `fit_intensities`). The defaults are those of a real tomogram of 8 bit.
    correlation_vox: the noise's, as the standard deviation of a Gaussian filter; 0 is white noise, as in the paper.
    dtype: of the images; int8 and int16 are rounded and clipped.
    """

    kind: ClassVar[str] = "membranes-2d"

    shape: tuple[int, int, int] = triple((2000, 256, 256), 1, 65536, whole=True)
    n_membranes: tuple[int, int] = span((1, 4), 0, 100, whole=True)
    diameter_nm: tuple[float, float] = span((50.0, 220.0), 1, 10_000)
    circle_share: float = within(0.3, 0, 1)
    axis_ratio: tuple[float, float] = span((0.5, 0.95), 0.2, 1)
    thickness_nm: tuple[float, float] = span((5.0, 10.0), 0.5, 1000)
    n_proteins: tuple[int, int] = span((0, 8), 0, 1000, whole=True)
    protein_diameter_nm: tuple[float, float] = span((8.0, 13.0), 0.5, 1000)
    protein_distance_nm: tuple[float, float] = span((0.0, 6.0), 0, 1000)
    background_mean: float = within(8.0, -1e12, 1e12)
    background_std: float = within(20.0, 0, 1e12)
    membrane_mean: float = within(-64.0, -1e12, 1e12)
    membrane_std: float = within(27.0, 0, 1e12)
    protein_mean: float = within(-64.0, -1e12, 1e12)
    protein_std: float = within(27.0, 0, 1e12)
    correlation_vox: float = within(0.0, 0, 20)
    dtype: str = choice("int8", "int8", "int16", "float32")

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        if min(self.shape[1:]) < 8:
            raise input_error(where, "shape", expected="images of 8 x 8 pixels or more", got=self.shape)
        # Twice the radius of an ellipse's sharpest bend: a thicker membrane would fold over there.
        widest = (self.axis_ratio[0] if self.circle_share < 1 else 1.0) ** 2 * self.diameter_nm[0]
        if self.thickness_nm[1] > widest:
            expected = f"at most {widest:g}, for the smallest, slimmest ellipse bends too sharply for more"
            fix = "make them larger, rounder or thinner"
            raise input_error(where, "thickness_nm", expected=expected, got=self.thickness_nm[1], fix=fix)

    @property
    def parts(self) -> Mapping[str, str]:
        """Part -> class."""
        return {"background": "background", "membrane": "membrane", "protein": "protein"}


@dataclass(frozen=True, eq=False)
class MembraneImages:
    """Images (image, y, x) of the recipe's dtype; truth uint8: 0 background, 1 membrane, 2 protein.

    instances: uint16, 0 for none, else a particle's number, which counts on from image to image.
    """

    images: npt.NDArray[Any]
    truth: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint16]
    particles: tuple[Particle, ...]
    notes: tuple[str, ...]

    @property
    def parts(self) -> npt.NDArray[np.uint8]:
        """Finer labels, of which there are none."""
        return self.truth


def draw_membranes(recipe: Membranes2DRecipe, rng: Generator, *, progress: Progress = silent) -> MembraneImages:
    """Draw the images of a recipe. Each has a stream of random numbers of its own: more images change none.

    Errors: InputError for more than 65535 membranes and proteins, the most that `instances` tells apart.
    """
    images = np.empty(recipe.shape, recipe.dtype)
    labels, instances = np.zeros(recipe.shape, np.uint8), np.zeros(recipe.shape, np.uint16)
    particles: list[Particle] = []
    missing = np.zeros(2, int)
    for i, stream in enumerate(rng.spawn(recipe.shape[0])):
        if i % 8 == 0:
            progress("images", i, recipe.shape[0])
        missing += _draw_image(i, labels[i], instances[i], particles, recipe, stream)
        _draw_grey(images[i], labels[i], recipe, stream)
    progress("images", recipe.shape[0], recipe.shape[0])
    n = sum(particle.part == "membrane" for particle in particles)
    notes = [
        f"placed {placed} of {placed + left_out} {what}: no room was found for more"
        for what, placed, left_out in (("membranes", n, missing[0]), ("proteins", len(particles) - n, missing[1]))
        if left_out
    ]
    return MembraneImages(images, labels, instances, tuple(particles), tuple(notes))


@dataclass(frozen=True)
class _Ellipse:
    """Centre (y, x), long and short semi-axis in pixels, and the angle of the long one against x, in radians."""

    centre: tuple[float, float]
    long: float
    short: float
    angle: float

    def distance(self, y: npt.NDArray[Any], x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Distance of points from the ellipse, positive outside, exact to first order."""
        dy, dx = y - self.centre[0], x - self.centre[1]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        level = np.hypot(u / self.long, v / self.short)
        slope = np.hypot(u / self.long**2, v / self.short**2) / np.maximum(level, 1e-9)
        return np.asarray((level - 1) / np.maximum(slope, 1e-9))

    def outline(self, turn: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Points (2, n) and outward unit normals there, (y, x), at parameters `turn` in radians."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u, v = self.long * np.cos(turn), self.short * np.sin(turn)
        nu, nv = self.short * np.cos(turn), self.long * np.sin(turn)
        norm = np.hypot(nu, nv)
        points = np.stack([self.centre[0] + sin * u + cos * v, self.centre[1] + cos * u - sin * v])
        return points, np.stack([sin * nu + cos * nv, cos * nu - sin * nv]) / norm


@dataclass(frozen=True)
class _Wall:
    """A membrane: the ellipse is its middle, `half` half of its thickness in pixels."""

    ellipse: _Ellipse
    half: float

    def distance(self, y: float, x: float) -> float:
        """Of a point from the middle, whatever the side."""
        return float(np.abs(self.ellipse.distance(np.array(y), np.array(x))))


def _draw_image(
    image: int,
    labels: npt.NDArray[np.uint8],
    instances: npt.NDArray[np.uint16],
    particles: list[Particle],
    recipe: Membranes2DRecipe,
    rng: Generator,
) -> npt.NDArray[np.intp]:
    """Membranes and proteins of one image; how many of each had no room."""
    y, x = np.ogrid[: labels.shape[0], : labels.shape[1]]
    size = recipe.voxel_size_A / 10  # nm a pixel
    missing = np.zeros(2, np.intp)
    walls: list[_Wall] = []
    for _ in range(int(rng.integers(recipe.n_membranes[0], recipe.n_membranes[1] + 1))):
        half = rng.uniform(*recipe.thickness_nm) / size / 2
        for _ in range(_TRIES):
            ellipse = _random_ellipse(recipe, rng, labels.shape)
            distance = np.abs(ellipse.distance(y, x))
            own = distance < half
            if own.any() and not labels[distance < half + _CLEAR_PX].any():
                whole = not (own[[0, -1]].any() or own[:, [0, -1]].any())
                instances[own] = _new_particle(particles, "membrane", image, ellipse.centre, whole)
                labels[own] = 1
                walls.append(_Wall(ellipse, half))
                break
        else:
            missing[0] += 1
    for wall in walls:
        for _ in range(int(rng.integers(recipe.n_proteins[0], recipe.n_proteins[1] + 1))):
            missing[1] += not _draw_protein(image, labels, instances, particles, wall, walls, recipe, rng)
    return missing


def _draw_protein(
    image: int,
    labels: npt.NDArray[np.uint8],
    instances: npt.NDArray[np.uint16],
    particles: list[Particle],
    own_wall: _Wall,
    walls: list[_Wall],
    recipe: Membranes2DRecipe,
    rng: Generator,
) -> bool:
    """A disc beside a membrane, clear of all else; False where no room was found."""
    size = recipe.voxel_size_A / 10
    radius = rng.uniform(*recipe.protein_diameter_nm) / size / 2
    away = own_wall.half + radius + rng.uniform(*recipe.protein_distance_nm) / size
    for _ in range(_TRIES):
        point, normal = own_wall.ellipse.outline(rng.uniform(0, 2 * math.pi, 1))
        cy, cx = (float(v) for v in (point + (away if rng.uniform() < 0.5 else -away) * normal)[:, 0])
        # On the inside, the other side of its own membrane may be as near.
        if any(
            wall.distance(cy, cx) < (away - 0.5 if wall is own_wall else wall.half + radius + _CLEAR_PX)
            for wall in walls
        ):
            continue
        window = tuple(
            slice(max(math.floor(c - radius - _CLEAR_PX), 0), max(math.ceil(c + radius + _CLEAR_PX) + 1, 0))
            for c in (cy, cx)
        )
        y, x = np.ogrid[window]
        inside = labels[window]
        distance = np.hypot(y - cy, x - cx)[: inside.shape[0], : inside.shape[1]]
        own = distance < radius
        if own.any() and not inside[own].any() and not np.any(inside[distance < radius + _CLEAR_PX] == 2):
            reach = min(cy, cx, labels.shape[0] - 1 - cy, labels.shape[1] - 1 - cx)
            instances[window][own] = _new_particle(particles, "protein", image, (cy, cx), reach > radius)
            inside[own] = 2
            return True
    return False


def _random_ellipse(recipe: Membranes2DRecipe, rng: Generator, shape: tuple[int, ...]) -> _Ellipse:
    long = rng.uniform(*recipe.diameter_nm) * 5 / recipe.voxel_size_A
    is_circle = rng.uniform() < recipe.circle_share
    ratio = rng.uniform(*recipe.axis_ratio)
    cy, cx = (float(rng.uniform(0, n - 1)) for n in shape)
    return _Ellipse((cy, cx), long, long if is_circle else long * ratio, float(rng.uniform(0, math.pi)))


def _new_particle(particles: list[Particle], part: str, image: int, centre: tuple[float, float], whole: bool) -> int:
    if len(particles) == _MOST_INSTANCES:
        expected = f"at most {_MOST_INSTANCES} membranes and proteins"
        raise input_error("simulate", "shape", expected=expected, got="more", fix="ask for fewer images at a time")
    particles.append(Particle(len(particles) + 1, part, (float(image), *centre), None, whole))
    return len(particles)


def _draw_grey(
    image: npt.NDArray[Any], labels: npt.NDArray[np.uint8], recipe: Membranes2DRecipe, rng: Generator
) -> None:
    noise = rng.standard_normal(labels.shape, dtype=np.float32)
    if recipe.correlation_vox:
        # Periodic, so that its standard deviation is one everywhere.
        halo = int(4 * recipe.correlation_vox + 0.5)
        taps = ndimage.gaussian_filter1d(np.eye(1, 2 * halo + 1, halo)[0], recipe.correlation_vox)
        noise = ndimage.gaussian_filter(noise, recipe.correlation_vox, mode="wrap")
        noise /= np.float32(np.sum(taps**2))
    means = np.array([recipe.background_mean, recipe.membrane_mean, recipe.protein_mean], np.float32)
    stds = np.array([recipe.background_std, recipe.membrane_std, recipe.protein_std], np.float32)
    grey = means[labels] + stds[labels] * noise
    if image.dtype.kind == "i":
        grey = np.clip(np.rint(grey), np.iinfo(image.dtype).min, np.iinfo(image.dtype).max)
    image[:] = grey


def fit_intensities(
    tomogram: Volume, labels: Volume, *, background: int = 1, membrane: int = 2, protein: int | None = None
) -> dict[str, float]:
    """Gaussians of a tomogram's classes, as fields of a recipe: `Membranes2DRecipe(**fit_intensities(...))`.

    labels: strokes, whole numbers of the tomogram's shape; background, membrane and protein are those of each class.
    protein None: proteins are taken to be as dark as membranes.

    A Gaussian is fitted to each class's histogram, as in paper 2 (section 4.1): by least squares, over two standard
    deviations to either side. Mean and standard deviation would be the best estimate if all were Gaussian; but strokes
    stray over borders, and 8 bit clip the tails to their ends. A histogram shows both apart from the flanks: stray
    voxels lie beyond two deviations, if they differ so much; the least and the largest value, where clipped ones
    gather, are left out.

    Errors: InputError for labels of another shape or type, and for classes with fewer than 30 voxels or one value.
    """
    where = "fit_intensities"
    if labels.shape != tomogram.shape:
        raise input_error(where, "labels", expected=f"shape {tomogram.shape}", got=labels.shape)
    marks = labels.numpy()
    if marks.dtype.kind not in "iu":
        raise input_error(where, "labels", expected="whole numbers", got=marks.dtype)
    classes = {"background": background, "membrane": membrane, "protein": membrane if protein is None else protein}
    found: dict[str, float] = {}
    for name, value in classes.items():
        value = number(where, name, value, 0, 2**31, whole=True)
        mean, std = _fit_gaussian(where, name, _values(tomogram, marks, value), tomogram.dtype)
        found |= {f"{name}_mean": mean, f"{name}_std": std}
    return found


def _values(tomogram: Volume, marks: npt.NDArray[Any], value: int) -> npt.NDArray[Any]:
    """Grey values under a class's strokes, plane by plane: a tomogram may be larger than memory."""
    planes = [z for z in range(marks.shape[0]) if np.any(marks[z] == value)]
    all_of = slice(None)
    found = [tomogram.block((slice(z, z + 1), all_of, all_of))[0][marks[z] == value] for z in planes]
    return np.concatenate(found) if found else np.empty(0, np.float32)


def _fit_gaussian(where: str, name: str, values: npt.NDArray[Any], kind: np.dtype[Any]) -> tuple[float, float]:
    """Mean and standard deviation of the Gaussian of a histogram; kind: the type in which values were stored."""
    grey = values.astype(np.float64)
    if len(grey) < _LEAST_VOXELS:
        expected = f"{_LEAST_VOXELS} labelled voxels or more"
        raise input_error(where, name, expected=expected, got=len(grey), fix="draw more strokes, or check the numbers")
    if not np.isfinite(grey).all():
        raise input_error(where, name, expected="finite grey values", got="some that are not")
    low, middle, high = (float(v) for v in np.percentile(grey, [15.87, 50, 84.13]))
    spread = (high - low) / 2
    if spread <= 0:
        raise input_error(where, name, expected="grey values that vary", got=f"{middle:g} almost everywhere")
    counts, edges = _histogram(grey, middle, spread, kind)
    total, edges = max(float(counts.sum()), 1.0), (edges - middle) / spread
    found = np.array([0.0, 1.0, 1.0])  # mean, standard deviation, share
    for _ in range(_ROUNDS):
        near = (edges[1:] > found[0] - _FLANK * found[1]) & (edges[:-1] < found[0] + _FLANK * found[1])
        if np.count_nonzero(near) < _LEAST_BINS:
            break  # a few grey values only: nothing to fit a curve to

        def residuals(p: npt.NDArray[np.float64], near: npt.NDArray[np.bool_] = near) -> npt.NDArray[np.float64]:
            # What falls into a bin, not the density at its middle: bins may be wide.
            return np.asarray(p[2] * np.diff(ndtr((edges - p[0]) / p[1])) - counts / total)[near]

        found = optimize.least_squares(residuals, found, bounds=([-2, 0.2, 0.1], [2, 3, 5])).x
    return middle + spread * float(found[0]), spread * float(found[1])


def _histogram(
    grey: npt.NDArray[np.float64], middle: float, spread: float, kind: np.dtype[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Counts and edges of bins between the least and the largest value, neither of which is counted."""
    inner = grey[(grey > grey.min()) & (grey < grey.max())]
    width = 2 * 1.349 * spread / len(grey) ** (1 / 3)  # Freedman and Diaconis 1981
    first, last = middle - 4 * spread, middle + 4 * spread
    if len(inner):
        first, last = max(first, float(inner.min())), min(last, float(inner.max()))
    if kind.kind in "iu":  # every bin holds equally many grey values
        width, first, last = max(round(width), 1), math.floor(first) - 0.5, math.ceil(last) + 0.5
    edges = first + width * np.arange(max(math.floor((last - first) / width + 1e-9), 1) + 1)
    counts, _ = np.histogram(inner, edges)
    return counts.astype(np.float64), edges
