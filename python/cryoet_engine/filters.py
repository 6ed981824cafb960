# SPDX-License-Identifier: MIT
"""Filters on whole volumes, flat functions: numpy arrays or `Volume`s (z, y, x) in, float32 of the same kind out.

What is made of Gaussian derivatives takes arrays on an NVIDIA card too (CuPy's, torch's): it is computed there, and the
answer is a CuPy array.

Lengths are in voxels. Kernels are sampled Gaussians truncated at floor(window * sigma + 0.5) voxels; at the border
a volume is mirrored without repeating its edge sample (scipy's mode="mirror"), as often as an axis shorter than the
window needs. An axis of length one has no derivative along it. No function looks at a statistic of the volume, so a
tile with enough margin gives what the whole gives. All work on volumes in memory; `features` and
`preprocessing` stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from scipy import optimize

from . import _core
from ._checks import input_error
from .cuda import arrays
from .volume import Float32Array, Volume

#: 41^3 taps a voxel: beyond it a bilateral filter would never come to its end.
_LARGEST_BILATERAL_RADIUS = 20

VolumeOrArray = TypeVar("VolumeOrArray", Volume, npt.NDArray[Any])


def _array(volume: Volume | npt.NDArray[Any], where: str) -> Float32Array:
    on_card = arrays.card_array(volume)
    if on_card is not None:
        found: Float32Array = arrays.volume_on_card(on_card, where)
        return found
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
        orders = (order[0], order[1], order[2])
        if arrays.card_array(data) is not None:
            found: Float32Array = arrays.gaussian(data, sigma, orders, window)
            return found
        return _core.gaussian(data, sigma, orders, window, 0)

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
    return _eigenvalues([integrate(slope[a] * slope[b], (0, 0, 0)) for a in range(3) for b in range(a, 3)])


def _eigenvalues(tensor: list[Float32Array]) -> Float32Array:
    if arrays.card_array(tensor[0]) is not None:
        found: Float32Array = arrays.symmetric_eigenvalues(tensor)
        return found
    return _core.symmetric_eigenvalues(tensor, 0)


def hessian_of_gaussian_eigenvalues(
    volume: Volume | npt.NDArray[Any], sigma: float, *, window: float = 3.5
) -> Float32Array:
    """Eigenvalues of the matrix of second Gaussian derivatives, (3, z, y, x), largest first."""
    where = "hessian_of_gaussian_eigenvalues"
    data, derivative = _array(volume, where), _derivative(where, _sigma(sigma, where), window)
    return _eigenvalues([derivative(data, _order(a, b)) for a in range(3) for b in range(a, 3)])


def bilateral_radius(*, sigma_vox: float, sigma_range: float, window: float) -> int:
    """Check a bilateral filter's settings and give its radius in voxels: the halo that a block of a volume needs."""
    reach = window * _sigma(sigma_vox, "bilateral", "sigma_vox")
    if not (window > 0 and reach <= _LARGEST_BILATERAL_RADIUS):
        raise input_error(
            "bilateral",
            "window",
            expected=f"above 0, and window * sigma_vox at most {_LARGEST_BILATERAL_RADIUS} voxels",
            got=f"window {window}, sigma_vox {sigma_vox}",
        )
    if not (isinstance(sigma_range, int | float | np.number) and 1e-30 <= sigma_range < math.inf):
        raise input_error("bilateral", "sigma_range", expected="a finite grey value above 0", got=sigma_range)
    return math.floor(reach + 0.5)


