# SPDX-License-Identifier: MIT
"""Float64 oracle of the feature channels, written from the specification; imports nothing of ours.

Slow and plain on purpose: scipy's one-dimensional correlations with mode="mirror", and numpy's eigvalsh.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

FILTERS = (
    "GaussianSmoothing",
    "LaplacianOfGaussian",
    "GaussianGradientMagnitude",
    "DifferenceOfGaussians",
    "StructureTensorEigenvalues",
    "HessianOfGaussianEigenvalues",
)
SCALES = (0.3, 0.7, 1.0, 1.6, 3.5, 5.0, 10.0)


def kernel(sigma, order, window):
    """Sampled Gaussian (derivative) of radius floor(window * sigma + 0.5), to be correlated."""
    r = math.floor(window * sigma + 0.5)
    x = np.arange(-r, r + 1, dtype=np.float64)
    e = np.exp(-(x**2) / (2 * sigma**2))
    if order == 0:
        return e / e.sum()
    if order == 1:
        k = x * e
        return k / (k * x).sum()
    k = (x**2 / sigma**2 - 1) * e
    k -= k.mean()
    return k / (0.5 * (k * x**2).sum())


def gauss(v, sigma, order=(0, 0, 0), window=3.5):
    """Separable Gaussian of the given orders (z, y, x); an axis of length one: identity, or zero."""
    out = np.asarray(v, np.float64)
    for axis, o in enumerate(order):
        if out.shape[axis] == 1:
            out = out if o == 0 else np.zeros_like(out)
        else:
            out = ndimage.correlate1d(out, kernel(sigma, o, window), axis=axis, mode="mirror")
    return out


def _unit(*axes):
    order = [0, 0, 0]
    for axis in axes:
        order[axis] += 1
    return tuple(order)


def gradient(v, sigma, window):
    return [gauss(v, sigma, _unit(a), window) for a in range(3)]


def gradient_magnitude(v, sigma, window=3.5):
    return np.sqrt(sum(g**2 for g in gradient(v, sigma, window)))


def laplacian(v, sigma, window=3.5):
    return sum(gauss(v, sigma, _unit(a, a), window) for a in range(3))


def difference_of_gaussians(v, sigma, window=3.5):
    return gauss(v, sigma, window=window) - gauss(v, 0.66 * sigma, window=window)


def _eigenvalues(component, axes=(0, 1, 2)):
    """Descending eigenvalues of the tensor with entries component(a, b)."""
    rows = [[component(min(a, b), max(a, b)) for b in axes] for a in axes]
    matrix = np.moveaxis(np.array(rows), (0, 1), (-2, -1))
    return np.moveaxis(np.linalg.eigvalsh(matrix)[..., ::-1], -1, 0)


def hessian_eigenvalues(v, sigma, window=3.5, axes=(0, 1, 2)):
    return _eigenvalues(lambda a, b: gauss(v, sigma, _unit(a, b), window), axes)


def structure_tensor_eigenvalues(v, *, derivative_sigma, integration_sigma, window=3.5, axes=(0, 1, 2)):
    g = gradient(v, derivative_sigma, window)
    return _eigenvalues(lambda a, b: gauss(g[a] * g[b], integration_sigma, window=window), axes)


def one_filter(name, v, s, window, axes=(0, 1, 2)):
    if name == "GaussianSmoothing":
        return gauss(v, s, window=window)[None]
    if name == "LaplacianOfGaussian":
        return laplacian(v, s, window)[None]
    if name == "GaussianGradientMagnitude":
        return gradient_magnitude(v, s, window)[None]
    if name == "DifferenceOfGaussians":
        return difference_of_gaussians(v, s, window)[None]
    if name == "StructureTensorEigenvalues":
        return structure_tensor_eigenvalues(v, derivative_sigma=0.5 * s, integration_sigma=s, window=window, axes=axes)
    return hessian_eigenvalues(v, s, window, axes)


def two_stage_or_one(name, v, s, compat, axes=(0, 1, 2)):
    if compat == "ilastik":
        presmoothed = gauss(v, math.sqrt(s * s - 1) if s > 1 else s)
        return one_filter(name, presmoothed, min(s, 1.0), 2.0, axes)
    return one_filter(name, v, s, 3.5, axes)


def feature_stack(v, compat="ilastik", filters=FILTERS, scales=SCALES, planar=()):
    """All channels (C, z, y, x), filter-major, then scale, then eigenvalue; and their (filter, scale) labels.

    planar: scales that see one slice at a time, a volume one voxel thick.
    """
    v = np.asarray(v, np.float64)
    channels, labels = [], []
    for name in filters:
        for s in scales:
            if s == 0.3 and name != "GaussianSmoothing":
                continue
            if s in planar:
                slices = [two_stage_or_one(name, v[z : z + 1], s, compat, axes=(1, 2)) for z in range(len(v))]
                part = np.concatenate(slices, axis=1)
            else:
                part = two_stage_or_one(name, v, s, compat)
            channels.extend(part)
            labels.extend([(name, s)] * len(part))
    return np.stack(channels), labels
