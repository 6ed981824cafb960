# SPDX-License-Identifier: MIT
"""Filters on whole volumes, flat functions: numpy arrays or `Volume`s (z, y, x) in, float32 of the same kind out.

Lengths are in voxels. Kernels are sampled Gaussians truncated at floor(window * sigma + 0.5) voxels; at the border
a volume is mirrored without repeating its edge sample (scipy's mode="mirror"), as often as an axis shorter than the
window needs. An axis of length one has no derivative along it. No function looks at a statistic of the volume, so a
tile with enough margin gives what the whole gives. All work on volumes in memory; `features` streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from . import _core
from ._checks import input_error
from .volume import Float32Array, Volume

VolumeOrArray = TypeVar("VolumeOrArray", Volume, npt.NDArray[Any])


def _array(volume: Volume | npt.NDArray[Any], where: str) -> Float32Array:
    data = volume.numpy() if isinstance(volume, Volume) else np.asarray(volume)
    if data.ndim != 3 or 0 in data.shape:
        raise input_error(where, "volume", expected="(z, y, x) with no empty axis", got=f"shape {data.shape}")
    if data.dtype.kind not in "fiub":
        raise input_error(where, "volume", expected="real numbers", got=data.dtype)
    return np.ascontiguousarray(data, dtype=np.float32)


def _sigma(value: float, where: str, name: str = "sigma") -> float:
    if not (isinstance(value, int | float | np.number) and math.isfinite(value) and 0 < value <= 1000):
        raise input_error(where, name, expected="a number of voxels above 0 and at most 1000", got=value)
    return float(value)


def _like(volume: VolumeOrArray, data: Float32Array) -> VolumeOrArray:
    made: Any = volume.with_data(data) if isinstance(volume, Volume) else data
    return cast(VolumeOrArray, made)


def _derivative(where: str, sigma: float, window: float) -> Callable[[Float32Array, Sequence[int]], Float32Array]:
    """The Gaussian derivative of one sigma as a function of the order; orders above 0 need one voxel of radius."""
    if not (math.isfinite(window) and 0 < window <= 100):
        raise input_error(where, "window", expected="a number above 0 and at most 100", got=window)

    def apply(data: Float32Array, order: Sequence[int]) -> Float32Array:
        if max(order) > 0 and math.floor(window * sigma + 0.5) < 1:
            raise input_error(
                where, "sigma", expected=f"at least {0.5 / window:.3g} voxels for a derivative", got=sigma
            )
        return _core.gaussian(data, sigma, (order[0], order[1], order[2]), window, 0)

    return apply


def gaussian(
    volume: VolumeOrArray, sigma: float, *, order: Sequence[int] = (0, 0, 0), window: float = 3.5
) -> VolumeOrArray:
    """Gaussian smoothing, or derivatives of `order` 0, 1 or 2 along (z, y, x).

    Kernels: order 0 sums to 1; order 1 gives the slope of a ramp, order 2 the curvature of a parabola exactly.
    """
    data = _array(volume, "gaussian")
    if len(order) != 3 or any(o not in (0, 1, 2) for o in order):
        raise input_error("gaussian", "order", expected="three of 0, 1, 2 (z, y, x)", got=order)
    return _like(volume, _derivative("gaussian", _sigma(sigma, "gaussian"), window)(data, order))


def _order(*axes: int) -> tuple[int, int, int]:
    return (axes.count(0), axes.count(1), axes.count(2))


def gaussian_gradient_magnitude(volume: VolumeOrArray, sigma: float, *, window: float = 3.5) -> VolumeOrArray:
    """Length of the gradient, from Gaussian derivatives of order 1."""
    where = "gaussian_gradient_magnitude"
    data, derivative = _array(volume, where), _derivative(where, _sigma(sigma, where), window)
    square = np.zeros_like(data)
    for axis in range(3):
        square += derivative(data, _order(axis)) ** 2
    return _like(volume, np.sqrt(square))


def laplacian_of_gaussian(volume: VolumeOrArray, sigma: float, *, window: float = 3.5) -> VolumeOrArray:
    """Sum of the three pure second derivatives; not scaled by sigma."""
    where = "laplacian_of_gaussian"
    data, derivative = _array(volume, where), _derivative(where, _sigma(sigma, where), window)
    return _like(volume, derivative(data, (2, 0, 0)) + derivative(data, (0, 2, 0)) + derivative(data, (0, 0, 2)))


def difference_of_gaussians(volume: VolumeOrArray, sigma: float, *, window: float = 3.5) -> VolumeOrArray:
    """Gaussian at `sigma` minus Gaussian at 0.66 `sigma` (ilastik's ratio)."""
    where = "difference_of_gaussians"
    data, sigma = _array(volume, where), _sigma(sigma, where)
    wide, narrow = _derivative(where, sigma, window), _derivative(where, 0.66 * sigma, window)
    return _like(volume, wide(data, (0, 0, 0)) - narrow(data, (0, 0, 0)))


def structure_tensor_eigenvalues(
    volume: Volume | npt.NDArray[Any], *, derivative_sigma: float, integration_sigma: float, window: float = 3.5
) -> Float32Array:
    """Eigenvalues of the smoothed outer product of the gradient, (3, z, y, x), largest first.

    The gradient is taken at `derivative_sigma`; its products are mirrored at the border and smoothed with
    `integration_sigma`.
    """
    where = "structure_tensor_eigenvalues"
    data = _array(volume, where)
    derivative = _derivative(where, _sigma(derivative_sigma, where, "derivative_sigma"), window)
    integrate = _derivative(where, _sigma(integration_sigma, where, "integration_sigma"), window)
    slope = [derivative(data, _order(axis)) for axis in range(3)]
    tensor = [integrate(slope[a] * slope[b], (0, 0, 0)) for a in range(3) for b in range(a, 3)]
    return _core.symmetric_eigenvalues(tensor, 0)


def hessian_of_gaussian_eigenvalues(
    volume: Volume | npt.NDArray[Any], sigma: float, *, window: float = 3.5
) -> Float32Array:
    """Eigenvalues of the matrix of second Gaussian derivatives, (3, z, y, x), largest first."""
    where = "hessian_of_gaussian_eigenvalues"
    data, derivative = _array(volume, where), _derivative(where, _sigma(sigma, where), window)
    return _core.symmetric_eigenvalues([derivative(data, _order(a, b)) for a in range(3) for b in range(a, 3)], 0)


def low_pass(volume: VolumeOrArray, sigma_vox: float) -> VolumeOrArray:
    """Smooth for the eye: a Gaussian of `sigma_vox` voxels, window 3.5; 0 only converts to float32."""
    if sigma_vox == 0:
        return _like(volume, _array(volume, "low_pass"))
    return gaussian(volume, _sigma(sigma_vox, "low_pass", "sigma_vox"))


def invert(volume: VolumeOrArray) -> VolumeOrArray:
    """The negative: protein dark becomes protein bright."""
    return _like(volume, -_array(volume, "invert"))