def bilateral(volume: VolumeOrArray, *, sigma_vox: float, sigma_range: float, window: float = 2.0) -> VolumeOrArray:
    """Bilateral filter in three dimensions: smooths within a structure and keeps its borders.

    Tomasi and Manduchi, ICCV 1998, as the membrane pipeline uses it (paper 2, section 3, which gives no settings).
    sigma_vox: how far the mean reaches, in voxels. sigma_range: differences of grey value well below it are noise to
    be smoothed, those well above it are borders; about the noise's standard deviation or twice that is a start.
    Exact over a cube of radius r = floor(window * sigma_vox + 0.5): (2 r + 1)^3 taps a voxel, 343 at sigma_vox 1.5.
    """
    if arrays.card_array(volume) is not None:
        raise input_error(
            "bilateral", "volume", expected="a numpy array or a Volume of one", got="an array on a card",
            fix="copy it to the host first; this filter runs on the CPU",
        )  # fmt: skip
    data = _array(volume, "bilateral")
    bilateral_radius(sigma_vox=sigma_vox, sigma_range=sigma_range, window=window)
    z, y, x = data.shape
    return _like(volume, _core.bilateral(data, sigma_vox, sigma_range, window, (0, 0, 0), (z, y, x), 0))


def low_pass_sigma_vox(resolution_A: float, volume: Volume) -> float:
    """The sigma in voxels of the Gaussian that passes half the amplitude at 1 / resolution_A.

    A Gaussian of sigma has the transfer function exp(-2 pi^2 sigma^2 f^2); one half at f = 1/d gives
    sigma = d sqrt(ln 2 / (2 pi^2)) = 0.1874 d. Sampled at voxels it lets more through near their limit (its spectrum
    repeats with period 1, Poisson's sum), 0.56 at d = 3 voxels; the sigma returned makes the sampled one pass one half.

    Errors: InputError for a resolution finer than two voxels, an unknown voxel size, and voxels that are no cubes.
    """
    size = volume.voxel_size_A
    if volume.voxel_size_status == "unknown" or max(size) > 1.01 * min(size):
        raise input_error(
            "low_pass",
            "voxel size",
            expected="a known one, the same along z, y and x",
            got=volume.voxel_size_status if volume.voxel_size_status == "unknown" else size,
            fix="give the voxel size, or sigma_vox instead of the resolution",
        )
    if not 2 * size[2] <= resolution_A < math.inf:
        raise input_error(
            "low_pass", "resolution_A", expected=f"two voxels ({2 * size[2]:.4g} A) or more", got=resolution_A
        )
    frequency, images = size[2] / resolution_A, np.arange(-3, 4)  # cycles a voxel; further images add nothing

    def above_half(sigma: float) -> float:
        through, mean = (np.exp(-2 * (np.pi * sigma * (f + images)) ** 2).sum() for f in (frequency, 0.0))
        return float(through / mean - 0.5)

    continuous = math.sqrt(math.log(2) / 2) / math.pi / frequency
    return float(optimize.brentq(above_half, 0.9 * continuous, 2 * continuous))


def low_pass(
    volume: VolumeOrArray, sigma_vox: float | None = None, *, resolution_A: float | None = None
) -> VolumeOrArray:
    """Smooth for the eye (paper 1, section 5.2, which gives no cut-off): a Gaussian, window 3.5.

    Either sigma_vox, in voxels (0 only converts to float32), or resolution_A, in Å: half the amplitude passes at
    1 / resolution_A (see `low_pass_sigma_vox`; only for a `Volume`, which knows its voxel size).
    """
    if sigma_vox is None and resolution_A is not None:
        if not isinstance(volume, Volume):
            raise input_error("low_pass", "volume", expected="a Volume, for a resolution in A", got="an array")
        sigma_vox = low_pass_sigma_vox(resolution_A, volume)
    elif sigma_vox is None or resolution_A is not None:
        raise input_error("low_pass", "arguments", expected="sigma_vox or resolution_A", got="both or neither")
    if sigma_vox == 0:
        return _like(volume, _array(volume, "low_pass"))
    return gaussian(volume, _sigma(sigma_vox, "low_pass", "sigma_vox"))


def invert(volume: VolumeOrArray) -> VolumeOrArray:
    """The negative: protein dark becomes protein bright."""
    return _like(volume, -_array(volume, "invert"))
