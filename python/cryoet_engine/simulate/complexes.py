# SPDX-License-Identifier: MIT
"""Crowded macromolecules: complexes from files, anywhere in the ice and turned at random, none touching another.

Random sequential addition: what is placed stays. The largest complexes come first, for where a ribosome still fits is
soon nowhere; so every class gets its numbers, and the ice gets fuller than in random order. The large ones are spread
as if there were no small ones, and the small ones fill what is left: specimens in which small ones hold large ones
apart are not made. A complex keeps the orientation it was given until a place is found, and takes the first of its
uniformly drawn places that is free: orientations stay uniform, and places are uniform over the free ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import ndimage
from scipy.special import ndtr

from .._checks import input_error
from .._progress import Progress, silent
from ..io._files import existing
from ._ranges import number, switch, text, texts, within
from .ice import paint_borders, paint_free_particles
from .recipe import SURROUNDINGS, Recipe
from .specimen import Canvas, Specimen, Vector, paint_pose, posed
from .structures import Rotated, Structure, euler_deg, random_rotation, read_structure

Indices = npt.NDArray[np.int64]

_MOST_STRUCTURES = 256 - len(SURROUNDINGS)  # parts are numbered in 8 bits
_MOST_PARTICLES = 65_535
_TRIES = (64, 512, 4096)  # places offered to a complex, one lot after the other
_PROBES = 16  # voxels of a complex that are tried before all of them
_FULL_AFTER = 15  # complexes of a class without a place, one after the other, before the ice is full for the class
_SHAPE_V = 1.9  # potential of a built-in shape, near that of an atomic model in voxels of 10 Å


@dataclass(frozen=True, kw_only=True)
class ComplexRecipe(Recipe):
    """Macromolecular complexes in ice, and how they are recorded (see `Recipe` and `Imaging` for the other fields).

    structures: files of atomic models (PDB, mmCIF) or density maps, one class each, named as the file is up to its
        first dot; none: four built-in shapes (see `builtin_shapes`).
    abundances: one number a class, in proportion to how many of it are wanted; none: all alike.
    n_particles: complexes with their centres in the tomogram; 0: `crowding` decides.
    crowding: share of the tomogram's ice that the complexes' masks take; 0: `n_particles` decides.
    gap_A: no voxels of two complexes' masks are nearer than this, from centre to centre.
    aligned: every copy upright and centred on a voxel, for measuring a signal-to-noise ratio.
    snr: signal-to-noise ratio of Frank and Al-Ali (1975) of aligned copies of `snr_reference`, met by the number of
        electrons that are counted (see `snr`); 0: the dose decides. By weighted back-projection alone.
    snr_reference: the class that is meant; empty: the first one.
    snr_box: edge of the boxes in which it is measured, in voxels.
    """

    kind: ClassVar[str] = "complexes"

    voxel_size_A: float = within(10.0, 1, 40)
    thickness_nm: float = within(120.0, 1, 2000)
    # Free proteins are background, and small complexes look like them: none unless asked for.
    clutter_per_um3: float = within(0.0, 0, 1e6)
    n_gold: int = within(0, 0, 1000, whole=True)
    structures: tuple[str, ...] = texts()
    abundances: tuple[float, ...] = ()
    n_particles: int = within(0, 0, _MOST_PARTICLES, whole=True)
    crowding: float = within(0.1, 0, 0.6)
    gap_A: float = within(10.0, 0, 2000)
    aligned: bool = switch(False)
    snr: float = within(0.0, 0, 1000)
    snr_reference: str = text()
    snr_box: int = within(40, 8, 256, whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        self._check_names(where)
        self._check_abundances(where)
        if bool(self.n_particles) == bool(self.crowding):
            got = f"n_particles {self.n_particles} and crowding {self.crowding:g}"
            expected, fix = "one of the two, the other 0", "set n_particles, and crowding = 0, or the other way round"
            raise input_error(where, "n_particles, crowding", expected=expected, got=got, fix=fix)
        if self.snr_reference and self.snr_reference not in self.names:
            raise input_error(where, "snr_reference", expected=", ".join(self.names), got=repr(self.snr_reference))
        if self.snr and self.reconstruction != "wbp":
            fix = "SIRT's noise depends on the place, so that a tomogram has no one ratio: leave one of them out"
            got = f"{self.reconstruction} and snr {self.snr:g}"
            raise input_error(where, "reconstruction", expected="wbp where snr is given", got=got, fix=fix)
        if self.snr and self.readout_noise_e:
            fix = "the ratio is met by the number of electrons alone: leave one of them out"
            got = f"snr {self.snr:g} as well"
            raise input_error(where, "readout_noise_e", expected="0 where snr is given", got=got, fix=fix)

    def _check_names(self, where: str) -> None:
        if len(self.structures) > _MOST_STRUCTURES:
            expected, got = f"up to {_MOST_STRUCTURES}", f"{len(self.structures)}"
            raise input_error(where, "structures", expected=expected, got=got)
        names = self.names
        taken = {*SURROUNDINGS, *SURROUNDINGS.values(), ""}
        if wrong := [name for name in names if name in taken or names.count(name) > 1]:
            expected = f"files of different names, none of them {', '.join(sorted(taken - {''}))}"
            fix = "rename the file, or list it once: its name is the class's"
            raise input_error(where, "structures", expected=expected, got=repr(wrong[0]), fix=fix)

    def _check_abundances(self, where: str) -> None:
        shares: Any = self.abundances
        if isinstance(shares, str) or not isinstance(shares, Sequence):
            raise input_error(where, "abundances", expected="a list of numbers", got=repr(shares))
        if len(shares) not in (0, len(self.names)):
            expected = f"one for each of the {len(self.names)} classes ({', '.join(self.names)}), or none"
            raise input_error(where, "abundances", expected=expected, got=f"{len(shares)}")
        given = tuple(number(where, "abundances", share, 0, 1e6) for share in shares)
        if given and not any(given):
            raise input_error(where, "abundances", expected="one above 0", got="zeros")
        object.__setattr__(self, "abundances", given)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the complexes, in the order of their classes."""
        return tuple(Path(file).name.split(".")[0] for file in self.structures) or tuple(_SHAPES)

    @property
    def parts(self) -> Mapping[str, str]:
        """Part -> class; each complex is a class of its own."""
        return SURROUNDINGS | {name: name for name in self.names}


