# SPDX-License-Identifier: MIT
"""Float64 oracle of tile blending, written from its definition; imports nothing of ours.

Weights here are no shares: tiles are multiplied by their own weights, and a map of all weights divides at the end.
"""

from __future__ import annotations

from itertools import product

import numpy as np


def starts(length, tile, overlap):
    """First voxels of tiles: every tile - overlap voxels, the last one where it ends with the axis."""
    at = [0]
    while at[-1] + tile < length:
        at.append(min(at[-1] + tile - overlap, length - tile))
    return at


def ramp(length, start, tile, overlap, trim):
    """Weight of each voxel of a tile: 0 within `trim` of an inner end, then a straight line up over the overlap."""
    weights = np.ones(tile)
    wide = overlap - 2 * trim
    for i in range(tile):
        for distance, inner in ((i, start > 0), (tile - 1 - i, start + tile < length)):
            if inner:
                risen = 0.0 if distance < trim else (distance - trim + 0.5) / wide if distance - trim < wide else 1.0
                weights[i] = min(weights[i], risen)
    return weights


def bell(tile):
    """A Gaussian about the tile's middle, sigma an eighth of it."""
    return np.exp(-(((np.arange(tile) - (tile - 1) / 2) / (tile / 8)) ** 2) / 2)


def blend(tiles, shape, at, weights):
    """tiles: by index (iz, iy, ix), each (class, z, y, x); at, weights: by axis and tile. (class, *shape)."""
    n_classes = len(next(iter(tiles.values())))
    sums, total = np.zeros((n_classes, *shape)), np.zeros(shape)
    for k in product(*(range(len(one)) for one in at)):
        tile = np.asarray(tiles[k], np.float64)
        w = np.ones(tile.shape[1:])
        for axis in range(3):
            w *= weights[axis][k[axis]].reshape([-1 if i == axis else 1 for i in range(3)])
        part = tuple(slice(at[a][k[a]], at[a][k[a]] + tile.shape[a + 1]) for a in range(3))
        inside = tuple(slice(0, min(p.stop, n) - p.start) for p, n in zip(part, shape, strict=True))
        sums[(slice(None), *part)] += (tile * w)[(slice(None), *inside)]
        total[part] += w[inside]
    return sums / total


def softmax(values):
    """Over the first axis."""
    raised = np.exp(values - values.max(axis=0))
    return raised / raised.sum(axis=0)


def stored(probability, dtype):
    """Clamped to 0..1; whole numbers of 255 or 65535, to nearest even."""
    clamped = np.clip(probability, 0, 1)
    return clamped if dtype == "float32" else np.rint(clamped * np.iinfo(dtype).max)
