# SPDX-License-Identifier: MIT
"""SARS-CoV-2-like virions in ice as a potential map, with the class of every voxel.

Lengths are in Å, positions (z, y, x) counted from the centre of the tomogram's first voxel, potentials in volts
above ice (dense protein is near +2.5 V). Every edge is a Gaussian-blurred half space, half a voxel wide, so that the
potential holds nothing that the voxels cannot carry.

Sizes: envelope with the endodomains of its M protein 7.4 nm thick (Neuman et al. 2006: 7 to 8); prefusion spike
23 nm high on a slender stalk that leans freely (Ke et al. 2020, Turonova et al. 2020); beads of ribonucleoprotein of
14 nm (Yao et al. 2020, Klein et al. 2020).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import ndimage
from scipy.special import ndtr

from .._progress import Progress, silent
from ..volume import Float32Array, Region
from .recipe import VirionRecipe

Vector = npt.NDArray[np.float64]
#: Coordinates (3, ...) in Å: float64 to place things, float32 to paint them.
Points = npt.NDArray[Any]

BACKGROUND, MEMBRANE, SPIKES, LUMEN = 1, 2, 3, 4

# The envelope's profile along the outward normal, from the bilayer's middle: (position, width, volts). Two layers of
# head groups with tails between them, then the layer of M endodomains.
_PROFILE_A = ((20.0, 7.0, 1.6), (-20.0, 7.0, 1.6), (0.0, 8.0, -0.2), (-37.0, 8.0, 1.1))
_OUTER_A, _INNER_A = 28.0, -46.0  # where the envelope ends: 7.4 nm between them
_LUMEN_V, _BEAD_V, _SPIKE_V, _CLUTTER_V, _GOLD_V = 0.35, 1.5, 2.2, 1.7, 15.0
_LUMEN_GRAIN_V = 0.2  # standard deviation of the loose protein among the beads
_BEAD_RADIUS_A, _BEAD_SPACING_A = 70.0, 125.0
_GOLD_RADIUS_A = 50.0
_VIRION_GAP_A = 90.0  # at least, between two envelopes: less than a spike, for coronas interlock
_PLACING_TRIES = 500  # in a row without success, before the ice counts as full
_SPIKE_LEAN_LIMIT_DEG = 60.0
# Spheres (height along the axis, radius) that hold a spike, to keep spikes apart.
_SPIKE_SPHERES_A = ((50.0, 16.0), (90.0, 18.0), (130.0, 38.0), (185.0, 60.0))
_SPIKE_HEIGHT_A = 235.0
_STALK_RADIUS_A = 15.0
_MARGIN_VOX = 24  # of specimen around the tomogram: a virion at the border goes on beyond it


@dataclass(frozen=True, eq=False)
class Phantom:
    """A specimen with known truth.

    potential: (z, y, x) float32, volts above ice, reaching beyond the tomogram.
    truth: (z, y, x) uint8 of the tomogram itself: 1 background, 2 membrane, 3 spikes, 4 lumen.
    box: the tomogram's place in the potential.
    notes: what did not go as the recipe asked.
    """

    potential: Float32Array
    truth: npt.NDArray[np.uint8]
    box: Region
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Virion:
    """A closed surface r(n) = radius (1 + sum a_k P_l(n . u_k)): zonal harmonics of low order about random axes.

    The surface is the middle of the bilayer; `radius` its mean distance from `centre`.
    """

    centre: Vector
    radius: float
    orders: tuple[int, ...]
    axes: Vector
    amplitudes: Vector

    @functools.cached_property
    def farthest(self) -> float:
        """Largest distance of the envelope's outside from the centre."""
        turn = np.arange(400) * math.pi * (3 - math.sqrt(5))  # a sunflower's spiral covers the sphere evenly
        z = (2 * np.arange(400) + 1) / 400 - 1
        spiral = np.stack([z, np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn)])
        _, reach, _, _ = self._harmonics(self.centre[:, None] + spiral)
        return float(reach.max()) + _OUTER_A

    def signed_distance(self, points: Points) -> Points:
        """Distance (...) of points (3, ...) from the surface, positive outside, exact to first order."""
        distance, reach, lean, direction = self._harmonics(points)
        tangential = sum(w * w for w in lean) - np.square(sum(w * n for w, n in zip(lean, direction, strict=True)))
        return np.asarray((distance - reach) / np.sqrt(1 + np.maximum(tangential, 0)))

    def surface(self, directions: Vector) -> tuple[Vector, Vector]:
        """Points on the surface and outward unit normals there, (3, n), for unit directions (3, n)."""
        _, reach, _, _ = self._harmonics(self.centre[:, None] + directions)
        points = self.centre[:, None] + reach * directions
        _, _, lean, _ = self._harmonics(points)
        normals = directions - np.stack(lean) + np.sum(np.stack(lean) * directions, axis=0) * directions
        return points, normals / np.linalg.norm(normals, axis=0)

    def _harmonics(self, points: Points) -> tuple[Points, Points, list[Points], list[Points]]:
        """Distance from the centre, r(n), the gradient of r(n) before its projection, and n."""
        offset = [p - c for p, c in zip(points, self.centre.astype(points[0].dtype), strict=True)]
        distance = np.sqrt(np.maximum(sum(o * o for o in offset), 1e-4))
        direction = [o / distance for o in offset]
        reach = np.full_like(distance, self.radius)
        lean = [np.zeros_like(distance) for _ in offset]
        # Inside, the level sets shrink towards the centre; a lower bound keeps the gradient finite there.
        slope_scale = 1 / np.maximum(distance, 0.5 * self.radius)
        for order, axis, amplitude in zip(self.orders, self.axes, self.radius * self.amplitudes, strict=True):
            value, slope = _legendre(order, sum(float(a) * n for a, n in zip(axis, direction, strict=True)))
            reach += float(amplitude) * value
            slope *= float(amplitude) * slope_scale
            for w, a in zip(lean, axis, strict=True):
                w += slope * float(a)
        return distance, reach, lean, direction