def read_complexes(recipe: ComplexRecipe) -> tuple[Structure, ...]:
    """The complexes of a recipe at its voxel size, in the order of their classes; a file is read once.

    Errors: those of `read_structure`.
    """
    if not recipe.structures:
        return builtin_shapes(recipe.voxel_size_A)
    files = (existing(Path(file)) for file in recipe.structures)
    return tuple(_read_once(str(file), file.stat().st_mtime_ns, recipe.voxel_size_A) for file in files)


@functools.lru_cache(maxsize=64)
def _read_once(file: str, changed: int, voxel: float) -> Structure:
    return read_structure(file, voxel_size_A=voxel)


def build_complexes(recipe: ComplexRecipe, rng: Generator, *, progress: Progress = silent) -> Specimen:
    """Place and paint complexes. The crowd goes on beyond the tomogram's borders, and may be cut by them.

    A complex is where its centre is: `n_particles` are in the tomogram, and of those beyond, which are as dense, some
    reach into it.

    Errors: those of `read_structure`.
    """
    progress("structures", 0, 1)
    structures = read_complexes(recipe)
    canvas = Canvas(recipe)
    paint_borders(canvas, rng)
    ice = canvas.parts == canvas.number["ice"]
    ice_within = int(np.count_nonzero(ice[canvas.box]))
    ice_beyond = int(np.count_nonzero(ice)) - ice_within
    paint_free_particles(canvas, rng, progress=progress)
    sizes = [float(np.count_nonzero(s.fine > s.threshold_V)) / 8 for s in structures]
    shares = np.array(recipe.abundances or [1.0] * len(structures))
    shares /= shares.sum()
    mean_size = float(sum(share * size for share, size in zip(shares, sizes, strict=True)))
    wanted = recipe.n_particles or max(1, round(recipe.crowding * ice_within / mean_size))
    beyond = round(wanted * ice_beyond / max(ice_within, 1))
    within_each, beyond_each = apportioned(wanted, shares), apportioned(beyond, shares)
    room = _Room(canvas, max(s.radius_A for s in structures))
    placed = done = 0
    for i in sorted(range(len(structures)), key=lambda i: (-sizes[i], i)):
        # In one row, so that neither side of the tomogram's border is filled before the other.
        inside = rng.permutation(np.arange(within_each[i] + beyond_each[i]) < within_each[i])
        failures = {True: 0, False: 0}
        for j, is_inside in enumerate(inside.tolist()):
            if j % 16 == 0:
                progress("complexes", done + j, wanted + beyond)
            if failures[is_inside] < _FULL_AFTER:
                if _place(canvas, room, structures[i], recipe.names[i], is_inside, rng):
                    failures[is_inside] = 0
                    placed += is_inside
                else:
                    failures[is_inside] += 1
        done += len(inside)
    progress("complexes", wanted + beyond, wanted + beyond)
    if placed < wanted:
        within_masks = np.count_nonzero(canvas.parts[canvas.box] >= len(SURROUNDINGS))
        canvas.notes.append(
            f"placed {placed} of {wanted} complexes: no room was found for more; "
            f"they take {within_masks / max(ice_within, 1):.3f} of the ice"
        )
    return canvas.finished()


