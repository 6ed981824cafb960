# SPDX-License-Identifier: MIT
"""Losses voxel by voxel, in float64. Imports nothing of ours."""

from __future__ import annotations

import math

import numpy as np


def softmax(x: np.ndarray) -> np.ndarray:
    """Over axis 1."""
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def wing(y: float, p: float) -> float:
    """Wang et al. 2019 with alpha 2.1, omega 14, epsilon 1, theta 0.5."""
    alpha, omega, epsilon, theta = 2.1, 14.0, 1.0, 0.5
    d = abs(y - p)
    if d < theta:
        return omega * math.log(1 + (d / epsilon) ** (alpha - y))
    a = omega * (1 / (1 + (theta / epsilon) ** (alpha - y))) * (alpha - y) * (theta / epsilon) ** (alpha - y - 1)
    a /= epsilon
    c = theta * a - omega * math.log(1 + (theta / epsilon) ** (alpha - y))
    return a * d - c


def loss(kind: str, activated: np.ndarray, truth: np.ndarray, weights: np.ndarray | None) -> float:
    """Mean loss of probabilities (batch, class, z, y, x) where truth, of that shape, has a class at all."""
    n = truth.shape[1]
    w = np.ones(n) if weights is None else weights
    p, t = (np.moveaxis(one, 1, -1).reshape(-1, n).astype(np.float64) for one in (activated, truth))
    known = t.sum(1) > 0
    p, t = p[known], t[known]
    if kind == "dice":
        lost = []
        for k in range(n):
            overlap = 2 * sum(a * b for a, b in zip(p[:, k], t[:, k], strict=True))
            lost.append(1 - (overlap + 1) / (sum(p[:, k] ** 2) + sum(t[:, k] ** 2) + 1))
        return float(np.dot(lost, w) / w.sum())
    total = count = 0.0
    for found, true in zip(p, t, strict=True):
        counts = float(np.dot(true, w))
        count += counts
        if kind == "cross_entropy":
            total += -sum(w[k] * true[k] * math.log(found[k]) for k in range(n))
        elif kind == "bce":
            each = [true[k] * math.log(found[k]) + (1 - true[k]) * math.log(1 - found[k]) for k in range(n)]
            total += -counts * sum(each) / n
        elif kind == "mse":
            total += counts * sum((found - true) ** 2) / n
        else:
            total += counts * sum(wing(y, x) for y, x in zip(true, found, strict=True)) / n
    return total / count
