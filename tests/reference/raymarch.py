# SPDX-License-Identifier: MIT
"""Compositing of soft classes along parallel rays (paper 1, section 5.2, corrected), float64, nothing of ours."""

from __future__ import annotations

import numpy as np


def sample(field: np.ndarray, points_zyx: np.ndarray) -> np.ndarray:
    """Trilinear interpolation of (z, y, x) at points in voxels (voxel middles at whole numbers), edges repeated."""
    base = np.floor(points_zyx).astype(int)
    weight = points_zyx - base
    total = np.zeros(len(points_zyx))
    for corner in np.ndindex(2, 2, 2):
        index = [np.clip(base[:, a] + corner[a], 0, field.shape[a] - 1) for a in range(3)]
        factor = np.prod([weight[:, a] if corner[a] else 1 - weight[:, a] for a in range(3)], axis=0)
        total += factor * field[tuple(index)]
    return total


def look_down(
    classes: np.ndarray, raw: np.ndarray, lefts: list[float], colors: np.ndarray, columns_yx: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (n, 3) and opacity (n,) of rays from the top slice down at columns (y, x) in voxels.

    classes: probabilities (class, z, y, x); raw: 0..1, (z, y, x); samples lie in the middle of steps.
    """
    depth = raw.shape[0]
    color, clear = np.zeros((len(columns_yx), 3)), np.ones(len(columns_yx))
    for k in range(int(np.ceil(depth / step))):
        z = depth - 0.5 - (k + 0.5) * step
        points = np.concatenate([np.full((len(columns_yx), 1), z), columns_yx], axis=1)
        shade = sample(raw, points)
        parts = np.stack(
            [
                np.clip((sample(c, points) - left) / (1 - left), 0, 1) * shade
                for c, left in zip(classes, lefts, strict=True)
            ]
        )
        joint = 1 - np.prod(1 - parts, axis=0)
        alpha = 1 - (1 - joint) ** step
        mean = np.einsum("cn,ck->nk", parts, colors) / np.maximum(parts.sum(0), 1e-12)[:, None]
        color += (clear * alpha)[:, None] * mean
        clear *= 1 - alpha
    return color, 1 - clear
