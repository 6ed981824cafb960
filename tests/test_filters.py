# SPDX-License-Identifier: MIT
"""The flat filters against the float64 oracle, and their borders, types and errors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from cryoet_engine import Volume, _core, filters
from cryoet_engine._checks import InputError
from reference import features as oracle

SHAPES = [(20, 37, 64), (5, 37, 64), (1, 9, 40), (40, 1, 33), (7, 30, 1), (2, 3, 4), (1, 1, 1)]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(found, truth):
    """Largest error relative to the range of the truth (but at least to 1e-2, for what a thin axis leaves flat)."""
    truth = np.asarray(truth)
    return np.abs(found - truth).max() / max(np.ptp(truth), 1e-2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.7, 3.5])
def test_linear_filters_equal_the_oracle(shape, sigma):
    v = noise(shape)
    # Measured: 4e-7, and 2e-6 on (2, 3, 4), of which a wide Gaussian leaves 1 % of the range.
    assert error(filters.gaussian(v, sigma), oracle.gauss(v, sigma)) < 5e-6
    assert error(filters.laplacian_of_gaussian(v, sigma), oracle.laplacian(v, sigma)) < 1e-6
    assert error(filters.gaussian_gradient_magnitude(v, sigma), oracle.gradient_magnitude(v, sigma)) < 1e-6
    # measured: 5e-6 on (1, 9, 40), where the mirror leaves little of it
    assert error(filters.difference_of_gaussians(v, sigma), oracle.difference_of_gaussians(v, sigma)) < 1e-5


@pytest.mark.parametrize("order", list(product(range(3), repeat=3)))
def test_every_order(order):
    v = noise((9, 20, 35), 1)
    assert error(filters.gaussian(v, 1.6, order=order), oracle.gauss(v, 1.6, order)) < 1e-6  # measured 2e-7


@pytest.mark.parametrize("shape", SHAPES)
def test_eigenvalue_filters_equal_the_oracle(shape):
    v = noise(shape, 2)
    found = filters.hessian_of_gaussian_eigenvalues(v, 1.6)
    assert error(found, oracle.hessian_eigenvalues(v, 1.6)) < 1e-6  # measured 2e-7
    sigmas = {"derivative_sigma": 0.8, "integration_sigma": 1.6}
    found = filters.structure_tensor_eigenvalues(v, **sigmas)
    assert error(found, oracle.structure_tensor_eigenvalues(v, **sigmas)) < 1e-6  # measured 3e-7


def test_every_instruction_set_equals_the_oracle(instruction_set):
    v = noise((6, 21, 67), 3)
    assert _core.instruction_set() == instruction_set
    assert error(filters.gaussian(v, 2.0), oracle.gauss(v, 2.0)) < 1e-6
    assert error(filters.hessian_of_gaussian_eigenvalues(v, 1.0), oracle.hessian_eigenvalues(v, 1.0)) < 1e-6


def test_ramps_and_parabolas_are_exact_inside():
    z, y, x = np.mgrid[:15, :15, :30].astype(np.float32)
    inner = (slice(6, 9), slice(6, 9), slice(10, 20))
    slope = filters.gaussian(3 * x + 2 * y, 1.0, order=(0, 0, 1))
    assert np.allclose(slope[inner], 3, atol=1e-4)
    assert np.allclose(filters.gaussian(x * x, 1.0, order=(0, 0, 2))[inner], 2, atol=1e-3)
    assert np.allclose(filters.gaussian_gradient_magnitude(2 * z + y - 2 * x, 1.0)[inner], 3, atol=1e-4)


def test_a_constant_stays_and_has_no_derivatives():
    v = np.full((5, 6, 7), 7.0, np.float32)
    assert np.allclose(filters.gaussian(v, 2.0), 7, rtol=1e-6)
    assert np.abs(filters.laplacian_of_gaussian(v, 2.0)).max() < 1e-5
    assert np.abs(filters.structure_tensor_eigenvalues(v, derivative_sigma=1, integration_sigma=2)).max() < 1e-9


def test_an_axis_of_length_one():
    v = noise((1, 12, 13))
    assert np.array_equal(filters.gaussian(v, 1.0, order=(1, 0, 0)), np.zeros_like(v))
    assert np.array_equal(filters.gaussian(v[:, :1, :1], 5.0), v[:, :1, :1])


def test_linear_filters_see_through_an_offset():
    v = noise((12, 30, 31))
    found = filters.laplacian_of_gaussian(v + np.float32(100), 3.5)
    # The derivative comes first, so what is left is the rounding of v + 100 itself: measured 2e-5.
    assert error(found, oracle.laplacian(v, 3.5)) < 1e-4


def test_types_layouts_and_volumes():
    v = (noise((8, 9, 10)) * 100).astype(np.int16)
    plain = filters.gaussian(v.astype(np.float32), 1.0)
    wide = np.repeat(np.repeat(v, 2, axis=1), 2, axis=2)
    for same in (v, v.astype(">i2"), v.astype(">f8"), np.asfortranarray(v), wide[:, ::2, ::2], v[::-1][::-1]):
        assert np.array_equal(filters.gaussian(same, 1.0), plain)
    volume = Volume(v, voxel_size_A=10.0)
    smoothed = filters.low_pass(volume, 1.0)
    assert smoothed.voxel_size_A == (10.0, 10.0, 10.0)
    assert np.array_equal(smoothed.data, plain)
    assert np.array_equal(filters.low_pass(v, 0), v.astype(np.float32))
    assert np.array_equal(filters.invert(v), -v.astype(np.float32))


@pytest.mark.parametrize("resolution_A", [20.0, 25.0, 30.0, 40.0, 120.0])
def test_a_low_pass_lets_half_the_amplitude_through_at_its_resolution(resolution_A):
    """A wave of that wavelength, on voxels of 10 Å; the middle of a long row, which no mirror reaches."""
    x = np.arange(600) * 10.0
    wave = np.cos(2 * np.pi * (x - 3000) / resolution_A).astype(np.float32).reshape(1, 1, 600)
    passed = filters.low_pass(Volume(wave, voxel_size_A=10.0), resolution_A=resolution_A)
    assert abs(passed.data[0, 0, 300] - 0.5) < 2e-4  # measured 6e-5, of cutting it at 3.5 sigma
    if resolution_A >= 40:  # where sampling hardly matters: exp(-2 pi^2 sigma^2 / d^2) is one half
        sigma = filters.low_pass_sigma_vox(resolution_A, passed)
        assert np.isclose(np.exp(-2 * np.pi**2 * (sigma * 10 / resolution_A) ** 2), 0.5, atol=3e-3)


def test_a_low_pass_by_resolution_needs_to_know_its_voxels():
    v = noise((3, 4, 5))
    wrong = [
        ({"voxel_size_A": 10.0}, {"resolution_A": 19.9}, "two voxels"),
        ({"voxel_size_A": 10.0}, {"resolution_A": np.nan}, "two voxels"),
        ({"voxel_size_A": 10.0}, {"resolution_A": 40, "sigma_vox": 1}, "both or neither"),
        ({"voxel_size_A": 10.0}, {}, "both or neither"),
        ({"voxel_size_status": "unknown"}, {"resolution_A": 40}, "unknown"),
        ({"voxel_size_A": (20.0, 10.0, 10.0)}, {"resolution_A": 40}, "the same along"),
    ]
    for grid, arguments, words in wrong:
        with pytest.raises(InputError, match=words):
            filters.low_pass(Volume(v, **grid), **arguments)
    with pytest.raises(InputError, match="a Volume"):
        filters.low_pass(v, resolution_A=40)


def symmetric(entries):
    """Random tensors (6, n) as matrices (n, 3, 3)."""
    zz, zy, zx, yy, yx, xx = entries.astype(np.float64)
    return np.stack([np.stack(r, -1) for r in ((zz, zy, zx), (zy, yy, yx), (zx, yx, xx))], -2)


@pytest.mark.parametrize("kind", ["random", "rank one", "two equal", "nearly isotropic", "tiny", "huge", "zero"])
def test_eigenvalues_of_hard_tensors(kind):
    rng = np.random.default_rng(4)
    n = 4001
    t = rng.normal(size=(6, n))
    if kind in ("rank one", "two equal", "nearly isotropic"):
        q, _ = np.linalg.qr(rng.normal(size=(n, 3, 3)))
        values = {
            "rank one": np.stack([np.ones(n), 1e-5 * rng.random(n), 1e-6 * rng.random(n)], -1),
            "two equal": np.stack([np.ones(n), np.ones(n), rng.normal(size=n)], -1),
            "nearly isotropic": 1 + 1e-5 * rng.normal(size=(n, 3)),
        }[kind]
        m = q @ (values[..., None] * np.swapaxes(q, 1, 2))
        t = np.stack([m[:, 0, 0], m[:, 0, 1], m[:, 0, 2], m[:, 1, 1], m[:, 1, 2], m[:, 2, 2]])
    t = (t * {"tiny": 1e-30, "huge": 1e12, "zero": 0}.get(kind, 1)).astype(np.float32)
    found = _core.symmetric_eigenvalues([np.ascontiguousarray(c.reshape(1, 1, n)) for c in t], 2)[:, 0, 0]
    truth = np.linalg.eigvalsh(symmetric(t))[:, ::-1].T
    assert (np.diff(found, axis=0) <= 0).all()
    size = np.abs(truth).max(axis=0)
    # Relative to each tensor's own largest eigenvalue. Measured on 400 000 of each kind: 4e-7 (rounding alone: 6e-8).
    assert (np.abs(found - truth) <= 6e-7 * size).all()


@pytest.mark.parametrize("sigma", [0, -1, np.nan, np.inf, "1", None, 1e9])
def test_impossible_sigmas(sigma):
    with pytest.raises(InputError, match=r"gaussian: sigma: expected .* above 0"):
        filters.gaussian(noise((3, 3, 3)), sigma)


def test_other_errors():
    v = noise((3, 4, 5))
    with pytest.raises(InputError, match="order"):
        filters.gaussian(v, 1.0, order=(0, 0, 3))
    with pytest.raises(InputError, match="no empty axis"):
        filters.gaussian(v[:0], 1.0)
    with pytest.raises(InputError, match="no empty axis"):
        filters.gaussian(v[0], 1.0)
    with pytest.raises(InputError, match="real numbers"):
        filters.gaussian(v.astype(complex), 1.0)
    with pytest.raises(InputError, match="derivative"):
        filters.laplacian_of_gaussian(v, 0.1)
    with pytest.raises(InputError, match="window"):
        filters.gaussian(v, 1.0, window=0)