def apportioned(total: int, shares: Vector) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to shares that add up to 1: largest remainders round up."""
    exact = total * shares
    whole = np.floor(exact).astype(int)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return [int(n) for n in whole]


class _Room:
    """Which voxels are taken, of the canvas and of a border around it wide enough for every complex placed there."""

    def __init__(self, canvas: Canvas, radius_A: float) -> None:
        self.gap = canvas.recipe.gap_A / canvas.voxel if isinstance(canvas.recipe, ComplexRecipe) else 0.0
        self.border = math.ceil(radius_A / canvas.voxel + self.gap) + 2
        shape = tuple(n + 2 * self.border for n in canvas.shape)
        self.taken = np.zeros(shape, bool)
        # The crowd goes on beyond the canvas, but not beyond the ice.
        z = (np.arange(shape[0]) - self.border - canvas.margin[0]) * canvas.voxel
        self.taken[(z < canvas.ice_A[0]) | (z > canvas.ice_A[1])] = True
        inner = tuple(slice(self.border, self.border + n) for n in canvas.shape)
        self.taken[inner] = canvas.parts != canvas.number["ice"]
        self.strides = np.array(self.taken.strides, np.int64)
        self.origin = canvas.margin + self.border

    def offsets(self, points: npt.NDArray[Any]) -> Indices:
        """Of voxels (n, 3), in the array seen as one row."""
        return np.asarray((points * self.strides).sum(axis=1))

    def first_free(self, footprint: Indices, places: npt.NDArray[Any]) -> int | None:
        """The first of some places (n, 3), voxels of the tomogram, where nothing of the footprint is taken."""
        row = self.taken.reshape(-1)
        bases = self.offsets(places + self.origin)
        probes = footprint[:: max(1, len(footprint) // _PROBES)]
        hopeful = np.flatnonzero(~row[bases[:, None] + probes].any(axis=1))
        for i in hopeful.tolist():
            if not row[bases[i] + footprint].any():
                return int(i)
        return None


def _place(canvas: Canvas, room: _Room, structure: Structure, part: str, inside: bool, rng: Generator) -> bool:
    """Give one complex an orientation and, if there is one, a place; paint it there."""
    recipe = canvas.recipe
    turn, shift = np.eye(3), np.zeros(3)
    if not (isinstance(recipe, ComplexRecipe) and recipe.aligned):
        turn, shift = random_rotation(rng), rng.uniform(-0.5, 0.5, 3)
    turned = structure.rotated(turn, offset_vox=tuple(float(v) for v in shift))
    footprint = room.offsets(_grown(turned, room.gap))
    for tries in _TRIES:
        places = _candidates(canvas, inside, tries, rng)
        found = room.first_free(footprint, places)
        if found is not None:
            break
    else:
        return False
    voxel = places[found]
    here = posed(canvas, turned, voxel)
    if here is None:  # what lies off its own centre may lie off the canvas
        return False
    mask = np.argwhere(turned.mask) - np.array(turned.centre)
    room.taken.reshape(-1)[room.offsets(mask) + room.offsets(voxel[None] + room.origin)] = True
    centre = (voxel + shift) * canvas.voxel
    instance = canvas.new_particle(part, centre, reach=structure.radius_A + canvas.voxel / 2, euler_deg=euler_deg(turn))
    paint_pose(canvas, here, part, instance)
    return True


def _grown(turned: Rotated, gap_vox: float) -> npt.NDArray[Any]:
    """Voxels (n, 3), from the centre, which have to be free: those of the mask, and those within the gap of them."""
    border = int(gap_vox)
    mask = np.pad(turned.mask, border)
    if border:
        mask = ndimage.distance_transform_edt(~mask) <= gap_vox
    return np.asarray(np.argwhere(mask) - (np.array(turned.centre) + border))


def _candidates(canvas: Canvas, inside: bool, n: int, rng: Generator) -> npt.NDArray[Any]:
    """Up to n voxels (n, 3), uniform over the tomogram, or over what the canvas has around it; within the ice."""
    size = np.array(canvas.recipe.shape)
    low, high = (0 * size, size) if inside else (-canvas.margin, size + canvas.margin)
    low[0] = max(low[0], math.ceil(canvas.ice_A[0] / canvas.voxel))
    high[0] = min(high[0], math.floor(canvas.ice_A[1] / canvas.voxel) + 1)
    places = rng.integers(low, high, (n, 3))
    return places if inside else places[np.any((places < 0) | (places >= size), axis=1)]


def builtin_shapes(voxel_size_A: float) -> tuple[Structure, ...]:
    """Four shapes the size of well-known complexes, for when there are no files.

    barrel: two stacked rings with a chamber each (GroEL: 14 nm across and high). ribosome: two unequal halves with a
    cleft, 25 nm. ring: six lobes about a pore, with a smaller lobe on one side (p97: 16 nm across). dumbbell: two
    balls on a rod (21 nm). Smooth solids of 1.9 V, their edges blurred to what the voxels carry.
    """
    return tuple(_solid(name, distance, reach, voxel_size_A) for name, (reach, distance) in _SHAPES.items())


@functools.lru_cache(maxsize=16)
def _solid(name: str, distance: Any, reach_A: float, voxel: float) -> Structure:
    half = math.ceil(reach_A / voxel + 2.5)
    axis = (np.arange(4 * half + 1) - 2 * half) * (voxel / 2)
    offset = np.zeros(3)
    for _ in range(2):  # the second time with its centre of mass in the middle
        points = np.stack(np.meshgrid(*(axis + v for v in offset), indexing="ij"))
        fine = (_SHAPE_V * ndtr(-2 / voxel * distance(points))).astype(np.float32)
        weight = fine / np.sum(fine, dtype=np.float64)
        offset += [float(np.sum(weight * (p - v), dtype=np.float64)) for p, v in zip(points, offset, strict=True)]
    return Structure(name, fine, voxel, 0.5 * _SHAPE_V)


def _ellipsoid(points: Vector, centre: Sequence[float], semi_axes: Sequence[float]) -> Vector:
    """Signed distance, to first order."""
    axes = np.array(semi_axes).reshape(3, 1, 1, 1)
    scaled = (points - np.array(centre).reshape(3, 1, 1, 1)) / axes
    r = np.sqrt(np.sum(scaled**2, axis=0))
    slope = np.sqrt(np.sum((scaled / axes) ** 2, axis=0))
    return np.asarray((r - 1) * r / np.maximum(slope, 1e-6))


def _rod(points: Vector, start: Sequence[float], stop: Sequence[float], radius: float) -> Vector:
    first, along = np.array(start).reshape(3, 1, 1, 1), np.subtract(stop, start).reshape(3, 1, 1, 1)
    t = np.clip(np.sum((points - first) * along, axis=0) / np.sum(along**2), 0, 1)
    return np.asarray(np.sqrt(np.sum((points - first - t * along) ** 2, axis=0)) - radius)


def _barrel(points: Vector) -> Vector:
    z, across = points[0], np.hypot(points[1], points[2])
    wall = np.maximum(across - 70, np.abs(z) - 73)
    # A waist where the rings meet, and chambers that open outwards.
    wall = np.maximum(wall, 12 - np.hypot(across - 78, z))
    for side in (-1, 1):
        wall = np.maximum(wall, -_rod(points, (side * 35, 0, 0), (side * 90, 0, 0), 24))
    return np.asarray(wall)


def _ribosome(points: Vector) -> Vector:
    large = _ellipsoid(points, (-24, 0, 0), (67, 94, 86))
    stalk, bump = _rod(points, (-10, 72, 45), (28, 104, 62), 17), _ellipsoid(points, (30, -76, 0), (26, 27, 31))
    small, head = _ellipsoid(points, (78, 0, 18), (32, 52, 83)), _ellipsoid(points, (84, 36, -54), (26, 31, 33))
    return np.asarray(functools.reduce(np.minimum, (large, stalk, bump, small, head)))


def _ring(points: Vector) -> Vector:
    solid = np.full(points.shape[1:], np.inf)
    for i in range(6):
        turn = i * math.pi / 3
        y, x = math.sin(turn), math.cos(turn)
        solid = np.minimum(solid, _ellipsoid(points, (0, 48 * y, 48 * x), (36, 29, 29)))
        tilted = turn + 0.35
        lobe = (44, 60 * math.sin(tilted), 60 * math.cos(tilted))
        solid = np.minimum(solid, _ellipsoid(points, lobe, (18, 17, 17)))
    return solid


def _dumbbell(points: Vector) -> Vector:
    balls = np.minimum(_ellipsoid(points, (-62, 0, 0), (42, 42, 42)), _ellipsoid(points, (66, 0, 0), (36, 40, 44)))
    return np.asarray(np.minimum(balls, _rod(points, (-62, 0, 0), (66, 0, 0), 17)))


#: Name -> reach from the centre in Å, and the signed distance of points (3, z, y, x).
_SHAPES: Mapping[str, tuple[float, Any]] = {
    "barrel": (105.0, _barrel),
    "ribosome": (145.0, _ribosome),
    "ring": (85.0, _ring),
    "dumbbell": (115.0, _dumbbell),
}
