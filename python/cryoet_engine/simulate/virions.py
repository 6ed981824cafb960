# SPDX-License-Identifier: MIT
"""SARS-CoV-2-like virions in ice as a potential map, with the part of every voxel.

Sizes: envelope with the endodomains of its M protein 7.4 nm thick (Neuman et al. 2006: 7 to 8); prefusion spike
23 nm high on a slender stalk that leans freely (Ke et al. 2020, Turonova et al. 2020); beads of ribonucleoprotein of
14 nm (Yao et al. 2020, Klein et al. 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .._progress import Progress, silent
from ..volume import Region
from .ice import paint_borders, paint_free_particles, paint_grain
from .recipe import VirionRecipe
from .specimen import Canvas, Points, Specimen, Vector, column, length, perpendicular, pose, unit_vectors
from .structures import Structure, euler_deg, read_structure
from .surface import Surface, random_harmonics

# The envelope's profile along the outward normal, from the bilayer's middle: (position, width, volts). Two layers of
# head groups with tails between them, then the layer of M endodomains.
_PROFILE_A = ((20.0, 7.0, 1.6), (-20.0, 7.0, 1.6), (0.0, 8.0, -0.2), (-37.0, 8.0, 1.1))
# Where the envelope's layers end, from outside: 7.4 nm from the first to the last.
_OUTER_A, _BETWEEN_LEAFLETS_A, _ENDODOMAINS_A, _INNER_A = 28.0, 0.0, -28.0, -46.0
_LUMEN_V, _BEAD_V, _SPIKE_V = 0.35, 1.5, 2.2
_LUMEN_GRAIN_V = 0.2  # standard deviation of the loose protein among the beads
_BEAD_RADIUS_A, _BEAD_SPACING_A = 70.0, 125.0
_VIRION_GAP_A = 90.0  # at least, between two envelopes: less than a spike, for coronas interlock
_SPIKE_ROOM_A = 150.0  # between envelope and the ice's border: for spikes that lean
_PLACING_TRIES = 500  # in a row without success, before the ice counts as full
_SPIKE_LEAN_LIMIT_DEG = 60.0
# Spheres (height along the axis, radius) that hold a spike, to keep spikes apart.
_SPIKE_SPHERES_A = ((50.0, 16.0), (90.0, 18.0), (130.0, 38.0), (185.0, 60.0))
_SPIKE_HEIGHT_A, _SPIKE_CENTRE_A = 235.0, 160.0  # the whole, and its centre of mass, above the bilayer's middle
_STALK_RADIUS_A = 15.0


class _Virion(Surface):
    """An envelope: the surface is the middle of its bilayer."""

    @property
    def farthest(self) -> float:
        """Largest distance of the envelope's outside from the centre."""
        return self.farthest_A + _OUTER_A


def build_virions(recipe: VirionRecipe, rng: Generator, *, progress: Progress = silent) -> Specimen:
    """Place and paint virions, free protein and gold. Virions may be cut by the tomogram's lateral borders."""
    canvas = Canvas(recipe)
    structure = _spike_structure(recipe)
    paint_borders(canvas, rng)
    virions = _place_virions(recipe, rng)
    if len(virions) < recipe.n_virions:
        canvas.notes.append(f"placed {len(virions)} of {recipe.n_virions} virions: no room was found for more")
    spikes = [_place_spikes(virion, virions, recipe, rng) for virion in virions]
    for i, virion in enumerate(virions):
        progress("virions", i, len(virions))
        instance = canvas.new_particle("lumen", virion.centre, reach=virion.farthest)
        _paint_envelope(canvas, virion, instance)
        for centre in _place_beads(virion, recipe.n_ribonucleoproteins, rng):
            _paint_bead(canvas, centre)
    progress("virions", len(virions), len(virions))
    for i, own in enumerate(spikes):
        progress("spikes", i, len(spikes))
        for spike in own:
            if structure is None:
                _paint_spike(canvas, spike)
            else:
                _paint_spike_structure(canvas, spike, structure)
    progress("spikes", len(spikes), len(spikes))
    paint_free_particles(canvas, rng, progress=progress)
    paint_grain(canvas, rng, {"lumen": _LUMEN_GRAIN_V, "ribonucleoprotein": _LUMEN_GRAIN_V}, progress=progress)
    return canvas.finished()


def _place_virions(recipe: VirionRecipe, rng: Generator) -> list[_Virion]:
    extent = (np.array(recipe.shape) - 1) * recipe.voxel_size_A
    virions: list[_Virion] = []
    failures = 0
    while len(virions) < recipe.n_virions and failures < _PLACING_TRIES:
        outer = 5 * rng.uniform(*recipe.diameter_nm)
        centre = rng.uniform(0, extent)
        virion = _Virion(centre, outer - _OUTER_A, *random_harmonics(rng, recipe.deformation))
        farthest = virion.farthest
        # The ice holds the whole virion, and its spikes too where it is thick enough; its middle is in the picture.
        play = min(max(5 * recipe.thickness_nm - farthest - _SPIKE_ROOM_A, 0.0), extent[0] / 2)
        centre[0] = extent[0] / 2 + rng.uniform(-play, play)
        if all(np.linalg.norm(centre - v.centre) > farthest + v.farthest + _VIRION_GAP_A for v in virions):
            virions.append(virion)
            failures = 0
        else:
            failures += 1
    return virions


