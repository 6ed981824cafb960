# SPDX-License-Identifier: MIT
"""Microtubules and actin: lattices of subunits wound about gently curved centre lines.

Microtubule: 13 straight protofilaments, 25 nm across, 17 nm clear inside; tubulin every 4.1 nm, dimers every 8.2 nm,
neighbouring protofilaments shifted so that three monomers make a turn: alike stands beside alike but at one seam
(Nogales et al. 1999, Cell 96:79). F-actin: a subunit every 2.75 nm, turned by -166.7 degrees, which looks like two
strands that cross every 37 nm, 7 to 8 nm wide (Holmes et al. 1990, Nature 347:44).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from .._progress import Progress, silent
from .specimen import Canvas, Points, Vector, column, length, perpendicular
from .structures import euler_deg
from .surface import spiral

MONOMER_A, PROTOFILAMENTS, START = 41.0, 13, 3
_WALL_A = (85.0, 125.0)  # inner and outer radius of a microtubule
ACTIN_RISE_A, ACTIN_TWIST_DEG = 27.5, -166.7
_ACTIN_RADIUS_A = 16.0  # of the helix on which the subunits' middles lie
# Semi-axes of a subunit: outwards, around, along.
_TUBULIN_A, _ACTIN_A = (20.0, 25.0, 21.0), (22.0, 18.0, 28.0)
# A dimer's halves differ, if little; it is what makes 8 nm of 4.
_TUBULIN_V, _ACTIN_V = (1.8, 2.1), (2.0, 2.0)
_STEP_A = 10.0  # between points of a centre line
_LARGEST_SLOPE = 0.25  # of a filament against the plane of the ice, where it starts
_CLEARANCE_A = 18.0
_TRIES = 200


@dataclass(frozen=True, eq=False)
class Lattice:
    """Subunits of a filament in its own frame, one entry each.

    along_A: position along the centre line. angle: about it, in radians. kind: 0 or 1, of a dimer.
    radius_A: distance from it. semi_axes_A: of the ellipsoid, outwards, around and along. volts: of each kind.
    wall: subunits are bricks that leave no hole between them in the truth, and not ellipsoids.
    """

    along_A: Vector
    angle: Vector
    kind: npt.NDArray[np.intp]
    radius_A: float
    semi_axes_A: tuple[float, float, float]
    volts: tuple[float, float]
    wall: bool


def microtubule_lattice(length_A: float) -> Lattice:
    """Tubulin of a microtubule that is so long."""
    shift = START * MONOMER_A / PROTOFILAMENTS
    rows = int(length_A / MONOMER_A)
    filament, k = (grid.ravel() for grid in np.indices((PROTOFILAMENTS, rows)))
    along: Vector = (k.astype(np.float64) + 0.5) * MONOMER_A + filament * shift - START * MONOMER_A / 2
    kept = (along > 0) & (along < length_A)
    angle: Vector = -2 * math.pi * filament.astype(np.float64) / PROTOFILAMENTS
    middle = sum(_WALL_A) / 2
    return Lattice(along[kept], angle[kept], k[kept] % 2, middle, _TUBULIN_A, _TUBULIN_V, True)


def actin_lattice(length_A: float) -> Lattice:
    """Subunits of an actin filament that is so long."""
    n = np.arange(int(length_A / ACTIN_RISE_A))
    angle: Vector = math.radians(ACTIN_TWIST_DEG) * n.astype(np.float64)
    return Lattice(
        (n.astype(np.float64) + 0.5) * ACTIN_RISE_A, angle, n % 2, _ACTIN_RADIUS_A, _ACTIN_A, _ACTIN_V, False
    )


@dataclass(frozen=True)
class _Kind:
    part: str
    plural: str
    radius_A: float
    shortest_A: float  # that is worth painting
    lattice: Callable[[float], Lattice]


_MICROTUBULE = _Kind("microtubule", "microtubules", _WALL_A[1], 1000.0, microtubule_lattice)
_ACTIN = _Kind("actin", "actin filaments", 40.0, 600.0, actin_lattice)


def paint_microtubules(
    canvas: Canvas, rng: Generator, n: int, *, persistence_um: float, progress: Progress = silent
) -> None:
    """Up to n microtubules that run through the ice clear of what is there; a note says if fewer had room."""
    _paint(canvas, rng, n, _MICROTUBULE, persistence_um, progress)


def paint_actin(canvas: Canvas, rng: Generator, n: int, *, persistence_um: float, progress: Progress = silent) -> None:
    """The same for actin."""
    _paint(canvas, rng, n, _ACTIN, persistence_um, progress)


def _paint(canvas: Canvas, rng: Generator, n: int, kind: _Kind, persistence_um: float, progress: Progress) -> None:
    placed = 0
    for i in range(n):
        progress(kind.plural, i, n)
        line = _place(canvas, rng, kind, persistence_um)
        # The next one draws anew, and may have more luck.
        if line is not None:
            paint_filament(canvas, line, kind.lattice, kind.part, rng)
            placed += 1
    progress(kind.plural, n, n)
    if placed < n:
        canvas.notes.append(f"placed {placed} of {n} {kind.plural}: no room was found for more")


def centre_line(start: Vector, direction: Vector, length_A: float, *, persistence_um: float, rng: Generator) -> Vector:
    """A worm-like chain through `start`, about half of its length on either side: (n, 3), points 10 Å apart.

    Its direction does a random walk, <cos> = exp(-distance / persistence), exact to first order in the angle.
    """
    half = math.ceil(length_A / 2 / _STEP_A)
    kicks = rng.normal(0, math.sqrt(_STEP_A / (1e4 * persistence_um)), (2, 2, half))
    first = perpendicular(direction[:, None], rng)[:, 0]
    sides = np.stack([first, np.cross(direction, first)])
    arms = []
    for kick, sign in zip(kicks, (-1.0, 1.0), strict=True):
        lean = np.cumsum(kick, axis=1)
        tangents = sign * direction[:, None] + sum(w * side[:, None] for w, side in zip(lean, sides, strict=True))
        arms.append(start[:, None] + _STEP_A * np.cumsum(tangents / np.linalg.norm(tangents, axis=0), axis=1))
    return np.concatenate([arms[0][:, ::-1], start[:, None], arms[1]], axis=1).T


def _place(canvas: Canvas, rng: Generator, kind: _Kind, persistence_um: float) -> Vector | None:
    """A centre line through the tomogram: as it comes where all is clear, else the longest stretch of many tries."""
    low, high = -canvas.margin * canvas.voxel, (np.array(canvas.shape) - canvas.margin - 1) * canvas.voxel
    longest = 2 * float(np.hypot(*(high - low)[1:]))
    best: Vector | None = None
    for _ in range(_TRIES):
        start = rng.uniform(0, canvas.extent)
        start[0] = min(max(start[0], canvas.ice_A[0]), canvas.ice_A[1])
        turn, slope = rng.uniform(0, 2 * math.pi), rng.uniform(-_LARGEST_SLOPE, _LARGEST_SLOPE)
        direction = np.array([slope, math.sin(turn), math.cos(turn)]) / math.hypot(1, slope)
        line = centre_line(start, direction, longest, persistence_um=persistence_um, rng=rng)
        within = np.all((line[:, 1:] >= low[1:]) & (line[:, 1:] <= high[1:]), axis=1)
        clear = _is_clear(canvas, line, kind.radius_A + _CLEARANCE_A)
        stretch = _run_through(clear & within, len(line) // 2)
        if _STEP_A * len(stretch) >= kind.shortest_A and (best is None or len(stretch) > len(best)):
            best = line[stretch]
        if best is not None and len(stretch) == len(_run_through(within, len(line) // 2)):
            break
    return best


def _run_through(good: npt.NDArray[np.bool_], through: int) -> npt.NDArray[np.intp]:
    """Indices of the run of true values that holds index `through`."""
    if not good[through]:
        return np.empty(0, np.intp)
    bad = np.flatnonzero(~good)
    first = bad[bad < through][-1] + 1 if np.any(bad < through) else 0
    stop = bad[bad > through][0] if np.any(bad > through) else len(good)
    return np.arange(first, stop)


def _is_clear(canvas: Canvas, line: Vector, reach: float) -> npt.NDArray[np.bool_]:
    """Of each point of a line (n, 3): nothing but ice within `reach`, or what lies beyond the canvas's sides."""
    # Near enough for nothing that is painted to slip through.
    balls = np.concatenate([share * reach * spiral(60).T for share in (0.3, 0.65, 1.0)])
    around = np.rint((line[:, None] + balls) / canvas.voxel).astype(int) + canvas.margin
    beside = np.any((around < 0) | (around >= canvas.shape), axis=2)
    z, y, x = np.moveaxis(np.clip(around, 0, np.array(canvas.shape) - 1), 2, 0)
    clear = np.all(beside | (canvas.parts[z, y, x] == 0), axis=1)
    bottom, top = canvas.ice_A
    return np.asarray(clear & (line[:, 0] > bottom + reach) & (line[:, 0] < top - reach))


