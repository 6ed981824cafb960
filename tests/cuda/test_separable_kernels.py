# SPDX-License-Identifier: MIT
"""The CUDA kernels of csrc/ops/separable.cu, run by the emulation, against float64 and the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from emulation.structures import (
    I3,
    POINTER,
    Combination,
    Convolution,
    Eigenvalues,
    Eigenvalues2,
    Product,
    across,
    address,
    field,
)
from scipy import ndimage

from cryoet_engine import _core
from reference import features as oracle

REACH = 128  # of convolve_x: beyond it convolve_x_far
CONVOLVE = ("convolve_z", "convolve_y", "convolve_x", "convolve_x_far")
AXIS = dict(zip(CONVOLVE, (0, 1, 2, 2), strict=True))
SEEDS = (0, 1, 2)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolve(
    kernels, kernel, source, taps, *, start=(0, 0, 0), box=None, length=None, derivative=False, subtract=0.0, seed=0
):
    """One pass. source: a box at `start` of a volume of shape `length`; box: (start, shape) of what is made."""
    axis = AXIS[kernel]
    first, shape = box or (start, source.shape)
    out = np.full(shape, np.nan, np.float32)
    radius = len(taps) // 2
    job = Convolution(
        field(source, start),
        field(out, first),
        address(taps),
        I3(*(length or source.shape)),
        radius,
        derivative,
        subtract,
    )
    z, y, x = shape
    grid = {
        "convolve_z": (across(x, 32), across(y, 8), across(z, 8)),
        "convolve_y": (across(x, 32), across(z, 8), across(y, 8)),
        "convolve_x": (across(x, 256), across(y, 8), z),
        "convolve_x_far": (across(x, 256), across(y, 8), z),
    }[kernel]
    assert axis < 2 or radius <= REACH or kernel == "convolve_x_far"
    kernels.launch("separable", kernel, grid, (32, 8, 1), 0, job, seed=seed)
    return out


def pointwise(kernels, kernel, job, seed=0):
    kernels.launch("separable", kernel, (across(job.n, 256), 1, 1), (256, 1, 1), 0, job, seed=seed)


def random_taps(radius, seed=5):
    """No symmetry: a tap in a wrong place shows."""
    taps = np.random.default_rng(seed).normal(size=2 * radius + 1)
    return (taps / np.abs(taps).sum()).astype(np.float32)


def correlated(v, taps, axis):
    return ndimage.correlate1d(v.astype(np.float64), taps.astype(np.float64), axis=axis, mode="mirror")


@pytest.mark.parametrize("kernel", CONVOLVE)
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 35, 70])
def test_every_radius(kernels, kernel, radius):
    """Axes longer than the window, shorter, and of a length that is no multiple of a thread's eight outputs."""
    axis, taps = AXIS[kernel], random_taps(radius)
    for n in (2, 3, 8, 21, 165):
        shape = [3, 5, 6]
        shape[axis] = n
        v = noise(shape, n)
        found = convolve(kernels, kernel, v, taps)
        assert np.abs(found - correlated(v, taps, axis)).max() < 5e-7  # measured 1.9e-7


@pytest.mark.parametrize(("kernel", "radius"), [("convolve_x", 127), ("convolve_x", 128), ("convolve_x_far", 129)])
def test_largest_radii(kernels, kernel, radius):
    v, taps = noise((2, 3, 600)), random_taps(radius)
    for part in (v, v[..., :300].copy(), v[..., :7].copy()):
        assert np.abs(convolve(kernels, kernel, part, taps) - correlated(part, taps, 2)).max() < 3e-7  # measured 9e-8


