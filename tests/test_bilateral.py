# SPDX-License-Identifier: MIT
"""The bilateral filter against the float64 oracle, at its two limits, and in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine import Volume, _core, filters, tiling
from cryoet_engine._checks import InputError
from reference import features, preprocessing

SHAPES = [(9, 17, 35), (5, 20, 33), (1, 9, 40), (20, 1, 33), (7, 30, 1), (2, 3, 4), (1, 1, 1)]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("sigma_vox", "sigma_range"), [(0.7, 1.0), (1.5, 0.5), (1.5, 10.0)])
def test_it_equals_the_oracle(shape, sigma_vox, sigma_range):
    v = noise(shape)
    found = filters.bilateral(v, sigma_vox=sigma_vox, sigma_range=sigma_range)
    # Of noise with a standard deviation of 1. Measured: 7e-7, and 3e-6 where all 343 taps count (range 10).
    assert np.abs(found - preprocessing.bilateral(v, sigma_vox, sigma_range)).max() < 6e-6


def test_every_instruction_set_equals_the_oracle(instruction_set):
    v = noise((4, 11, 37), 1)
    found = filters.bilateral(v, sigma_vox=1.0, sigma_range=1.0, window=2.5)
    assert np.abs(found - preprocessing.bilateral(v, 1.0, 1.0, 2.5)).max() < 2e-6  # measured 6e-7


def test_one_neighbour_shows_the_weight_of_every_difference(instruction_set):
    """Two voxels, window of one: out(p) - f(p) = d w / (w0 + w), which tells w for d from 1e-4 to 12 sigma."""
    d = np.geomspace(1e-4, 12, 4000)
    pairs = np.zeros((1, 4000, 2), np.float32)
    pairs[..., 1] = d
    d = pairs[0, :, 1].astype(np.float64)
    settings = {"sigma_vox": 0.5, "sigma_range": 1.0}
    found = np.array([filters.bilateral(pair[None, None], **settings)[0, 0, 0] for pair in pairs[0]])
    c = np.exp(-1 / (2 * 0.25))
    w = 2 * c * np.exp(-(d**2) / 2)  # the neighbour is seen in the mirror too
    side = sum(np.exp(-(y * y + z * z) / 0.5) for y in (-1, 0, 1) for z in (-1, 0, 1))
    truth = side * w * d / (side * (1 + w))
    # An exponent d^2 / 2 rounded to float32 has that much less of its digits. Measured: 6.0e-7 (with FMA 3.3e-7).
    assert (np.abs(found / truth - 1) / (1 + d**2 / 2)).max() < 1.2e-6


def test_a_wide_range_makes_it_the_gaussian():
    v = noise((8, 15, 30), 2)
    found = filters.bilateral(v, sigma_vox=1.5, sigma_range=1e6)
    assert np.abs(found - features.gauss(v, 1.5, window=2.0)).max() < 6e-6  # measured 2e-6
    assert np.abs(found - filters.gaussian(v, 1.5, window=2.0)).max() < 6e-6


@pytest.mark.parametrize("sigma_range", [1e-30, 1e-12])
def test_a_narrow_range_changes_no_bit(sigma_range):
    v = noise((5, 9, 20), 3) * np.float32(1e4)
    v[2, 3] = 0
    assert np.array_equal(filters.bilateral(v, sigma_vox=1.5, sigma_range=sigma_range), v)


@pytest.mark.parametrize("value", [0.0, 7.3, -1e6])
def test_a_constant_volume_stays(value):
    v = np.full((3, 4, 5), value, np.float32)
    assert np.array_equal(filters.bilateral(v, sigma_vox=1.0, sigma_range=1.0), v)


def test_an_edge_stays_and_noise_goes():
    v = noise((12, 24, 24), 4)
    v[..., 12:] += 20
    found = filters.bilateral(v, sigma_vox=1.5, sigma_range=2.0)
    low, high = found[..., :12], found[..., 12:]
    assert max(low.std(), high.std()) < 0.4  # noise of 1 before
    assert abs(found[..., 12].mean() - found[..., 11].mean() - 20) < 0.2
    blurred = filters.gaussian(v, 1.5)
    assert blurred[..., 12].mean() - blurred[..., 11].mean() < 10


def test_tiles_equal_the_whole_bit_for_bit(instruction_set):
    v = noise((11, 23, 45), 5)
    settings = {"sigma_vox": 1.2, "sigma_range": 0.8}
    whole = filters.bilateral(v, **settings)
    radius = filters.bilateral_radius(**settings, window=2.0)
    assert radius == 2
    tiled = np.empty_like(whole)
    for block in tiling.blocks(v.shape, (4, 7, 13), radius):
        part = np.ascontiguousarray(v[block.padded])
        start = tuple(s.start for s in block.inner)
        shape = tuple(s.stop - s.start for s in block.inner)
        tiled[block.core] = _core.bilateral(part, 1.2, 0.8, 2.0, start, shape, 1)
    assert np.array_equal(tiled, whole)


def test_threads_change_nothing():
    v = noise((20, 40, 41), 6)
    one, two = (_core.bilateral(v, 1.0, 1.0, 2.0, (0, 0, 0), v.shape, threads) for threads in (1, 2))
    assert np.array_equal(one, two)


def test_types_layouts_and_volumes():
    v = (noise((4, 5, 12), 7) * 100).astype(np.int16)
    settings = {"sigma_vox": 1.0, "sigma_range": 30}
    plain = filters.bilateral(v.astype(np.float32), **settings)
    wide = np.repeat(v, 2, axis=2)
    for same in (v, v.astype(">f8"), np.asfortranarray(v), wide[:, :, ::2], v[::-1][::-1]):
        assert np.array_equal(filters.bilateral(same, **settings), plain)
    volume = Volume(v, voxel_size_A=8.0, origin_A=(1.0, 2.0, 3.0))
    found = filters.bilateral(volume, **settings)
    assert (found.voxel_size_A, found.origin_A) == (volume.voxel_size_A, volume.origin_A)
    assert np.array_equal(found.data, plain)


@pytest.mark.parametrize("name", ["sigma_vox", "sigma_range", "window"])
@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_impossible_settings(name, value):
    with pytest.raises(InputError, match=f"bilateral: {name}"):
        filters.bilateral(noise((3, 3, 3)), **{"sigma_vox": 1.0, "sigma_range": 1.0} | {name: value})


def test_other_errors():
    with pytest.raises(InputError, match="at most 20 voxels"):
        filters.bilateral(noise((3, 3, 3)), sigma_vox=20, sigma_range=1)
    with pytest.raises(InputError, match="no empty axis"):
        filters.bilateral(noise((3, 0, 3)), sigma_vox=1, sigma_range=1)