def _paint_envelope(canvas: Canvas, virion: _Virion, instance: int) -> None:
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
    parts = canvas.parts[region]
    for outside, part in (
        (_OUTER_A, "outer leaflet"),
        (_BETWEEN_LEAFLETS_A, "inner leaflet"),
        (_ENDODOMAINS_A, "M endodomains"),
        (_INNER_A, "lumen"),
    ):
        parts[distance < outside] = canvas.number[part]
    canvas.instances[region][distance < _OUTER_A] = instance


def _place_beads(virion: _Virion, wanted: int, rng: Generator) -> list[Vector]:
    """Most beads lie in the outer part of the lumen, as in averaged virions."""
    tries = 60 * wanted
    reach = virion.radius * rng.uniform(0, 1, tries) ** 0.25
    candidates = virion.centre[:, None] + unit_vectors(rng, tries) * reach
    candidates = candidates[:, virion.signed_distance(candidates) < _INNER_A - 0.9 * _BEAD_RADIUS_A]
    beads = np.empty((0, 3))
    for centre in candidates.T:
        if len(beads) == wanted:
            break
        if not np.any(np.linalg.norm(beads - centre, axis=1) < _BEAD_SPACING_A):
            beads = np.vstack([beads, centre])
    return list(beads)


def _paint_bead(canvas: Canvas, centre: Vector) -> None:
    """A hollow ball: ribonucleoprotein looks like a ring of protein about a dimmer middle."""
    window = canvas.window(centre, _BEAD_RADIUS_A + 1.5 * canvas.voxel)
    if window is None:
        return
    region, points = window
    r = length(points - column(centre, points))
    canvas.potential[region] += _BEAD_V * canvas.inside(r - _BEAD_RADIUS_A) * (1 - 0.6 * np.exp(-0.5 * (r / 30) ** 2))
    parts = canvas.parts[region]
    parts[(r < _BEAD_RADIUS_A) & (parts == canvas.number["lumen"])] = canvas.number["ribonucleoprotein"]


@dataclass(frozen=True, eq=False)
class _Spike:
    """A trimer standing on `base`, in the bilayer's middle, along `axis`; `across` points at its first protomer."""

    base: Vector
    axis: Vector
    across: Vector

    @property
    def frame(self) -> Vector:
        """(3, 3): the columns are axis, across and what is perpendicular to both."""
        return np.stack([self.axis, self.across, np.cross(self.axis, self.across)], axis=1)

    @property
    def euler_deg(self) -> tuple[float, float, float]:
        """How it stands, seen from a spike along z whose first protomer points along x."""
        return euler_deg(self.frame @ _Spike(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 0, 1.0])).frame.T)


@dataclass(frozen=True, eq=False)
class _SpikeStructure:
    """An atomic model or map of a spike: `upright` turns it so that its axis runs along z, its head up.

    foot_A, top_A: how far it goes from its centre of mass along its axis.
    """

    structure: Structure
    upright: Vector
    foot_A: float
    top_A: float


def _spheres(bases: Vector, axes: Vector) -> tuple[Vector, Vector]:
    """Centres (n, sphere, 3) and radii (sphere,) that hold spikes with bases and axes (n, 3)."""
    heights, radii = np.array(_SPIKE_SPHERES_A).T
    return bases[:, None] + heights[:, None] * axes[:, None], radii


def _place_spikes(virion: _Virion, virions: list[_Virion], recipe: VirionRecipe, rng: Generator) -> list[_Spike]:
    """Anywhere on the envelope, leaning freely, apart from each other and from the neighbours' envelopes."""
    wanted = int(rng.integers(recipe.n_spikes[0], recipe.n_spikes[1] + 1))
    tries = 40 * wanted
    bases, normals = virion.surface(unit_vectors(rng, tries))
    sideways = perpendicular(normals, rng)
    lean = np.radians(np.minimum(np.abs(rng.normal(0, recipe.spike_tilt_deg, tries)), _SPIKE_LEAN_LIMIT_DEG))
    axes = np.cos(lean) * normals + np.sin(lean) * sideways
    across = perpendicular(axes, rng)
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


