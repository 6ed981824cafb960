# SPDX-License-Identifier: MIT
"""Float64 oracles of bilateral filter and CLAHE, written from their definitions; imports nothing of ours.

Slow and plain on purpose: numpy's own mirroring (np.pad, mode="reflect"), a loop over taps, a loop over tiles.
"""

from __future__ import annotations

import itertools
import math

import numpy as np


def bilateral(v, sigma_vox, sigma_range, window=2.0):
    """Tomasi and Manduchi 1998 over a cube: the normalised sum of spatial times range Gaussian."""
    v = np.asarray(v, np.float64)
    r = math.floor(window * sigma_vox + 0.5)
    wide = np.pad(v, r, mode="reflect")
    total, weights = np.zeros_like(v), np.zeros_like(v)
    for dz, dy, dx in itertools.product(range(2 * r + 1), repeat=3):
        neighbour = wide[dz : dz + v.shape[0], dy : dy + v.shape[1], dx : dx + v.shape[2]]
        distance = (dz - r) ** 2 + (dy - r) ** 2 + (dx - r) ** 2
        w = np.exp(-distance / (2 * sigma_vox**2)) * np.exp(-((neighbour - v) ** 2) / (2 * sigma_range**2))
        total += w * neighbour
        weights += w
    return total / weights


def clipped_histogram(counts, clip_limit):
    """Raise the level one by one as long as clipped bins plus level hold no more than all voxels; spread the rest."""
    n, n_bins = int(counts.sum()), len(counts)
    clip = max(math.floor(clip_limit * n), math.ceil(n / n_bins))
    level = 0
    while level < clip and np.minimum(counts + level + 1, clip).sum() <= n:
        level += 1
    out = np.minimum(counts + level, clip)
    room = np.flatnonzero(out < clip)
    rest = n - int(out.sum())
    for j, b in enumerate(room):
        out[b] += (j + 1) * rest // len(room) - j * rest // len(room)
    return out


def _hats(length, tile, n_tiles):
    """Weight of each tile along an axis, (tile, voxel): a hat around its middle, level beyond the outermost ones."""
    middles = np.arange(n_tiles) * tile + (tile - 1) / 2
    return np.array([np.interp(np.arange(length), middles, np.eye(n_tiles)[t]) for t in range(n_tiles)])


def clahe(v, value_range, tile, clip_limit=0.01, n_bins=256):
    """Every tile's map applied to the whole volume, and summed with the tiles' weights."""
    v = np.asarray(v, np.float64)
    low, high = value_range
    tile = [min(t, n) for t, n in zip(tile, v.shape, strict=True)]
    n_tiles = [math.ceil(n / t) for t, n in zip(tile, v.shape, strict=True)]
    ends = [(0, m * t - n) for m, t, n in zip(n_tiles, tile, v.shape, strict=True)]
    whole = np.pad(v, ends, mode="reflect")
    hats = [_hats(n, t, m) for n, t, m in zip(v.shape, tile, n_tiles, strict=True)]
    edges = low + (high - low) * np.arange(n_bins + 1) / n_bins
    out = np.zeros_like(v)
    for at in np.ndindex(*n_tiles):
        part = whole[tuple(slice(a * t, (a + 1) * t) for a, t in zip(at, tile, strict=True))].ravel()
        bins = np.clip(np.floor((part - low) / (high - low) * n_bins), 0, n_bins - 1).astype(int)
        counts = clipped_histogram(np.bincount(bins, minlength=n_bins), clip_limit)
        cumulated = np.concatenate([[0], np.cumsum(counts)]) / part.size
        z, y, x = (hat[a] for hat, a in zip(hats, at, strict=True))
        out += np.interp(v, edges, cumulated) * z[:, None, None] * y[:, None] * x
    return out