@pytest.mark.parametrize("kernel", CONVOLVE)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(5, 19, 70), (17, 3, 33), (1, 40, 2), (2, 1, 300), (9, 9, 1)])
def test_box_of_a_volume(kernels, kernel, shape, seed):
    """Only the samples that the taps reach are there, and only a part is made of what they allow."""
    axis, radius = AXIS[kernel], 4
    v, taps = noise(shape, 1), random_taps(radius)
    first = [n // 3 for n in shape]
    last = [max(f + 1, n - n // 4) for f, n in zip(first, shape, strict=True)]
    low, high = list(first), list(last)
    low[axis], high[axis] = max(0, first[axis] - radius), min(shape[axis], last[axis] + radius)
    if min(low[axis], shape[axis] - high[axis]) == 0:  # a mirror is in reach: it may show any sample of a short axis
        low[axis] = 0 if high[axis] - radius < 2 * radius else low[axis]
        high[axis] = shape[axis] if shape[axis] - low[axis] < 2 * radius else high[axis]
    source = v[tuple(map(slice, low, high))].copy()
    found = convolve(
        kernels,
        kernel,
        source,
        taps,
        start=tuple(low),
        box=(tuple(first), tuple(np.subtract(last, first))),
        length=shape,
        subtract=0.5,
        seed=seed,
    )
    core = tuple(map(slice, first, last))
    truth = (v[core] - 0.5) if shape[axis] == 1 else correlated(v - np.float32(0.5), taps, axis)[core]
    assert np.abs(found - truth).max() < 5e-7  # measured 1.5e-7


@pytest.mark.parametrize("kernel", CONVOLVE)
def test_axis_of_length_one(kernels, kernel):
    shape = [4, 5, 6]
    shape[AXIS[kernel]] = 1
    v = noise(shape)
    assert np.array_equal(convolve(kernels, kernel, v, random_taps(3), subtract=0.25), v - np.float32(0.25))
    assert np.array_equal(convolve(kernels, kernel, v, random_taps(3), derivative=True), np.zeros_like(v))


@pytest.mark.parametrize("order", [(0, 0, 0), (1, 0, 0), (0, 1, 1), (0, 0, 2), (2, 0, 0), (1, 0, 1)])
@pytest.mark.parametrize(
    ("shape", "sigma"), [((12, 9, 40), 1.0), ((3, 21, 5), 2.3), ((1, 8, 17), 0.7), ((5, 2, 1), 5.0)]
)
def test_three_passes_equal_the_cpu(kernels, shape, sigma, order):
    v = noise(shape, 3)
    found = v
    for kernel, o in zip(CONVOLVE, order, strict=False):
        found = convolve(kernels, kernel, found, _core.gaussian_taps(sigma, o, 3.5), derivative=o > 0)
    scale = max(np.abs(found).max(), 1e-3)
    assert np.abs(found - oracle.gauss(v, sigma, order)).max() < 5e-6 * scale  # measured 2.1e-6, as the CPU
    assert np.abs(found - _core.gaussian(v, sigma, order, 3.5, 1)).max() < 1e-6 * scale  # measured 3e-7


@pytest.mark.parametrize("n", [1, 255, 257])
def test_symmetric_eigenvalues(kernels, n):
    parts = [noise((1, 1, n), c) for c in range(6)]
    parts[1][..., ::7], parts[2][..., ::7], parts[4][..., ::7] = 0, 0, 0  # diagonal, some of them twice the same
    parts[3][..., ::14] = parts[0][..., ::14]
    out = np.full((3, 1, 1, n), np.nan, np.float32)
    job = Eigenvalues((POINTER * 6)(*map(address, parts)), (POINTER * 3)(*map(address, out)), n)
    pointwise(kernels, "symmetric_eigenvalues", job, seed=1)
    zz, zy, zx, yy, yx, xx = (p.astype(np.float64) for p in parts)
    truth = oracle._eigenvalues(lambda a, b: {0: zz, 1: zy, 2: zx, 4: yy, 5: yx, 8: xx}[3 * a + b])
    assert np.abs(out - truth).max() < 2e-6  # measured 6e-7
    assert np.abs(out - _core.symmetric_eigenvalues(parts, 1)).max() < 2e-6  # measured 5e-7


@pytest.mark.parametrize("n", [1, 256, 300])
def test_symmetric_eigenvalues_in_a_plane(kernels, n):
    parts = [noise((1, 1, n), c) for c in range(3)]
    out = np.full((2, 1, 1, n), np.nan, np.float32)
    job = Eigenvalues2((POINTER * 3)(*map(address, parts)), (POINTER * 2)(*map(address, out)), n)
    pointwise(kernels, "symmetric_eigenvalues_2", job, seed=1)
    yy, yx, xx = (p.astype(np.float64) for p in parts)
    truth = oracle._eigenvalues(lambda a, b: {2: yy, 3: yx, 4: xx}[a + b], axes=(1, 2))
    assert np.abs(out - truth).max() < 1e-6  # measured 3e-7


def test_multiply(kernels):
    a, b = noise((1, 1, 517)), noise((1, 1, 517), 1)
    out = np.full_like(a, np.nan)
    pointwise(kernels, "multiply", Product(address(a), address(b), address(out), a.size))
    assert np.array_equal(out, a * b)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("wanted", ["smoothed", "laplacian", "magnitude", "difference", "all"])
def test_combine(kernels, wanted, planar):
    """What is not wanted needs no input, and is not written."""
    n = 300
    gauss, narrow, *rest = (noise(n, c) for c in range(8))
    first, second = rest[:3], rest[3:]
    every = ("smoothed", "laplacian", "magnitude", "difference")
    made = every if wanted == "all" else (wanted,)
    out = {name: np.full(n, np.nan, np.float32) for name in made}
    axes = (1, 2) if planar else (0, 1, 2)

    def inputs(parts, name):
        return (POINTER * 3)(*(address(parts[a]) if name in made and a in axes else None for a in range(3)))

    job = Combination(
        address(gauss) if {"smoothed", "difference"} & set(made) else None,
        address(narrow) if "difference" in made else None,
        inputs(first, "magnitude"),
        inputs(second, "laplacian"),
        *(address(out.get(name)) for name in every),
        0.75,
        n,
    )
    pointwise(kernels, "combine", job, seed=1)
    truth = {
        "smoothed": gauss.astype(np.float64) + 0.75,
        "laplacian": sum(second[a].astype(np.float64) for a in axes),
        "magnitude": np.sqrt(sum(first[a].astype(np.float64) ** 2 for a in axes)),
        "difference": gauss.astype(np.float64) - narrow,
    }
    for name, values in out.items():
        assert np.abs(values - truth[name]).max() < 1e-6  # measured 3e-7


@pytest.mark.parametrize("compat", ["ilastik", "scale-true"])
def test_slice_by_slice_features(kernels, compat):
    """The channels of a planar scale, from passes along y and x and pointwise kernels: what a planner does."""
    v, s = noise((2, 11, 23), 4), 1.6
    own, window = (1.0, 2.0) if compat == "ilastik" else (s, 3.5)

    def both(source, sigma, order, window):
        for kernel, o in zip(("convolve_y", "convolve_x"), order, strict=True):
            source = convolve(kernels, kernel, source, _core.gaussian_taps(sigma, o, window), derivative=o > 0)
        return source

    def product(a, b):
        out = np.empty_like(a)
        pointwise(kernels, "multiply", Product(address(a), address(b), address(out), a.size))
        return out

    def eigenvalues(parts):
        out = np.empty((2, *v.shape), np.float32)
        job = Eigenvalues2((POINTER * 3)(*map(address, parts)), (POINTER * 2)(*map(address, out)), v.size)
        pointwise(kernels, "symmetric_eigenvalues_2", job)
        return out

    p = both(v, np.sqrt(s * s - 1), (0, 0), 3.5) if compat == "ilastik" else v
    gauss, narrow = both(p, own, (0, 0), window), both(p, 0.66 * own, (0, 0), window)
    first = [both(p, own, o, window) for o in ((1, 0), (0, 1))]
    second = [both(p, own, o, window) for o in ((2, 0), (1, 1), (0, 2))]
    dy, dx = (both(p, 0.5 * own, o, window) for o in ((1, 0), (0, 1)))
    tensor = [both(product(a, b), own, (0, 0), window) for a, b in ((dy, dy), (dy, dx), (dx, dx))]
    out = np.empty((4, *v.shape), np.float32)
    job = Combination(
        address(gauss),
        address(narrow),
        (POINTER * 3)(None, *map(address, first)),
        (POINTER * 3)(None, address(second[0]), address(second[2])),
        *map(address, out),
        0.0,
        v.size,
    )
    pointwise(kernels, "combine", job)
    found = np.concatenate([out, eigenvalues(tensor), eigenvalues(second)])
    truth, labels = oracle.feature_stack(v, compat=compat, scales=(s,), planar=(s,))
    for channel, reference, label in zip(found, truth, labels, strict=True):
        assert np.abs(channel - reference).max() < 2e-6 * np.ptp(reference), label  # measured 5e-7