def _legendre(order: int, x: Points) -> tuple[Points, Points]:
    """P_order(x) and its derivative, for order 2, 3 or 4."""
    if order == 2:
        return 1.5 * x**2 - 0.5, 3 * x
    if order == 3:
        return 2.5 * x**3 - 1.5 * x, 7.5 * x**2 - 1.5
    return (35 * x**4 - 30 * x**2 + 3) / 8, 17.5 * x**3 - 7.5 * x


class _Canvas:
    """The grid that the specimen is painted on."""

    def __init__(self, recipe: VirionRecipe) -> None:
        self.voxel = recipe.voxel_size_A
        # Along the beam there is nothing beyond the ice.
        beyond_z = math.ceil(max(10 * recipe.thickness_nm / self.voxel - recipe.shape[0], 0) / 2)
        self.margin = np.array([min(beyond_z, _MARGIN_VOX), _MARGIN_VOX, _MARGIN_VOX])
        self.shape = tuple(int(n) for n in np.array(recipe.shape) + 2 * self.margin)
        self.potential = np.zeros(self.shape, np.float32)
        self.labels = np.full(self.shape, BACKGROUND, np.uint8)
        z, y, x = (slice(int(m), int(m) + n) for m, n in zip(self.margin, recipe.shape, strict=True))
        self.box: Region = (z, y, x)

    def window(self, centre: Vector, reach: float) -> tuple[Region, Points] | None:
        """The part of the grid within `reach` of a point, as a box, and its points (3, z, y, x); None if empty."""
        first = np.maximum(np.floor((centre - reach) / self.voxel).astype(int) + self.margin, 0)
        stop = np.minimum(np.ceil((centre + reach) / self.voxel).astype(int) + 1 + self.margin, self.shape)
        if np.any(stop <= first):
            return None
        axes = [
            ((np.arange(a, b) - m) * self.voxel).astype(np.float32)
            for a, b, m in zip(first, stop, self.margin, strict=True)
        ]
        z, y, x = (slice(int(a), int(b)) for a, b in zip(first, stop, strict=True))
        return (z, y, x), np.stack(np.meshgrid(*axes, indexing="ij"))

    def inside(self, signed_distance: Points) -> Points:
        """Share of the solid `signed_distance < 0` in each voxel, softened to what the grid carries."""
        return np.asarray(ndtr(signed_distance * np.float32(-2 / self.voxel)))


