# SPDX-License-Identifier: MIT
"""The grid that a specimen is painted on, and what every painter needs.

Lengths are in Å, positions (z, y, x) counted from the centre of the tomogram's first voxel, potentials in volts above
vitreous ice (dense protein is near +2.5 V). Every edge is a Gaussian-blurred half space, half a voxel wide, so that the
potential holds nothing that the voxels cannot carry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy.special import ndtr

from .._checks import input_error
from ..volume import Float32Array, Region
from .recipe import Recipe
from .structures import Rotated, Structure

Vector = npt.NDArray[np.float64]
#: Coordinates (3, ...) in Å: float64 to place things, float32 to paint them.
Points = npt.NDArray[Any]

_MARGIN_VOX = 24  # of specimen around the tomogram: what stands at the border goes on beyond it
_MOST_INSTANCES = 65535  # uint16, the largest whole numbers that MRC files hold


@dataclass(frozen=True)
class Particle:
    """One thing that was placed: its number in `instances`, what it is, and how it stands.

    part: what it is; a virion goes by its lumen, a vesicle by its outer leaflet. centre_vox: (z, y, x) in voxels of
    the tomogram: of a spike its centre of mass, of an ATP synthase its head's middle; a small protein's lies in its
    membrane. euler_deg: (rot, tilt, psi) in RELION's convention; None where it has no orientation to speak of. whole:
    lies inside the tomogram to its last voxel.
    """

    instance: int
    part: str
    centre_vox: tuple[float, float, float]
    euler_deg: tuple[float, float, float] | None = None
    whole: bool = True


@dataclass(frozen=True, eq=False)
class Specimen:
    """A specimen with known truth.

    potential: (z, y, x) float32, volts above ice, reaching beyond the tomogram; box: the tomogram's place in it.
    truth, parts: (z, y, x) uint8 of the tomogram itself, numbers of `Recipe.classes` and `Recipe.parts`.
    instances: uint16, 0 for none, else a particle's number. notes: what did not go as the recipe asked.
    """

    potential: Float32Array
    box: Region
    truth: npt.NDArray[np.uint8]
    parts: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint16]
    particles: tuple[Particle, ...]
    notes: tuple[str, ...] = ()


def margins(recipe: Recipe) -> tuple[int, int, int]:
    """Voxels (z, y, x) of specimen that a canvas has on each side of the tomogram."""
    # Along the beam there is nothing beyond the ice.
    beyond_z = math.ceil(max(10 * recipe.thickness_nm / recipe.voxel_size_A - recipe.shape[0], 0) / 2)
    return min(beyond_z, _MARGIN_VOX), _MARGIN_VOX, _MARGIN_VOX


@dataclass(eq=False)
class Canvas:
    """A specimen in the making: potential, parts and instances of the same grid, which painters add to."""

    recipe: Recipe
    particles: list[Particle] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.voxel = recipe.voxel_size_A
        self.margin = np.array(margins(recipe))
        self.shape = tuple(int(n) for n in np.array(recipe.shape) + 2 * self.margin)
        self.number: Mapping[str, int] = {name: i for i, name in enumerate(recipe.parts)}
        self.potential = np.zeros(self.shape, np.float32)
        self.parts = np.zeros(self.shape, np.uint8)
        self.instances = np.zeros(self.shape, np.uint16)
        z, y, x = (slice(int(m), int(m) + n) for m, n in zip(self.margin, recipe.shape, strict=True))
        self.box: Region = (z, y, x)

    @property
    def extent(self) -> Vector:
        """From the tomogram's first voxel to its last, (z, y, x) in Å."""
        return (np.array(self.recipe.shape) - 1) * self.voxel

    @property
    def ice_A(self) -> tuple[float, float]:
        """Where the ice begins and ends along z, in Å, on average."""
        middle, half = self.extent[0] / 2, 5 * self.recipe.thickness_nm
        return middle - half, middle + half

    def region(self, centre: Vector, reach: float) -> Region | None:
        """The part of the grid within `reach` of a point, as a box; None if empty."""
        first = np.maximum(np.floor((centre - reach) / self.voxel).astype(int) + self.margin, 0)
        stop = np.minimum(np.ceil((centre + reach) / self.voxel).astype(int) + 1 + self.margin, self.shape)
        if np.any(stop <= first):
            return None
        z, y, x = (slice(int(a), int(b)) for a, b in zip(first, stop, strict=True))
        return z, y, x

    def window(self, centre: Vector, reach: float) -> tuple[Region, Points] | None:
        """The same with its points (3, z, y, x)."""
        region = self.region(centre, reach)
        return None if region is None else (region, self.points(region))

    def points(self, region: Region) -> Points:
        """Positions (3, z, y, x) of a region of the grid, float32."""
        axes = [
            ((np.arange(part.start, part.stop) - m) * self.voxel).astype(np.float32)
            for part, m in zip(region, self.margin, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def inside(self, signed_distance: Points) -> Points:
        """Share of the solid `signed_distance < 0` in each voxel, softened to what the grid carries."""
        return np.asarray(ndtr(signed_distance * np.float32(-2 / self.voxel)))

    def new_particle(
        self,
        part: str,
        centre: Vector,
        *,
        reach: float,
        euler_deg: tuple[float, float, float] | None = None,
    ) -> int:
        """Give the next instance number to something at `centre` that goes as far as `reach` from it, both in Å."""
        instance = len(self.particles) + 1
        if instance > _MOST_INSTANCES:
            expected = f"at most {_MOST_INSTANCES}"
            raise input_error("simulate", "number of particles", expected=expected, got="more", fix="ask for fewer")
        z, y, x = (float(v) for v in centre / self.voxel)
        whole = bool(np.all(centre - reach >= 0) and np.all(centre + reach <= self.extent))
        self.particles.append(Particle(instance, part, (z, y, x), euler_deg, whole))
        return instance

    def finished(self) -> Specimen:
        """What was painted. Particles that are not in the tomogram at all leave the list, and its numbers close up."""
        classes = self.recipe.classes
        of_part = np.array([classes.index(name) for name in self.recipe.parts.values()], np.uint8)
        parts = np.ascontiguousarray(self.parts[self.box])
        instances = np.ascontiguousarray(self.instances[self.box])
        seen = np.zeros(len(self.particles), bool)
        for plane in instances:
            there = np.unique(plane)
            seen[there[there > 0].astype(int) - 1] = True
        new_number = np.zeros(len(self.particles) + 1, np.uint16)
        new_number[1:][seen] = np.arange(1, int(seen.sum()) + 1)
        kept = [p for p, there in zip(self.particles, seen, strict=True) if there]
        particles = tuple(Particle(i, p.part, p.centre_vox, p.euler_deg, p.whole) for i, p in enumerate(kept, start=1))
        return Specimen(
            self.potential, self.box, of_part[parts], parts, new_number[instances], particles, tuple(self.notes)
        )


def column(vector: Vector, points: Points) -> Points:
    """A vector shaped to be subtracted from points (3, z, y, x)."""
    return np.asarray(vector.reshape(3, 1, 1, 1), dtype=points.dtype)


def length(points: Points) -> Points:
    """Euclidean length of vectors (3, ...)."""
    return np.asarray(np.sqrt(np.sum(points * points, axis=0)))


def unit_vectors(rng: Generator, n: int) -> Vector:
    """(3, n), uniform over the sphere."""
    vectors = rng.normal(size=(3, n))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=0))