def _spike_structure(recipe: VirionRecipe) -> _SpikeStructure | None:
    """The recipe's spike, set upright: the axis is the one about which its mass is spread most evenly."""
    if not recipe.spike_structure:
        return None
    structure = read_structure(recipe.spike_structure, voxel_size_A=recipe.voxel_size_A)
    density = structure.fine.astype(np.float64)
    grid = (np.indices(density.shape) - (density.shape[0] - 1) / 2) * (structure.voxel_size_A / 2)
    weights = density.ravel() / density.sum()
    points = grid.reshape(3, -1)
    # Not by BLAS, whose last bit hangs on the number of threads.
    spread, axes = np.linalg.eigh(np.einsum("in,jn->ij", points * weights, points))
    # Of a trimer two spreads are equal; the third's direction is the axis.
    axis = axes[:, int(np.argmax([abs(spread[i] - (spread.sum() - spread[i]) / 2) for i in range(3)]))]
    along = np.einsum("i,in->n", axis, points)
    radial = np.sum(points**2, axis=0) - along**2
    up, down = (np.average(radial[side], weights=weights[side] + 1e-12) for side in (along > 0, along < 0))
    if up < down:  # the head is wider than the foot
        axis, along = -axis, -along
    across = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    frame = _Spike(np.zeros(3), axis, across / np.linalg.norm(across)).frame
    own = along[density.ravel() > structure.threshold_V]
    return _SpikeStructure(structure, frame.T, float(-own.min()), float(own.max()))


def _paint_spike_structure(canvas: Canvas, spike: _Spike, own: _SpikeStructure) -> None:
    """The structure with its top where the parametric spike's is, on a plain stalk."""
    window = canvas.window(spike.base + 0.5 * _SPIKE_HEIGHT_A * spike.axis, 0.5 * _SPIKE_HEIGHT_A + 70)
    centre = spike.base + (_SPIKE_HEIGHT_A - own.top_A) * spike.axis
    posed = pose(canvas, own.structure, centre, spike.frame @ own.upright)
    if window is None or posed is None:
        return
    region, points = window
    stalk = _stalk(canvas, spike, points, max(_SPIKE_HEIGHT_A - own.top_A - own.foot_A + 10, 0.0))
    instance = _new_spike(canvas, spike, _SPIKE_HEIGHT_A - own.top_A)
    _add_spike(canvas, instance, region, _SPIKE_V * canvas.inside(stalk), stalk < 0.25 * canvas.voxel)
    _add_spike(canvas, instance, posed.region, posed.potential, posed.mask)


def _stalk(canvas: Canvas, spike: _Spike, points: Points, top_A: float) -> Points:
    """Signed distance from a rod of a stalk's radius, from the bilayer's middle to a height."""
    offset = points - column(spike.base, points)
    height = np.tensordot(spike.axis.astype(np.float32), offset, 1)
    radial = np.sqrt(np.maximum(np.sum(offset * offset, axis=0) - height**2, 0))
    # On a coarse grid a stalk thinner than a voxel's diagonal would fall to pieces.
    distance = np.hypot(radial, height - np.clip(height, 0, top_A)) - max(_STALK_RADIUS_A, 0.9 * canvas.voxel)
    return np.asarray(distance)


def _paint_spike(canvas: Canvas, spike: _Spike) -> None:
    """A stalk from the bilayer's middle, a body that widens upwards, three lobes around its top."""
    window = canvas.window(spike.base + 0.5 * _SPIKE_HEIGHT_A * spike.axis, 0.5 * _SPIKE_HEIGHT_A + 70)
    if window is None:
        return
    region, points = window
    solid = _stalk(canvas, spike, points, 100.0)
    offset = points - column(spike.base, points)
    height = np.tensordot(spike.axis.astype(np.float32), offset, 1)
    radial = np.sqrt(np.maximum(np.sum(offset * offset, axis=0) - height**2, 0))
    along = np.clip(height, 95, 165)
    solid = np.minimum(solid, np.hypot(radial, height - along) - (20 + 15 * (along - 95) / 70))
    third = np.cross(spike.axis, spike.across)
    for turn in (0, 2 * math.pi / 3, 4 * math.pi / 3):
        lobe = 185 * spike.axis + 30 * (math.cos(turn) * spike.across + math.sin(turn) * third)
        from_lobe = offset - column(lobe, points)
        up = np.tensordot(spike.axis.astype(np.float32), from_lobe, 1)
        # An ellipsoid 31 Å across and 43 Å along the axis.
        solid = np.minimum(solid, np.sqrt(np.sum(from_lobe**2, axis=0) - (1 - (31 / 43) ** 2) * up**2) - 31)
    # A third of a voxel makes it a spike's: its coat of glycans reaches beyond what is dense.
    volts, own = _SPIKE_V * canvas.inside(solid), solid < 0.25 * canvas.voxel
    _add_spike(canvas, _new_spike(canvas, spike, _SPIKE_CENTRE_A), region, volts, own)


def _new_spike(canvas: Canvas, spike: _Spike, centre_A: float) -> int:
    """centre_A: height of its centre of mass above the bilayer's middle."""
    centre = spike.base + centre_A * spike.axis
    return canvas.new_particle("spike", centre, reach=centre_A, euler_deg=spike.euler_deg)


def _add_spike(canvas: Canvas, instance: int, region: Region, volts: Points, solid: Points) -> None:
    """A part of a spike. What lies within the envelope adds nothing to what is dense there already."""
    parts, instances = canvas.parts[region], canvas.instances[region]
    free = (parts < canvas.number["outer leaflet"]) | (instances == instance)
    potential = canvas.potential[region]
    potential[free] = np.maximum(potential, volts)[free]
    instances[solid & free] = instance
    parts[solid & free] = canvas.number["spike"]