def build_virions(recipe: VirionRecipe, rng: Generator, *, progress: Progress = silent) -> Phantom:
    """Place and paint virions, free protein and gold. Virions may be cut by the tomogram's lateral borders."""
    canvas = _Canvas(recipe)
    virions = _place_virions(recipe, rng)
    notes = []
    if len(virions) < recipe.n_virions:
        notes.append(f"placed {len(virions)} of {recipe.n_virions} virions: no room was found for more")
    spikes = [_place_spikes(virion, virions, recipe, rng) for virion in virions]
    for i, virion in enumerate(virions):
        progress("virions", i, len(virions))
        _paint_envelope(canvas, virion)
        for centre in _place_beads(virion, recipe.n_ribonucleoproteins, rng):
            _paint_bead(canvas, centre)
    for i, own in enumerate(spikes):
        progress("spikes", i, len(spikes))
        for spike in own:
            _paint_spike(canvas, spike)
    progress("free particles", 0, 1)
    _paint_free_particles(canvas, virions, [spike for own in spikes for spike in own], recipe, rng)
    # Protein is not jelly: its density varies from voxel to voxel.
    grain = ndimage.gaussian_filter(rng.standard_normal(canvas.shape, dtype=np.float32), 12 / canvas.voxel)
    grain /= grain.std()
    canvas.potential *= 1 + np.float32(0.2) * grain
    canvas.potential += np.float32(_LUMEN_GRAIN_V) * grain * (canvas.labels == LUMEN)
    progress("free particles", 1, 1)
    truth = np.ascontiguousarray(canvas.labels[canvas.box])
    return Phantom(canvas.potential, truth, canvas.box, tuple(notes))


def _place_virions(recipe: VirionRecipe, rng: Generator) -> list[_Virion]:
    extent = (np.array(recipe.shape) - 1) * recipe.voxel_size_A
    orders = (2, 2, 3, 3, 4)
    virions: list[_Virion] = []
    failures = 0
    while len(virions) < recipe.n_virions and failures < _PLACING_TRIES:
        outer = 5 * rng.uniform(*recipe.diameter_nm)
        centre = rng.uniform(0, extent)
        amplitudes = rng.normal(0, 1, len(orders)) / (np.array(orders) - 1)
        # The mean square of P_l over the sphere is 1 / (2 l + 1).
        amplitudes *= recipe.deformation / math.sqrt(np.sum(amplitudes**2 / (2 * np.array(orders) + 1)))
        axes = _unit_vectors(rng, len(orders)).T
        virion = _Virion(centre, outer - _OUTER_A, orders, axes, amplitudes)
        farthest = virion.farthest
        # The ice holds the whole virion, and its spikes too where it is thick enough; its middle is in the picture.
        play = min(max(5 * recipe.thickness_nm - farthest, 0.0), extent[0] / 2)
        centre[0] = extent[0] / 2 + rng.uniform(-play, play)
        if all(np.linalg.norm(centre - v.centre) > farthest + v.farthest + _VIRION_GAP_A for v in virions):
            virions.append(virion)
            failures = 0
        else:
            failures += 1
    return virions


def _paint_envelope(canvas: _Canvas, virion: _Virion) -> None:
    window = canvas.window(virion.centre, virion.farthest + 3 * canvas.voxel)
    if window is None:
        return
    region, points = window
    distance = virion.signed_distance(points)
    volts = _LUMEN_V * canvas.inside(distance - _INNER_A)
    for position, width, height in _PROFILE_A:
        blurred = math.hypot(width, 0.5 * canvas.voxel)
        volts += height * width / blurred * np.exp(-0.5 * np.square((distance - position) / blurred))
    canvas.potential[region] += volts
    canvas.labels[region][distance < _OUTER_A] = MEMBRANE
    canvas.labels[region][distance < _INNER_A] = LUMEN


def _place_beads(virion: _Virion, wanted: int, rng: Generator) -> list[Vector]:
    """Most beads lie in the outer part of the lumen, as in averaged virions."""
    tries = 60 * wanted
    reach = virion.radius * rng.uniform(0, 1, tries) ** 0.25
    candidates = virion.centre[:, None] + _unit_vectors(rng, tries) * reach
    candidates = candidates[:, virion.signed_distance(candidates) < _INNER_A - 0.9 * _BEAD_RADIUS_A]
    beads = np.empty((0, 3))
    for centre in candidates.T:
        if len(beads) == wanted:
            break
        if not np.any(np.linalg.norm(beads - centre, axis=1) < _BEAD_SPACING_A):
            beads = np.vstack([beads, centre])
    return list(beads)


