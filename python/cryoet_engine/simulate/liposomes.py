# SPDX-License-Identifier: MIT
"""Liposomes and organelles in ice with membrane proteins, and filaments beside them.

Sizes: head groups of the bilayer's two leaflets 4 nm apart (Nagle & Tristram-Nagle 2000); ATP synthase a head of
10 nm on a stalk, its middle 10 to 15 nm off the membrane (Davies et al. 2011, PNAS 108:14121). After the liposomes of
paper 2 (section 4), in three dimensions.

The truth: a bilayer is membrane from one leaflet's outside to the other's, also where a protein goes through it, so
that only gaps open it; a protein is what stands out of the membrane. What fills a vesicle is background, as in the
paper's labels; the parts tell a lumen and its matrix apart from the ice outside.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from scipy import ndimage
from scipy.special import ndtr

from .._checks import input_error
from .._progress import Progress, silent
from ..volume import Float32Array
from ._ranges import choice, span, texts, within
from .filaments import paint_actin, paint_microtubules
from .ice import paint_borders, paint_free_particles, paint_grain
from .recipe import SURROUNDINGS, Recipe
from .specimen import Canvas, Points, Specimen, Vector, column, perpendicular, pose, unit_vectors
from .structures import Structure, euler_deg, read_structure
from .surface import Surface, random_harmonics, spiral

# Along the outward normal, from the bilayer's middle: (position, width, volts) of head groups, tails, head groups.
_PROFILE_A = ((20.0, 7.0, 1.6), (-20.0, 7.0, 1.6), (0.0, 8.0, -0.2))
_HALF_A = 28.0  # from the middle to where the head groups end
_VESICLE_GAP_A = 60.0  # at least, between two membranes' middles
_ICE_ROOM_A = 180.0  # between a vesicle and the ice's border: for proteins that stand on it
_SMALLEST_A = 80.0  # radius of a vesicle that is worth having
_SHAPE_POINTS = 600
_TRIES = 400  # of a vesicle, before it is left out
_PROTEIN_V, _STALK_RADIUS_A = 2.1, 13.0
_INTEGRAL_A = (24.0, 45.0)  # semi-axes of a small protein, across the membrane's normal and along it
_MATRIX_GRAIN_A, _MATRIX_GRAIN_SHARE = 25.0, 0.6
_SLAB_VOXELS = 1 << 19


@dataclass(frozen=True, kw_only=True)
class LiposomeRecipe(Recipe):
    """Liposomes and organelles in ice, and how they are recorded (see `Recipe` and `Imaging` for the other fields).

    n_vesicles: outermost ones to place, the largest first; `Simulation.notes` says how many had room.
    diameter_nm: least and largest of their mean diameters, from leaflet to leaflet.
    deformation: least and largest root mean square deviation from a sphere, as a share of the radius.
    nested_share: of the vesicles, hold a smaller one somewhere inside. multilamellar_share: hold shells of their own
        shape, n_lamellae (least, largest) in all, lamella_spacing_nm apart.
    filled_share: of the outermost vesicles, filled with a matrix as a lysosome is. lumen_density_V: its mean
        potential above ice; dense protein is near 2.5 V. It comes in lumps of some nm; lumen_grain_V is the standard
        deviation of its finer grain.
    gap_share: of every membrane's area that is missing, in round patches of gap_diameter_nm (least, largest); the last
        patch of a membrane is as small as it takes. Nothing to do with what the missing wedge hides.
    synthases_per_1000_nm2: ATP synthases, or the like: a head of head_diameter_nm on a stalk, its middle
        head_height_nm from the membrane's. integrals_per_1000_nm2: small proteins through the membrane.
    protein_structures: files of membrane proteins, maps or atomic models, structures_per_1000_nm2 of each. The
        membrane's normal is the file's z axis, its middle the atomic model's z = 0 or the map's middle voxel (n // 2):
        the convention of OPM, which PolNet's maps keep.
    protein_side: where heads and the files' +z point: outside, inside, or both at random.
    protein_patch: share of a vesicle's surface, a cap on a random side, to which its proteins keep; 1 is everywhere.
    n_microtubules, n_actin: filaments beside the vesicles. microtubule_persistence_um, actin_persistence_um: how
        straight they are: over that length directions fall to a correlation of 1 / e. In tomograms microtubules bend
        more than the millimetres of a free one would let them.
    """

    kind: ClassVar[str] = "liposomes"

    n_vesicles: int = within(7, 0, 10_000, whole=True)
    diameter_nm: tuple[float, float] = span((40.0, 110.0), 25, 1000)
    deformation: tuple[float, float] = span((0.02, 0.12), 0, 0.25)
    nested_share: float = within(0.3, 0, 1)
    multilamellar_share: float = within(0.15, 0, 1)
    n_lamellae: tuple[int, int] = span((2, 3), 2, 20, whole=True)
    lamella_spacing_nm: float = within(10.0, 7, 100)
    filled_share: float = within(0.2, 0, 1)
    lumen_density_V: float = within(0.5, 0, 3)
    lumen_grain_V: float = within(0.2, 0, 3)
    gap_share: float = within(0.02, 0, 0.5)
    gap_diameter_nm: tuple[float, float] = span((15.0, 35.0), 2, 500)
    synthases_per_1000_nm2: float = within(0.8, 0, 20)
    head_diameter_nm: tuple[float, float] = span((9.0, 11.0), 2, 40)
    head_height_nm: tuple[float, float] = span((10.0, 15.0), 3, 50)
    integrals_per_1000_nm2: float = within(1.0, 0, 50)
    protein_structures: tuple[str, ...] = texts()
    structures_per_1000_nm2: float = within(0.3, 0, 20)
    protein_side: str = choice("outside", "outside", "inside", "both")
    protein_patch: float = within(1.0, 0.01, 1)
    n_microtubules: int = within(1, 0, 1000, whole=True)
    n_actin: int = within(3, 0, 10_000, whole=True)
    microtubule_persistence_um: float = within(20.0, 0.5, 1e5)
    actin_persistence_um: float = within(5.0, 0.5, 1e5)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        if self.n_vesicles and self.thickness_nm < self.diameter_nm[1]:
            expected = f"at least the largest vesicle's {self.diameter_nm[1]:g}"
            fix = "use thicker ice"
            raise input_error(where, "thickness_nm", expected=expected, got=self.thickness_nm, fix=fix)
        if self.nested_share + self.multilamellar_share > 1:
            expected = "1 at most together with multilamellar_share"
            got = f"{self.nested_share:g} + {self.multilamellar_share:g}"
            raise input_error(where, "nested_share", expected=expected, got=got)

    @property
    def parts(self) -> Mapping[str, str]:
        """Part -> class."""
        return SURROUNDINGS | {
            "lumen": "background",
            "lumen matrix": "background",
            "outer leaflet": "membrane",
            "inner leaflet": "membrane",
            "membrane protein": "protein",
            "microtubule": "filaments",
            "actin": "filaments",
        }


@dataclass(eq=False)
class _Vesicle:
    """A closed membrane, `surface` being the bilayer's middle, with round gaps: (centre, radius) of balls that cut it.

    parent: what it lies in, if anything.
    """

    surface: Surface
    parent: _Vesicle | None = None
    is_filled: bool = False
    gaps: list[tuple[Vector, float]] = field(default_factory=list)

    @property
    def farthest(self) -> float:
        """Largest distance of the outer leaflet from the centre."""
        return self.surface.farthest_A + _HALF_A

    @functools.cached_property
    def points(self) -> Vector:
        """Points (3, n) all over the surface."""
        return self.surface.surface(spiral(_SHAPE_POINTS))[0]


def build_liposomes(recipe: LiposomeRecipe, rng: Generator, *, progress: Progress = silent) -> Specimen:
    """Place and paint vesicles, their proteins, filaments, free protein and gold.

    Vesicles may be cut by the tomogram's lateral borders. Errors: those of `read_structure` for protein_structures.
    """
    canvas = Canvas(recipe)
    structures = [read_structure(f, voxel_size_A=recipe.voxel_size_A) for f in recipe.protein_structures]
    paint_borders(canvas, rng)
    vesicles = _place_vesicles(recipe, rng, canvas.notes, progress=progress)
    for vesicle in vesicles:
        _place_gaps(vesicle, recipe, rng)
    for i, vesicle in enumerate(vesicles):
        progress("vesicles", i, len(vesicles))
        _paint_vesicle(canvas, vesicle, recipe.lumen_density_V, rng, progress)
    proteins = _place_proteins(vesicles, structures, recipe, rng, canvas.notes, progress=progress)
    for i, protein in enumerate(proteins):
        if i % 16 == 0:
            progress("membrane proteins", i, len(proteins))
        _paint_protein(canvas, protein)
    for n, paint, persistence_um in (
        (recipe.n_microtubules, paint_microtubules, recipe.microtubule_persistence_um),
        (recipe.n_actin, paint_actin, recipe.actin_persistence_um),
    ):
        paint(canvas, rng, n, persistence_um=persistence_um, progress=progress)
    paint_free_particles(canvas, rng, progress=progress)
    paint_grain(canvas, rng, {"lumen matrix": recipe.lumen_grain_V}, progress=progress)
    return canvas.finished()


def _place_vesicles(
    recipe: LiposomeRecipe, rng: Generator, notes: list[str], *, progress: Progress = silent
) -> list[_Vesicle]:
    """Every vesicle before what it holds."""
    radii = np.sort(5 * rng.uniform(*recipe.diameter_nm, recipe.n_vesicles))[::-1] - _HALF_A
    outermost: list[_Vesicle] = []
    for i, radius in enumerate(radii):
        progress("placing vesicles", i, len(radii))
        if (vesicle := _place_vesicle(recipe, float(radius), outermost, rng)) is not None:
            outermost.append(vesicle)
    if len(outermost) < recipe.n_vesicles:
        notes.append(f"placed {len(outermost)} of {recipe.n_vesicles} vesicles: no room was found for more")
    vesicles: list[_Vesicle] = []
    empty = 0
    for vesicle in outermost:
        inside = rng.uniform()
        held: Sequence[_Vesicle] = ()
        if inside < recipe.multilamellar_share:
            held = _lamellae(vesicle, recipe, rng)
            empty += not held
        elif inside < recipe.multilamellar_share + recipe.nested_share:
            held = _nested(vesicle, recipe, rng)
            empty += not held
        vesicles += [vesicle, *held]
    if empty:
        notes.append(f"{empty} of {len(outermost)} vesicles were too small for the membranes that they were to hold")
    return vesicles


def _shape(centre: Vector, radius: float, recipe: LiposomeRecipe, rng: Generator) -> Surface:
    return Surface(centre, radius, *random_harmonics(rng, float(rng.uniform(*recipe.deformation))))


def _place_vesicle(recipe: LiposomeRecipe, radius: float, others: list[_Vesicle], rng: Generator) -> _Vesicle | None:
    extent = (np.array(recipe.shape) - 1) * recipe.voxel_size_A
    for _ in range(_TRIES):
        centre = rng.uniform(0, extent)
        surface = _shape(centre, radius, recipe, rng)
        # The ice holds the whole vesicle, and its proteins too where it is thick enough.
        room = 5 * recipe.thickness_nm - surface.farthest_A - _HALF_A
        play = min(max(room - _ICE_ROOM_A, 0.0), extent[0] / 2)
        centre[0] = extent[0] / 2 + rng.uniform(-play, play)
        vesicle = _Vesicle(surface, is_filled=bool(rng.uniform() < recipe.filled_share))
        # A vesicle that is not quite a sphere may be a little thicker than the ice: it would be squeezed.
        if room > -0.15 * radius and all(_are_apart(vesicle, other) for other in others):
            return vesicle
    return None


def _are_apart(one: _Vesicle, other: _Vesicle) -> bool:
    between = float(np.linalg.norm(one.surface.centre - other.surface.centre))
    if between > one.farthest + other.farthest + _VESICLE_GAP_A:
        return True
    gaps = (one.surface.signed_distance(other.points), other.surface.signed_distance(one.points))
    return all(float(gap.min()) > 2 * _HALF_A + _VESICLE_GAP_A for gap in gaps)


def _fits_in(inner: _Vesicle, outer: _Vesicle, gap_A: float) -> bool:
    """Every point of the inner surface lies at least so far within the outer one."""
    return float(outer.surface.signed_distance(inner.points).max()) < -gap_A


def _nested(outer: _Vesicle, recipe: LiposomeRecipe, rng: Generator) -> list[_Vesicle]:
    """A smaller vesicle somewhere inside: as large as it may be in the first tries, smaller and smaller after that."""
    largest = outer.surface.nearest_A - _VESICLE_GAP_A - _HALF_A
    for i in range(_TRIES):
        radius = largest * rng.uniform(0.35, 0.9) * (1 - 0.5 * i / _TRIES)
        centre = outer.surface.centre + unit_vectors(rng, 1)[:, 0] * rng.uniform(0, max(largest - radius, 0))
        inner = _Vesicle(_shape(centre, radius, recipe, rng), outer)
        if radius > _SMALLEST_A and _fits_in(inner, outer, _VESICLE_GAP_A):
            return [inner]
    return []


def _lamellae(outer: _Vesicle, recipe: LiposomeRecipe, rng: Generator) -> list[_Vesicle]:
    """Shells of the outer one's shape, one in the other."""
    shells = [outer]
    for _ in range(int(rng.integers(recipe.n_lamellae[0], recipe.n_lamellae[1] + 1)) - 1):
        last = shells[-1].surface
        radius = last.radius - 10 * recipe.lamella_spacing_nm
        if radius < _SMALLEST_A:
            break
        # The same bulges in Å, but that every bend costs more in a smaller shell.
        surface = Surface(last.centre, radius, last.orders, last.axes, 0.95 * last.amplitudes * last.radius / radius)
        inner = _Vesicle(surface, shells[-1])
        if not _fits_in(inner, shells[-1], 2 * _HALF_A):
            break
        shells.append(inner)
    return shells[1:]


def _place_gaps(vesicle: _Vesicle, recipe: LiposomeRecipe, rng: Generator) -> None:
    """Round patches that do not overlap, until `gap_share` of the area is gone."""
    if not recipe.gap_share:
        return
    surface = vesicle.surface
    wanted = recipe.gap_share * surface.area_A2
    for _ in range(_TRIES):
        # A ball about a point of a sphere cuts an area of pi times its radius squared out of it.
        radius = min(5 * float(rng.uniform(*recipe.gap_diameter_nm)), 0.8 * surface.radius, math.sqrt(wanted / math.pi))
        centre = surface.surface(unit_vectors(rng, 1))[0][:, 0]
        if all(np.linalg.norm(centre - c) > radius + r + 2 * _HALF_A for c, r in vesicle.gaps):
            vesicle.gaps.append((centre, radius))
            wanted -= math.pi * radius**2
        if wanted < 1:
            return


def _paint_vesicle(canvas: Canvas, vesicle: _Vesicle, density_V: float, rng: Generator, progress: Progress) -> None:
    surface = vesicle.surface
    instance = canvas.new_particle("outer leaflet", surface.centre, reach=vesicle.farthest)
    region = canvas.region(surface.centre, vesicle.farthest + 3 * canvas.voxel)
    if region is None:
        return
    z, y, x = region
    shape = tuple(part.stop - part.start for part in region)
    planes = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    matrix = _matrix(canvas, shape, planes, density_V, rng) if vesicle.is_filled else itertools.repeat(None)
    for first in range(0, shape[0], planes):
        progress("membrane", first, shape[0])
        slab = slice(z.start + first, min(z.start + first + planes, z.stop)), y, x
        _paint_slab(canvas, vesicle, slab, next(matrix), instance)


def _matrix(
    canvas: Canvas, shape: tuple[int, ...], planes: int, density_V: float, rng: Generator
) -> Iterator[Float32Array]:
    """What fills a lumen, in volts, so many planes at a time: granules of some nm, more or less dense."""
    sigma = _MATRIX_GRAIN_A / canvas.voxel
    halo = int(4 * sigma + 0.5)
    taps = ndimage.gaussian_filter1d(np.eye(1, 2 * halo + 1, halo)[0], sigma)
    share = _MATRIX_GRAIN_SHARE
    scale = np.float32(share * float(np.sum(taps**2)) ** -1.5)
    # The mean of max(1 + share * normal, 0).
    mean = float(ndtr(1 / share)) + share * math.exp(-0.5 / share**2) / math.sqrt(2 * math.pi)
    noise = rng.standard_normal((2 * halo, *shape[1:]), dtype=np.float32)
    for first in range(0, shape[0], planes):
        n = min(planes, shape[0] - first)
        fresh = rng.standard_normal((n, *shape[1:]), dtype=np.float32)
        noise = np.concatenate([noise[len(noise) - 2 * halo :], fresh])
        lumps = ndimage.gaussian_filter(noise, sigma, mode="wrap")[halo : halo + n]
        yield np.maximum(1 + scale * lumps, 0) * np.float32(density_V / mean)


def _paint_slab(
    canvas: Canvas,
    vesicle: _Vesicle,
    region: tuple[slice, slice, slice],
    lumen: Float32Array | None,
    instance: int,
) -> None:
    points = canvas.points(region)
    distance = vesicle.surface.signed_distance(points)
    volts = np.zeros_like(distance)
    for position, width, height in _PROFILE_A:
        blurred = math.hypot(width, 0.5 * canvas.voxel)
        volts += height * width / blurred * np.exp(-0.5 * np.square((distance - position) / blurred))
    half = max(_HALF_A, 0.9 * canvas.voxel)  # thinner than a voxel's diagonal it would not be closed
    bilayer = np.abs(distance) < half
    if vesicle.gaps:
        beyond = _distance_from_gaps(vesicle.gaps, points)
        volts *= canvas.inside(-beyond)
        bilayer &= beyond > 0
    if lumen is not None:
        volts += lumen * canvas.inside(distance + half)
    # What the parent is filled with ends here.
    canvas.potential[region] *= canvas.inside(-distance)
    canvas.potential[region] += volts
    parts = canvas.parts[region]
    parts[distance < 0] = canvas.number["lumen" if lumen is None else "lumen matrix"]
    parts[bilayer & (distance >= 0)] = canvas.number["outer leaflet"]
    parts[bilayer & (distance < 0)] = canvas.number["inner leaflet"]
    canvas.instances[region][bilayer] = instance


def _distance_from_gaps(gaps: Sequence[tuple[Vector, float]], points: Points) -> Points:
    """From the edge of the nearest gap's ball, negative within."""
    beyond = np.full(points.shape[1:], np.inf, points.dtype)
    for centre, radius in gaps:
        offset = points - np.reshape(centre.astype(points.dtype), (3,) + (1,) * (points.ndim - 1))
        np.minimum(beyond, np.sqrt(np.sum(offset * offset, axis=0)) - points.dtype.type(radius), out=beyond)
    return beyond


@dataclass(frozen=True, eq=False)
class _Protein:
    """Something that stands on `base`, in the bilayer's middle, along `axis`, which points away from the membrane.

    structure: from a file. Else a stalk with a head of `head_A` whose middle is `height_A` above the base, or, where
    that is 0, a small protein within the membrane.
    """

    base: Vector
    axis: Vector
    across: Vector
    structure: Structure | None = None
    head_A: float = 0.0
    height_A: float = 0.0

    @property
    def rotation(self) -> Vector:
        """Takes (z, y, x) vectors of the upright protein to where it stands."""
        return np.stack([self.axis, self.across, np.cross(self.axis, self.across)], axis=1)

    @functools.cached_property
    def balls(self) -> tuple[Vector, Vector]:
        """Centres (n, 3) and radii (n,) in Å of balls that hold it, the first being what is in the membrane."""
        if self.structure is not None:
            middle = self.base + self.rotation @ np.array(self.structure.centre_A)
            return np.stack([self.base, middle]), np.array([30.0, self.structure.radius_A])
        if not self.height_A:
            return self.base[None], np.array([_INTEGRAL_A[0] + 4])
        return np.stack([self.base, self.base + self.height_A * self.axis]), np.array([30.0, self.head_A / 2])

    @property
    def reach(self) -> float:
        """How far it goes from its base."""
        centres, radii = self.balls
        farthest = np.linalg.norm(centres - self.base, axis=1) + radii
        return max(float(farthest.max()), 1.4 * _INTEGRAL_A[1])


def _place_proteins(
    vesicles: list[_Vesicle],
    structures: Sequence[Structure],
    recipe: LiposomeRecipe,
    rng: Generator,
    notes: list[str],
    *,
    progress: Progress = silent,
) -> list[_Protein]:
    """The large ones first; clear of gaps, of each other and of other membranes."""
    placed: list[_Protein] = []
    wanted = 0
    centres, radii = np.empty((0, 3)), np.empty(0)
    densities = [recipe.structures_per_1000_nm2] * len(structures)
    densities += [recipe.synthases_per_1000_nm2, recipe.integrals_per_1000_nm2]
    for i, vesicle in enumerate(vesicles):
        progress("placing membrane proteins", i, len(vesicles))
        cap = unit_vectors(rng, 1)[:, 0]
        area_nm2 = vesicle.surface.area_A2 / 100 * recipe.protein_patch
        for kind, density in enumerate(densities):
            n = round(density * area_nm2 / 1000)
            wanted += n
            for base, normal, across in _stands(vesicle, cap, 20 * n, recipe, rng):
                protein = _protein(kind, base, normal, across, structures, recipe, rng)
                if n == 0:
                    break
                own, own_radii = protein.balls
                gaps = np.linalg.norm(own[:, None] - centres, axis=-1) - own_radii[:, None] - radii
                if np.all(gaps > 0) and _is_clear_of_membranes(own[1:], own_radii[1:], vesicle, vesicles):
                    placed.append(protein)
                    centres, radii = np.concatenate([centres, own]), np.concatenate([radii, own_radii])
                    n -= 1
    if len(placed) < wanted:
        notes.append(f"placed {len(placed)} of {wanted} membrane proteins: no room was found for more")
    return placed


def _stands(
    vesicle: _Vesicle, cap: Vector, n: int, recipe: LiposomeRecipe, rng: Generator
) -> list[tuple[Vector, Vector, Vector]]:
    """Places on a membrane that has no gap there: base, outward normal, and a direction across it."""
    directions = unit_vectors(rng, n)
    # Uniform over the cap of the sphere: the height along its axis is uniform.
    turned = 1 - recipe.protein_patch * (1 - np.sum(cap[:, None] * directions, axis=0))
    sideways = directions - np.sum(cap[:, None] * directions, axis=0) * cap[:, None]
    sideways /= np.linalg.norm(sideways, axis=0)
    directions = turned * cap[:, None] + np.sqrt(np.maximum(1 - turned**2, 0)) * sideways
    bases, normals = vesicle.surface.surface(directions)
    across = perpendicular(normals, rng)
    kept = _distance_from_gaps(vesicle.gaps, bases) > 30
    return list(zip(bases.T[kept], normals.T[kept], across.T[kept], strict=True))


def _protein(
    kind: int,
    base: Vector,
    normal: Vector,
    across: Vector,
    structures: Sequence[Structure],
    recipe: LiposomeRecipe,
    rng: Generator,
) -> _Protein:
    flips = recipe.protein_side == "inside" or (recipe.protein_side == "both" and rng.uniform() < 0.5)
    axis = -normal if flips else normal
    if kind < len(structures):
        return _Protein(base, axis, across, structures[kind])
    if kind == len(structures):
        head = 10 * rng.uniform(*recipe.head_diameter_nm)
        return _Protein(base, axis, across, None, head, 10 * rng.uniform(*recipe.head_height_nm))
    return _Protein(base, axis, across)


def _is_clear_of_membranes(centres: Vector, radii: Vector, own: _Vesicle, vesicles: Sequence[_Vesicle]) -> bool:
    """Balls (n, 3) that stand out of a membrane touch no other one."""
    for other in vesicles:
        if other is own or not len(centres):
            continue
        far = float(np.linalg.norm(centres[0] - other.surface.centre)) > other.farthest + 300
        if not far and np.any(np.abs(other.surface.signed_distance(centres.T)) < radii + _HALF_A):
            return False
    return True


def _paint_protein(canvas: Canvas, protein: _Protein) -> None:
    instance = canvas.new_particle(
        "membrane protein", protein.balls[0][-1], reach=protein.reach, euler_deg=euler_deg(protein.rotation)
    )
    if protein.structure is not None:
        middle = protein.base + protein.rotation @ np.array(protein.structure.centre_A)
        posed = pose(canvas, protein.structure, middle, protein.rotation)
        if posed is not None:
            _add(canvas, posed.region, posed.potential, posed.mask, instance)
        return
    window = canvas.window(protein.base + 0.5 * protein.height_A * protein.axis, protein.reach)
    if window is None:
        return
    region, points = window
    offset = points - column(protein.base, points)
    height = np.tensordot(protein.axis.astype(np.float32), offset, 1)
    radial = np.sqrt(np.maximum(np.sum(offset * offset, axis=0) - height**2, 0))
    solid = _synthase(canvas, protein, height, radial) if protein.height_A else _integral(height, radial)
    _add(canvas, region, _PROTEIN_V * canvas.inside(solid), solid < 0.25 * canvas.voxel, instance)


def _synthase(canvas: Canvas, protein: _Protein, height: Points, radial: Points) -> Points:
    """Signed distance from a rotor in the membrane, a stalk and a head a little higher than wide."""
    rotor = np.maximum(radial - 30, np.abs(height) - 32)
    # On a coarse grid a stalk thinner than a voxel's diagonal would fall to pieces.
    stalk = np.hypot(radial, height - np.clip(height, 0, protein.height_A)) - max(_STALK_RADIUS_A, 0.9 * canvas.voxel)
    head = np.hypot(radial, (height - protein.height_A) / 1.08) - protein.head_A / 2
    return np.asarray(np.minimum(np.minimum(rotor, stalk), head))


def _integral(height: Points, radial: Points) -> Points:
    """Signed distance from an ellipsoid that stands out of the membrane on the axis's side more than on the other."""
    across, along = _INTEGRAL_A
    return np.asarray((np.hypot(radial / across, (height - 12) / along) - 1) * across)


def _add(canvas: Canvas, region: tuple[slice, slice, slice], volts: Points, solid: Points, instance: int) -> None:
    """Protein takes the place of lipid and of what else is there; the membrane stays membrane."""
    np.maximum(canvas.potential[region], volts, out=canvas.potential[region])
    parts = canvas.parts[region]
    own = solid & (parts != canvas.number["outer leaflet"]) & (parts != canvas.number["inner leaflet"])
    canvas.instances[region][own] = instance
    parts[own] = canvas.number["membrane protein"]