def perpendicular(axes: Vector, rng: Generator) -> Vector:
    """A random unit vector perpendicular to each of the axes (3, n)."""
    across = np.cross(axes, unit_vectors(rng, axes.shape[1]), axis=0)
    return np.asarray(across / np.linalg.norm(across, axis=0))


def paint_ellipsoid(
    canvas: Canvas, centre: Vector, semi_axes: Vector, turn: Vector, volts: float, *, part: str, instance: int = 0
) -> None:
    """An ellipsoid with semi-axes in Å along the rows of `turn` (3, 3)."""
    window = canvas.window(centre, float(semi_axes.max()) + 1.5 * canvas.voxel)
    if window is None:
        return
    region, points = window
    to_unit_sphere = (turn / semi_axes[:, None]).astype(np.float32)
    r = length(np.tensordot(to_unit_sphere, points - column(centre, points), 1))
    distance = (r - 1) * float(semi_axes.min())
    canvas.potential[region] += volts * canvas.inside(distance)
    solid = distance < 0
    canvas.parts[region][solid] = canvas.number[part]
    canvas.instances[region][solid] = instance


@dataclass(frozen=True, eq=False)
class Pose:
    """A structure turned and shifted to where it is to stand: `region` of the canvas, and what of `turned` is in it."""

    region: Region
    turned: Rotated
    part: Region

    @property
    def potential(self) -> Float32Array:
        """Volts above ice within the region."""
        return self.turned.potential[self.part]

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The particle's own voxels within the region."""
        return self.turned.mask[self.part]


def pose(canvas: Canvas, structure: Structure, centre: Vector, rotation: Vector) -> Pose | None:
    """A structure about `centre` (z, y, x) in Å; None where nothing of it lies on the canvas."""
    place = centre / canvas.voxel
    voxel = np.rint(place).astype(int)
    return posed(canvas, structure.rotated(rotation, offset_vox=tuple(float(v) for v in place - voxel)), voxel)


def posed(canvas: Canvas, turned: Rotated, voxel: npt.NDArray[np.int_]) -> Pose | None:
    """The same for a structure that is turned already, its centre on a voxel of the tomogram."""
    first = voxel + canvas.margin - np.array(turned.centre)
    stop = first + np.array(turned.potential.shape)
    low, high = np.maximum(first, 0), np.minimum(stop, canvas.shape)
    if np.any(high <= low):
        return None
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    c, b, a = (slice(int(p - f), int(q - f)) for p, q, f in zip(low, high, first, strict=True))
    return Pose((z, y, x), turned, (c, b, a))


def paint_pose(canvas: Canvas, pose: Pose, part: str, instance: int) -> None:
    """Add a posed structure to the potential, and give its voxels a part and an instance number."""
    canvas.potential[pose.region] += pose.potential
    canvas.parts[pose.region][pose.mask] = canvas.number[part]
    canvas.instances[pose.region][pose.mask] = instance
