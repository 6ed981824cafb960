# SPDX-License-Identifier: MIT
"""What surrounds every specimen: free protein, gold, the two borders between ice and air, and protein's grain."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from .._progress import Progress, silent
from ..filters import gaussian
from ..volume import Float32Array
from .specimen import Canvas, Vector, paint_ellipsoid

_CLUTTER_V, _GOLD_V, _ICE_V, _FILM_V = 1.7, 15.0, 3.5, 1.6
_GOLD_RADIUS_A = 50.0
_GAP_A = 18.0  # between a free particle and whatever else there is
_TRIES = 10  # places that a particle is offered
_BORDER_CORRELATION_A = 400.0  # how far the heights of a border hang together
_WAVES = 64  # of a border's surface
_GRAIN_A, _GRAIN_SHARE = 12.0, 0.2
_SLAB = 32  # planes of grain at a time


def paint_borders(canvas: Canvas, rng: Generator) -> None:
    """Both borders of the ice, uneven, each with a film of denatured protein on its inner side.

    A flat border of endless ice adds the same to every ray of a view, and a tilt series is blind to it. So only what
    differs from flat ice is painted: vacuum (3.5 V below ice) where the ice ends early, ice where it ends late.
    """
    recipe = canvas.recipe
    rng = rng.spawn(1)[0]  # a stream of its own: borders do not change what stands in the ice
    film_A, roughness_A = 10 * recipe.film_nm, 10 * recipe.border_roughness_nm
    for flat, outward in zip(canvas.ice_A, (-1, 1), strict=True):
        height = np.float32(roughness_A) * _rough(canvas.shape[1:], _BORDER_CORRELATION_A / canvas.voxel, rng)
        reach = float(np.abs(height).max()) + film_A + 2 * canvas.voxel
        first, stop = (int(np.rint((flat + side * reach) / canvas.voxel)) + canvas.margin[0] for side in (-1, 1))
        rows = slice(max(first, 0), min(stop + 1, canvas.shape[0]))
        lumps = rng.standard_normal((stop + 1 - first, *canvas.shape[1:]), dtype=np.float32)
        if rows.stop > rows.start:
            lumps = ndimage.gaussian_filter(lumps[rows.start - first : rows.stop - first], 15 / canvas.voxel)
            z = ((np.arange(rows.start, rows.stop) - canvas.margin[0]) * canvas.voxel).astype(np.float32)
            beyond_flat = outward * (z[:, None, None] - np.float32(flat))
            beyond = beyond_flat - outward * height
            vacuum = canvas.inside(-beyond) - canvas.inside(-beyond_flat)
            film = canvas.inside(beyond) * canvas.inside(-beyond - np.float32(film_A)) if film_A else 0
            lumpy = np.clip(1 + lumps / max(float(lumps.std()), 1e-12), 0, None)
            canvas.potential[rows] += -_ICE_V * vacuum + _FILM_V * film * lumpy
            if film_A:
                canvas.parts[rows][(beyond <= 0) & (beyond > -film_A)] = canvas.number["film at the ice's border"]
            canvas.parts[rows][beyond > 0] = canvas.number["beyond the ice"]
        outside = slice(0, max(first, 0)) if outward < 0 else slice(min(stop + 1, canvas.shape[0]), None)
        canvas.parts[outside] = canvas.number["beyond the ice"]


def _rough(shape: tuple[int, ...], correlation_vox: float, rng: Generator) -> Float32Array:
    """A random surface (y, x) with standard deviation 1, correlated as exp(-r^2 / (4 correlation^2)).

    A sum of plane waves (Shinozuka and Deodatis 1996), which is the same on a canvas of any size: one that is smaller
    than the correlation sees a surface that is nearly flat, a little higher or lower than the mean.
    """
    k = rng.normal(0, 1 / (math.sqrt(2) * correlation_vox), (_WAVES, 2))
    phase = rng.uniform(0, 2 * math.pi, _WAVES)
    height = np.zeros(shape, np.float32)
    y, x = (np.arange(n) for n in shape)
    for (ky, kx), p in zip(k, phase, strict=True):
        down, along = ky * y + p, kx * x
        height += np.outer(np.cos(down), np.cos(along)) - np.outer(np.sin(down), np.sin(along))
    return np.asarray(height * np.float32(math.sqrt(2 / _WAVES)))


def paint_free_particles(canvas: Canvas, rng: Generator, *, progress: Progress = silent) -> None:
    """Free proteins and gold, clear of all that is there: what a segmentation must learn to leave out."""
    recipe = canvas.recipe
    low, extent = -canvas.margin * canvas.voxel, np.array(canvas.shape) * canvas.voxel
    low[0] = max(low[0], canvas.ice_A[0])
    extent[0] = min(extent[0], canvas.ice_A[1] - low[0])
    n_protein = int(rng.poisson(recipe.clutter_per_um3 * float(np.prod(extent)) * 1e-12))
    n = n_protein + recipe.n_gold
    # Gold first: it is the larger.
    is_gold = np.arange(n) < recipe.n_gold
    semi_axes = np.where(is_gold[:, None], _GOLD_RADIUS_A, rng.uniform(22, 50, (n, 3)))
    volts = np.where(is_gold, _GOLD_V, _CLUTTER_V * rng.uniform(0.5, 1, n))
    turns = rng.normal(size=(n, 3, 3))
    candidates = low + rng.uniform(0, 1, (n, _TRIES, 3)) * extent
    for i in range(n):
        if i % 64 == 0:
            progress("free particles", i, n)
        part = "gold" if is_gold[i] else "free protein"
        for centre in candidates[i]:
            if _is_free(canvas, centre, float(semi_axes[i].max()) + _GAP_A):
                turn = np.linalg.qr(turns[i])[0]
                instance = canvas.new_particle("gold", centre, reach=_GOLD_RADIUS_A) if is_gold[i] else 0
                paint_ellipsoid(canvas, centre, semi_axes[i], turn, float(volts[i]), part=part, instance=instance)
                break
    progress("free particles", n, n)


def _is_free(canvas: Canvas, centre: Vector, reach: float) -> bool:
    """Nothing but ice in the cube about a point."""
    first = np.floor((centre - reach) / canvas.voxel).astype(int) + canvas.margin
    stop = np.ceil((centre + reach) / canvas.voxel).astype(int) + 1 + canvas.margin
    z, y, x = (slice(max(int(a), 0), int(b)) for a, b in zip(first, stop, strict=True))
    return not canvas.parts[z, y, x].any()


def paint_grain(canvas: Canvas, rng: Generator, loose: Mapping[str, float], *, progress: Progress = silent) -> None:
    """Protein is not jelly: its density varies by 20 % over 1 to 2 nm.

    loose: part -> volts: standard deviation of what lies about in it without a shape of its own.
    """
    sigma = _GRAIN_A / canvas.voxel
    halo = int(4 * sigma + 0.5)
    point = np.zeros((2 * halo + 1,) * 3, np.float32)
    point[halo, halo, halo] = 1
    scale = np.float32(np.sum(np.square(gaussian(point, sigma), dtype=np.float64)) ** -0.5)  # of filtered noise
    depth = canvas.shape[0]
    volts = np.zeros(len(canvas.number), np.float32)
    for part, value in loose.items():
        volts[canvas.number[part]] = value
    # Plane after plane of noise: the slabs decide nothing but how much memory is used.
    planes = rng.standard_normal((2 * halo, *canvas.shape[1:]), dtype=np.float32)
    for first in range(0, depth, _SLAB):
        progress("grain", first, depth)
        rows = slice(first, min(first + _SLAB, depth))
        fresh = rng.standard_normal((rows.stop - first, *canvas.shape[1:]), dtype=np.float32)
        planes = np.concatenate([planes[-2 * halo :] if halo else fresh[:0], fresh])
        grain = gaussian(planes, sigma)[halo : len(planes) - halo] * scale
        canvas.potential[rows] *= 1 + np.float32(_GRAIN_SHARE) * grain
        canvas.potential[rows] += volts[canvas.parts[rows]] * grain
    progress("grain", depth, depth)