def _paint_bead(canvas: _Canvas, centre: Vector) -> None:
    """A hollow ball: ribonucleoprotein looks like a ring of protein about a dimmer middle."""
    window = canvas.window(centre, _BEAD_RADIUS_A + 1.5 * canvas.voxel)
    if window is None:
        return
    region, points = window
    r = _length(points - _column(centre, points))
    canvas.potential[region] += _BEAD_V * canvas.inside(r - _BEAD_RADIUS_A) * (1 - 0.6 * np.exp(-0.5 * (r / 30) ** 2))


@dataclass(frozen=True, eq=False)
class _Spike:
    """A trimer standing on `base`, in the bilayer's middle, along `axis`; `across` points at its first protomer."""

    base: Vector
    axis: Vector
    across: Vector


def _spheres(bases: Vector, axes: Vector) -> tuple[Vector, Vector]:
    """Centres (n, sphere, 3) and radii (sphere,) that hold spikes with bases and axes (n, 3)."""
    heights, radii = np.array(_SPIKE_SPHERES_A).T
    return bases[:, None] + heights[:, None] * axes[:, None], radii


def _place_spikes(virion: _Virion, virions: list[_Virion], recipe: VirionRecipe, rng: Generator) -> list[_Spike]:
    """Anywhere on the envelope, leaning freely, apart from each other and from the neighbours' envelopes."""
    wanted = int(rng.integers(recipe.n_spikes[0], recipe.n_spikes[1] + 1))
    tries = 40 * wanted
    bases, normals = virion.surface(_unit_vectors(rng, tries))
    sideways = _perpendicular(normals, rng)
    lean = np.radians(np.minimum(np.abs(rng.normal(0, recipe.spike_tilt_deg, tries)), _SPIKE_LEAN_LIMIT_DEG))
    axes = np.cos(lean) * normals + np.sin(lean) * sideways
    across = _perpendicular(axes, rng)
    centres, radii = _spheres(bases.T, axes.T)
    clear = np.ones(tries, bool)
    for other in virions:
        if other is not virion:
            # A neighbour's spikes keep to their own half of the gap, so that coronas touch and do not cross.
            away = other.signed_distance(centres.transpose(2, 0, 1)) - virion.signed_distance(
                centres.transpose(2, 0, 1)
            )
            clear &= np.all(away > 2 * radii, axis=1)
    taken: list[int] = []
    for i in np.flatnonzero(clear):
        if len(taken) == wanted:
            break
        gaps = np.linalg.norm(centres[i][None, :, None] - centres[taken][:, None], axis=-1)
        if np.all(gaps > radii[:, None] + radii):
            taken.append(int(i))
    return [_Spike(bases[:, i], axes[:, i], across[:, i]) for i in taken]


def _paint_spike(canvas: _Canvas, spike: _Spike) -> None:
    """A stalk from the bilayer's middle, a body that widens upwards, three lobes around its top."""
    window = canvas.window(spike.base + 0.5 * _SPIKE_HEIGHT_A * spike.axis, 0.5 * _SPIKE_HEIGHT_A + 70)
    if window is None:
        return
    region, points = window
    offset = points - _column(spike.base, points)
    height = np.tensordot(spike.axis.astype(np.float32), offset, 1)
    radial = np.sqrt(np.maximum(np.sum(offset * offset, axis=0) - height**2, 0))
    # On a coarse grid a stalk thinner than a voxel's diagonal would fall to pieces.
    solid = np.hypot(radial, height - np.clip(height, 0, 100)) - max(_STALK_RADIUS_A, 0.9 * canvas.voxel)
    along = np.clip(height, 95, 165)
    solid = np.minimum(solid, np.hypot(radial, height - along) - (20 + 15 * (along - 95) / 70))
    third = np.cross(spike.axis, spike.across)
    for turn in (0, 2 * math.pi / 3, 4 * math.pi / 3):
        lobe = 185 * spike.axis + 30 * (math.cos(turn) * spike.across + math.sin(turn) * third)
        from_lobe = offset - _column(lobe, points)
        up = np.tensordot(spike.axis.astype(np.float32), from_lobe, 1)
        # An ellipsoid 31 Å across and 43 Å along the axis.
        solid = np.minimum(solid, np.sqrt(np.sum(from_lobe**2, axis=0) - (1 - (31 / 43) ** 2) * up**2) - 31)
    labels, potential = canvas.labels[region], canvas.potential[region]
    # The part within the envelope adds nothing to what is already dense there.
    free = labels == BACKGROUND
    potential[free] = np.maximum(potential, _SPIKE_V * canvas.inside(solid))[free]
    # A third of a voxel makes it a spike's: its coat of glycans reaches beyond what is dense.
    labels[(solid < 0.25 * canvas.voxel) & free] = SPIKES


