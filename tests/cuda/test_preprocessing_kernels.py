# SPDX-License-Identifier: MIT
"""The CUDA kernels of bilateral filter, CLAHE and histograms, run by the emulation and compared with the CPU's."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from emulation.structures import (
    I3,
    BilateralFilter,
    Histogram,
    KeyCount,
    TileApplication,
    TileCount,
    TileMapping,
    across,
    bins,
    field,
)

from cryoet_engine import _core, filters, intensity

THREADS = (256, 1, 1)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("shape", [(5, 17, 35), (1, 9, 40), (7, 1, 33), (7, 30, 1), (2, 3, 4), (1, 1, 1)])
@pytest.mark.parametrize(("sigma_vox", "sigma_range"), [(0.7, 1.0), (1.5, 0.5)])
def test_bilateral(kernels, shape, sigma_vox, sigma_range, seed):
    v = noise(shape)
    r = filters.bilateral_radius(sigma_vox=sigma_vox, sigma_range=sigma_range, window=2.0)
    g = np.arange(-r, r + 1.0)
    spatial = np.exp(-0.5 * (g[:, None, None] ** 2 + g[:, None] ** 2 + g**2) / sigma_vox**2).astype(np.float32)
    out = np.full_like(v, np.nan)
    factor = np.sqrt(0.5 * np.log2(np.e)) / sigma_range
    job = BilateralFilter(field(v), field(out), spatial.ctypes.data, I3(*shape), r, factor)
    grid = (across(shape[2], 32), across(shape[1], 8), shape[0])
    kernels.launch("bilateral", "bilateral", grid, (32, 8, 1), 4 * (8 + 2 * r) * (32 + 2 * r), job, seed=seed)
    truth = filters.bilateral(v, sigma_vox=sigma_vox, sigma_range=sigma_range)
    assert np.abs(out - truth).max() < 1e-6  # measured 2.4e-7


@pytest.mark.parametrize(("kernel", "n_bins"), [("histogram", 100), ("histogram_far", 30000)])
def test_histogram(kernels, kernel, n_bins):
    v = noise((7, 23, 31))
    v[0, 0, :3] = np.nan, np.inf, -np.inf
    counts = np.zeros(n_bins, np.uint64)
    job = Histogram(v.ctypes.data, v.size, bins(-2, 2.5, n_bins), counts.ctypes.data)
    shared = 4 * n_bins if kernel == "histogram" else 0
    kernels.launch("histogram", kernel, (3, 1, 1), THREADS, shared, job, seed=2)
    assert np.array_equal(counts, intensity.histogram(v, n_bins, (-2, 2.5)))


def test_keys(kernels):
    v = noise((7, 23, 31), 1)
    upper, truth = np.zeros(1 << 16, np.uint64), np.zeros(1 << 16, np.int64)
    job = KeyCount(v.ctypes.data, v.size, None, upper.ctypes.data)
    kernels.launch("histogram", "count_upper_keys", (2, 1, 1), THREADS, 0, job)
    _core.count_upper_keys(v, truth, 1)
    assert np.array_equal(upper, truth)
    row_of = np.full(1 << 16, -1, np.int32)
    row_of[np.argsort(truth)[-2:]] = (0, 1)
    lower, truth = np.zeros((2, 1 << 16), np.uint64), np.zeros((2, 1 << 16), np.int64)
    job = KeyCount(v.ctypes.data, v.size, row_of.ctypes.data, lower.ctypes.data)
    kernels.launch("histogram", "count_lower_keys", (2, 1, 1), THREADS, 0, job)
    _core.count_lower_keys(v, row_of, truth, 1)
    assert truth.sum() > 0
    assert np.array_equal(lower, truth)


TILES = [
    ((11, 23, 30), (4, 7, 9)),
    ((1, 30, 41), (16, 16, 16)),
    ((9, 1, 33), (4, 4, 5)),
    ((7, 30, 1), (3, 9, 2)),
    ((2, 3, 4), (64, 64, 64)),
    ((1, 1, 1), (5, 5, 5)),
    ((5, 14, 19), (1, 8, 8)),
]


@pytest.mark.parametrize("kernel", ["count_tiles", "count_tiles_far"])
@pytest.mark.parametrize(("shape", "tile"), TILES)
def test_clahe(kernels, shape, tile, kernel):
    v, n_bins, clip_limit, launch = noise(shape, 2), 64, 0.05, partial(kernels.launch, "clahe")
    tile = tuple(map(min, tile, shape))
    grid = tuple(map(across, shape, tile))
    counts, grey = np.zeros((*grid, n_bins), np.int32), bins(-2, 2.5, n_bins)
    for z in range(0, shape[0], 3):  # slabs that end within tiles
        planes = np.ascontiguousarray(v[z : z + 3])
        job = TileCount(field(planes, (z, 0, 0)), I3(*shape), I3(*tile), I3(*grid), grey, counts.ctypes.data)
        launch(kernel, grid[::-1], THREADS, 4 * n_bins if kernel == "count_tiles" else 0, job, seed=1)
    truth = np.zeros_like(counts)
    _core.count_tiles(v, 0, shape, tile, (-2, 2.5), truth, 1)
    assert np.array_equal(counts, truth)

    voxels, n_tiles = int(np.prod(tile)), int(np.prod(grid))
    clip = max(int(clip_limit * voxels), across(voxels, n_bins))
    maps = np.empty((*grid, n_bins + 1), np.float32)
    job = TileMapping(counts.ctypes.data, maps.ctypes.data, n_tiles, n_bins, voxels, clip)
    launch("equalise_tiles", (across(n_tiles, 256), 1, 1), THREADS, 0, job)
    expected = intensity.tile_maps(v, (-2, 2.5), tile_vox=tile, clip_limit=clip_limit, n_bins=n_bins)
    assert np.array_equal(maps, expected.maps)

    start = tuple(n // 3 for n in shape)
    block = np.ascontiguousarray(v[tuple(slice(s, None) for s in start)])
    out = np.full_like(block, np.nan)
    job = TileApplication(field(block, start), out.ctypes.data, I3(*tile), I3(*grid), grey, maps.ctypes.data)
    launch("apply_tile_maps", (across(block.shape[2], 256), block.shape[1], block.shape[0]), THREADS, 0, job)
    assert np.abs(out - expected.apply(block, start)).max() < 2e-7  # measured 0