def paint_filament(
    canvas: Canvas, line: Vector, lattice: Callable[[float], Lattice], part: str, rng: Generator
) -> None:
    """A filament along a centre line (n, 3), turned about it at random; one instance number for all of it."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    arc = np.concatenate([[0.0], np.cumsum(steps)])
    units = lattice(float(arc[-1]))
    tangents, normals = _frames(line, perpendicular((line[1] - line[0])[:, None], rng)[:, 0])
    middle = len(line) // 2
    frame = np.stack([tangents[middle], normals[middle], np.cross(tangents[middle], normals[middle])], axis=1)
    reach = float(np.linalg.norm(line - line[middle], axis=1).max()) + 130
    instance = canvas.new_particle(part, line[middle], reach=reach, euler_deg=euler_deg(frame))
    along, across = (
        np.stack([np.interp(units.along_A, arc, field[:, axis]) for axis in range(3)], axis=1)
        for field in (tangents, normals)
    )
    points = np.stack([np.interp(units.along_A, arc, line[:, axis]) for axis in range(3)], axis=1)
    along /= np.linalg.norm(along, axis=1)[:, None]
    across -= np.sum(across * along, axis=1)[:, None] * along
    across /= np.linalg.norm(across, axis=1)[:, None]
    # Of (z, y, x) components numpy's product is left-handed; the lattices are right about their hands.
    third = -np.cross(along, across)
    cos, sin = np.cos(units.angle)[:, None], np.sin(units.angle)[:, None]
    outwards = cos * across + sin * third
    turns = np.stack([outwards, cos * third - sin * across, along], axis=1)
    for centre, turn, which in zip(points + units.radius_A * outwards, turns, units.kind, strict=True):
        _paint_subunit(canvas, centre, turn, units, units.volts[which], canvas.number[part], instance)


def _frames(line: Vector, normal: Vector) -> tuple[Vector, Vector]:
    """Tangents and normals (n, 3) along a line; the normal is carried along without twist."""
    tangents = np.gradient(line, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1)[:, None]
    normals = np.empty_like(tangents)
    for i, tangent in enumerate(tangents):
        normal = normal - np.sum(normal * tangent) * tangent
        normal /= np.sqrt(np.sum(normal**2))
        normals[i] = normal
    return tangents, normals


def _paint_subunit(
    canvas: Canvas, centre: Vector, turn: Vector, units: Lattice, volts: float, part: int, instance: int
) -> None:
    """An ellipsoid with its semi-axes along the rows of `turn` (3, 3)."""
    semi_axes = np.array(units.semi_axes_A)
    window = canvas.window(centre, 1.3 * float(semi_axes.max()) + 1.5 * canvas.voxel)
    if window is None:
        return
    region, points = window
    own: Points = np.tensordot(turn.astype(np.float32), points - column(centre, points), 1)
    own /= column(semi_axes, own)
    distance = (length(own) - 1) * float(semi_axes.min())
    canvas.potential[region] += volts * canvas.inside(distance)
    # Bricks of a bent wall overlap on one side; a little more than a brick's size keeps the other side closed.
    solid = np.all(np.abs(own) < 1.06, axis=0) if units.wall else distance < 0.25 * canvas.voxel
    canvas.parts[region][solid] = part
    canvas.instances[region][solid] = instance