def _paint_free_particles(
    canvas: _Canvas, virions: list[_Virion], spikes: list[_Spike], recipe: VirionRecipe, rng: Generator
) -> None:
    """Free proteins and gold, clear of virions and spikes: what a segmentation must learn to leave out."""
    low, extent = -canvas.margin * canvas.voxel, np.array(canvas.shape) * canvas.voxel
    ice = min(10 * recipe.thickness_nm, extent[0])
    low[0], extent[0] = (recipe.shape[0] * canvas.voxel - ice) / 2, ice
    n_protein = int(rng.poisson(recipe.clutter_per_um3 * float(np.prod(extent)) * 1e-12))
    n = n_protein + recipe.n_gold
    # Gold first: it is the larger. Every particle has a few tries.
    is_gold = np.arange(n) < recipe.n_gold
    semi_axes = np.where(is_gold[:, None], _GOLD_RADIUS_A, rng.uniform(22, 50, (n, 3)))
    volts = np.where(is_gold, _GOLD_V, _CLUTTER_V * rng.uniform(0.5, 1, n))
    reach = semi_axes.max(axis=1)
    tries = 10
    candidates = low + rng.uniform(0, 1, (n, tries, 3)) * extent
    clear = np.ones((n, tries), bool)
    for virion in virions:
        clear &= virion.signed_distance(candidates.transpose(2, 0, 1)) > reach[:, None] + 45
    taken, radii = np.empty((0, 3)), np.empty(0)
    if spikes:
        centres, sphere_radii = _spheres(np.stack([s.base for s in spikes]), np.stack([s.axis for s in spikes]))
        taken, radii = centres.reshape(-1, 3), np.tile(sphere_radii, len(spikes))
    for i in range(n):
        for centre in candidates[i, clear[i]]:
            if np.all(np.linalg.norm(taken - centre, axis=1) > radii + reach[i] + 15):
                _paint_ellipsoid(canvas, centre, semi_axes[i], float(volts[i]), rng)
                taken, radii = np.vstack([taken, centre]), np.append(radii, reach[i])
                break


def _paint_ellipsoid(canvas: _Canvas, centre: Vector, semi_axes: Vector, volts: float, rng: Generator) -> None:
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    window = canvas.window(centre, float(semi_axes.max()) + 1.5 * canvas.voxel)
    if window is None:
        return
    region, points = window
    to_unit_sphere = (turn / semi_axes[:, None]).astype(np.float32)
    r = _length(np.tensordot(to_unit_sphere, points - _column(centre, points), 1))
    canvas.potential[region] += volts * canvas.inside((r - 1) * float(semi_axes.min()))


def _column(vector: Vector, points: Points) -> Points:
    """A vector shaped to be subtracted from points (3, z, y, x)."""
    return np.asarray(vector.reshape(3, 1, 1, 1), dtype=points.dtype)


def _length(points: Points) -> Points:
    return np.asarray(np.sqrt(np.sum(points * points, axis=0)))


def _unit_vectors(rng: Generator, n: int) -> Vector:
    """(3, n), uniform over the sphere."""
    vectors = rng.normal(size=(3, n))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=0))


def _perpendicular(axes: Vector, rng: Generator) -> Vector:
    """A random unit vector perpendicular to each of the axes (3, n)."""
    across = np.cross(axes, _unit_vectors(rng, axes.shape[1]), axis=0)
    return np.asarray(across / np.linalg.norm(across, axis=0))
