# SPDX-License-Identifier: MIT
"""Scores of segmentations by brute force over voxels, in float64. Imports nothing of ours."""

from __future__ import annotations

import math
from itertools import product

import numpy as np


def overlaps(truth: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """F1 and IoU of two masks."""
    both = sum(bool(a and b) for a, b in zip(truth.ravel(), found.ravel(), strict=True))
    either = sum(bool(a or b) for a, b in zip(truth.ravel(), found.ravel(), strict=True))
    n = int(truth.sum()) + int(found.sum())
    return (2 * both / n, both / either) if n else (math.nan, math.nan)


def surface(labels: np.ndarray, known: np.ndarray, label: int) -> list[tuple[int, int, int]]:
    """Known voxels of a label with a known voxel of another one among their six neighbours."""
    out = []
    for voxel in product(*map(range, labels.shape)):
        if labels[voxel] != label or not known[voxel]:
            continue
        for axis, step in product(range(3), (-1, 1)):
            other = tuple(v + step * (axis == a) for a, v in enumerate(voxel))
            inside = all(0 <= v < n for v, n in zip(other, labels.shape, strict=True))
            if inside and known[other] and labels[other] != label:
                out.append(voxel)
                break
    return out


def surface_dice(truth: np.ndarray, found: np.ndarray, label: int, tolerance: float, size: tuple) -> float:
    """The share of both surfaces' voxels within `tolerance` of the other surface; truth below 0 is unknown."""
    known = truth >= 0
    a, b = surface(truth, known, label), surface(found, known, label)
    if not a and not b:
        return math.nan

    def near(one: list, other: list) -> int:
        return sum(any(math.dist(np.multiply(v, size), np.multiply(w, size)) <= tolerance for w in other) for v in one)

    return (near(a, b) + near(b, a)) / (len(a) + len(b))


def calibration_error(truth: np.ndarray, probability: np.ndarray, n_bins: int) -> float:
    """Guo et al. 2017, equation 3: bins (i / n, (i + 1) / n] of the largest probability."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(n_bins)]
    for k, p in zip(truth.ravel(), probability.reshape(len(probability), -1).T, strict=True):
        if k >= 0:
            bins[max(math.ceil(float(p.max()) * n_bins) - 1, 0)].append((float(p.max()), bool(p.argmax() == k)))
    n = sum(map(len, bins))
    gaps = [abs(sum(right for _, right in one) - sum(sure for sure, _ in one)) for one in bins]
    return sum(gaps) / n
