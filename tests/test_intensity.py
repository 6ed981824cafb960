# SPDX-License-Identifier: MIT
"""Histogram, percentiles, normalisation and CLAHE against numpy and the float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine import Volume, _core, intensity, io, tiling
from cryoet_engine._checks import InputError
from reference import preprocessing as oracle

SHAPES = [(20, 37, 64), (1, 9, 40), (40, 1, 33), (7, 30, 1), (2, 3, 4), (1, 1, 1)]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Watched(io.LazyArray):
    """An array that remembers the largest part that was read at once."""

    def __init__(self, data, depth):
        super().__init__(data.shape, data.dtype, (depth, *data.shape[1:]))
        self.data, self.largest = data, 0

    def _read(self, region):
        part = self.data[region]
        self.largest = max(self.largest, part.size)
        return part


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [2, 100, 256])
def test_histogram_equals_numpys(shape, bins):
    v = noise(shape)
    found = intensity.histogram(v, bins, (-1.5, 2.5))
    assert found.dtype == np.int64
    assert np.array_equal(found, np.histogram(v.astype(np.float64), bins, (-1.5, 2.5))[0])
    assert intensity.histogram(v, bins, (-10, 10)).sum() == v.size


def test_histogram_of_values_on_the_edges():
    v = np.arange(-3, 13, dtype=np.int16).reshape(1, 4, 4)
    assert intensity.histogram(v, 10, (0, 10)).tolist() == [1] * 9 + [2]  # 10 falls into the last bin, 11 nowhere


def test_histogram_leaves_out_what_is_not_finite():
    v = noise((4, 5, 6))
    v[1, 2, :4] = (np.nan, np.inf, -np.inf, 1e30)
    assert intensity.histogram(v, 5, (-10, 10)).sum() == v.size - 4


def test_threads_change_nothing():
    v = noise((2, 1200, 1024))
    row_of = np.full(1 << 16, -1, np.int32)
    row_of[[0xBF80, 0xC000, 0x3FFF]] = (0, 1, 2)  # upper halves of the keys from 1, from 2, and down to -2
    found = []
    for threads in (1, 2):
        bins, upper, lower = np.zeros(16, np.int64), np.zeros(1 << 16, np.int64), np.zeros((3, 1 << 16), np.int64)
        _core.add_to_histogram(v, (-3.0, 3.0), bins, threads)
        _core.count_upper_keys(v, upper, threads)
        _core.count_lower_keys(v, row_of, lower, threads)
        found.append((bins, upper, lower))
    for one, two in zip(*found, strict=True):
        assert np.array_equal(one, two)
    bins, upper, lower = found[0]
    assert bins.sum() == ((v >= -3) & (v <= 3)).sum()
    assert upper.sum() == v.size
    assert lower.sum(axis=1).tolist() == upper[[0xBF80, 0xC000, 0x3FFF]].tolist()
    assert upper[0xC000] == ((v >= 2) & (v < 2 + 1 / 64)).sum()


Q = (0, 0.1, 1, 25, 33.3, 50, 99, 99.9, 100)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, np.float16])
def test_percentiles_equal_numpys(shape, dtype):
    v = (noise(shape, 1) * 40 + 100).astype(dtype)
    truth = np.percentile(v.astype(np.float64), Q)
    assert np.allclose(intensity.percentiles(v, Q), truth, rtol=1e-14, atol=1e-12)


def test_percentiles_of_values_of_every_size_and_sign():
    rng = np.random.default_rng(2)
    v = (rng.choice([-1, 1], 6000) * 10.0 ** rng.uniform(-38, 38, 6000)).astype(np.float32).reshape(10, 20, 30)
    v[0, 0, :4] = (0.0, -0.0, 1e-42, -1e-42)
    v[1, :3, 0] = (np.nan, np.inf, -np.inf)
    truth = np.percentile(v[np.isfinite(v)].astype(np.float64), Q)
    assert np.allclose(intensity.percentiles(v, Q), truth, rtol=1e-12, atol=0)


def test_what_looks_at_a_whole_volume_reads_it_in_slabs(monkeypatch):
    monkeypatch.setattr("cryoet_engine.io._lazy._SLAB_BYTES", 16 << 10)
    v = noise((41, 16, 32), 3)
    for depth in (1, 8):
        watched = Watched(v, depth)
        lazy = Volume(watched)
        assert np.array_equal(intensity.histogram(lazy, 8, (-2, 2)), np.histogram(v, 8, (-2, 2))[0])
        assert np.array_equal(intensity.percentiles(lazy, (1, 99)), np.percentile(v.astype(np.float64), (1, 99)))
        assert intensity.min_max(lazy) == (v.min(), v.max())
        assert np.array_equal(intensity.tile_maps(lazy, (-2, 2)).maps, intensity.tile_maps(v, (-2, 2)).maps)
        assert watched.largest == 8 * 16 * 32


def test_progress_can_cancel():
    def stop(stage, done, total, note=""):
        raise KeyboardInterrupt

    for work in (
        lambda: intensity.histogram(noise((3, 4, 5)), 4, (0, 1), progress=stop),
        lambda: intensity.percentiles(noise((3, 4, 5)), (1,), progress=stop),
        lambda: intensity.tile_maps(noise((3, 4, 5)), (0, 1), progress=stop),
    ):
        with pytest.raises(KeyboardInterrupt):
            work()


def test_normalisation():
    v = noise((5, 6, 7), 4) * 30 - 7
    found = intensity.normalise(v, intensity.min_max(v))
    assert (found.min(), found.max(), found.dtype) == (0, 1, np.float32)
    assert np.abs(found - (v - v.min()) / np.ptp(v)).max() < 1e-6
    low, high = intensity.percentile_range(v, 1, 99)
    assert (low, high) == tuple(np.percentile(v.astype(np.float64), (1, 99)))
    clipped, free = (intensity.normalise(v, (low, high), clip=clip) for clip in (True, False))
    assert (clipped.min(), clipped.max()) == (0, 1)
    assert free.min() < 0
    assert free.max() > 1
    assert np.array_equal(np.clip(free, 0, 1), clipped)
    volume = Volume((v * 10).astype(np.int16), voxel_size_A=5.0)
    scaled = intensity.normalise(volume, (0, 100))
    assert scaled.voxel_size_A == (5, 5, 5)
    assert volume.data.dtype == np.int16


RANGE = (-2.0, 2.5)
TILES = [
    ((20, 37, 64), (8, 8, 8)),
    ((5, 37, 50), (4, 16, 7)),
    ((1, 30, 41), (16, 16, 16)),
    ((9, 1, 33), (4, 4, 5)),
    ((7, 30, 1), (3, 9, 2)),
    ((6, 30, 31), (1, 8, 8)),
    ((2, 3, 4), (64, 64, 64)),
    ((1, 1, 1), (5, 5, 5)),
]


@pytest.mark.parametrize(("shape", "tile"), TILES)
@pytest.mark.parametrize(("clip_limit", "n_bins"), [(0.01, 256), (0.05, 64), (1.0, 33)])
def test_clahe_equals_the_oracle(shape, tile, clip_limit, n_bins):
    v = noise(shape, 5)
    found = intensity.clahe(v, RANGE, tile_vox=tile, clip_limit=clip_limit, n_bins=n_bins)
    truth = oracle.clahe(v, RANGE, tile, clip_limit, n_bins)
    assert np.abs(found - truth).max() < 2e-7  # measured 1e-7: the maps are counted exactly


@pytest.mark.parametrize("kind", ["empty", "one bin", "two bins", "uniform", "steep", "random"])
@pytest.mark.parametrize("clip_limit", [1e-9, 0.01, 0.03, 0.3, 1.0])
def test_clipped_histograms_of_one_tile(kind, clip_limit):
    """One tile: the map is the clipped histogram, cumulated, so it tells every bin."""
    rng = np.random.default_rng(6)
    share = {
        "empty": np.eye(50)[0],
        "one bin": np.eye(50)[17],
        "two bins": np.eye(50)[3] + np.eye(50)[49],
        "uniform": np.ones(50),
        "steep": np.exp(-np.arange(50.0) / 3),
        "random": rng.random(50),
    }[kind]
    v = rng.choice(50, (9, 10, 11), p=share / share.sum()).astype(np.float32) + np.float32(0.5)
    maps = intensity.tile_maps(v, (0, 50), tile_vox=64, clip_limit=clip_limit, n_bins=50)
    counts = np.bincount(v.astype(int).ravel(), minlength=50)
    clipped = oracle.clipped_histogram(counts, clip_limit)
    assert clipped.sum() == v.size
    assert clipped.max() <= max(np.floor(clip_limit * v.size), np.ceil(v.size / 50))
    assert np.array_equal(np.rint(np.diff(maps.maps[0, 0, 0].astype(np.float64)) * v.size), clipped)
    assert np.array_equal(maps.maps[0, 0, 0, [0, -1]], [0, 1])


def test_every_map_rises():
    v = noise((12, 20, 22), 7)
    maps = intensity.tile_maps(v, RANGE, tile_vox=5, n_bins=64).maps
    assert maps.shape == (3, 4, 5, 65)
    assert (np.diff(maps) >= 0).all()
    ramp = np.linspace(*RANGE, 200, dtype=np.float32).reshape(200, 1, 1)
    for z, y, x in ((0, 0, 0), (6, 11, 13), (11, 19, 21)):  # brighter never becomes darker at any place
        whole = intensity.TileMaps(maps=maps, tile_vox=(5, 5, 5), shape=v.shape, value_range=RANGE)
        mapped = [whole.apply(one[None], (z, y, x)).item() for one in ramp]
        assert (np.diff(mapped) >= 0).all()


def test_nothing_is_equalised_where_the_clip_limit_is_the_mean_bin():
    v = np.clip(noise((8, 16, 32), 8), *RANGE)
    found = intensity.clahe(v, RANGE, tile_vox=8, clip_limit=1 / 256)
    assert np.abs(found - intensity.normalise(v, RANGE)).max() < 2e-7  # measured 1.2e-7


def test_without_clipping_a_tile_becomes_even():
    v = np.exp(noise((32, 32, 32), 9))
    found = intensity.clahe(v, (0, 20), tile_vox=32, clip_limit=1.0, n_bins=4096)
    counts = np.histogram(found, 10, (0, 1))[0] / v.size
    assert np.abs(counts - 0.1).max() < 0.005


def test_slice_wise_is_every_slice_for_itself():
    v = noise((5, 33, 40), 10)
    found = intensity.clahe(v, RANGE, tile_vox=16, slice_wise=True)
    assert np.array_equal(found, intensity.clahe(v, RANGE, tile_vox=(1, 16, 16)))
    for z in range(5):
        assert np.array_equal(found[z : z + 1], intensity.clahe(v[z : z + 1], RANGE, tile_vox=16))


def test_turned_volumes_give_turned_results():
    v = noise((16, 24, 24), 11)  # whole tiles: no end is mirrored
    found = intensity.clahe(v, RANGE, tile_vox=8)
    for turned, back in ((v[::-1], np.s_[::-1]), (v[:, :, ::-1], np.s_[:, :, ::-1])):
        assert np.abs(intensity.clahe(turned, RANGE, tile_vox=8)[back] - found).max() < 2e-7


def test_a_constant_volume_stays_constant():
    found = intensity.clahe(np.full((9, 10, 11), 3, np.float32), (0, 10), tile_vox=4)
    assert np.ptp(found) < 2e-7


def test_values_beyond_the_range_count_at_its_ends():
    v = noise((6, 12, 14), 12) * 3
    v[0, 0, :3] = (np.inf, -np.inf, np.nan)
    as_ends = np.clip(np.where(np.isnan(v), RANGE[0], v), *RANGE).astype(np.float32)
    assert np.array_equal(intensity.clahe(v, RANGE, tile_vox=5), intensity.clahe(as_ends, RANGE, tile_vox=5))


def test_blocks_and_slabs_change_no_bit():
    v = noise((19, 23, 37), 13)
    settings = {"tile_vox": (4, 7, 9), "clip_limit": 0.02}
    whole = intensity.clahe(v, RANGE, **settings)
    watched = Watched(v, 3)
    maps = intensity.tile_maps(Volume(watched), RANGE, **settings)
    for block in tiling.blocks(v.shape, (5, 6, 11), 0):
        start = tuple(part.start for part in block.core)
        assert np.array_equal(maps.apply(v[block.core], start), whole[block.core])
    grid = (-(-19 // 4), -(-23 // 7), -(-37 // 9), 256)
    counted = []
    for step, threads in ((19, 1), (19, 2), (1, 1), (6, 2)):
        counts = np.zeros(grid, np.int32)
        for z in range(0, 19, step):
            _core.count_tiles(v[z : z + step], z, v.shape, (4, 7, 9), RANGE, counts, threads)
        counted.append(counts)
    assert all(np.array_equal(counts, counted[0]) for counts in counted)
    assert (counted[0].sum(axis=-1) == 4 * 7 * 9).all()


def test_layouts_and_volumes():
    v = noise((6, 10, 12), 14)
    plain = intensity.clahe(v, RANGE, tile_vox=4)
    wide = np.repeat(v, 2, axis=1)
    for same in (v.astype(np.float64), np.asfortranarray(v), wide[:, ::2], v[::-1][::-1]):
        assert np.array_equal(intensity.clahe(same, RANGE, tile_vox=4), plain)
        assert np.array_equal(intensity.histogram(same, 9, RANGE), intensity.histogram(v, 9, RANGE))
    volume = Volume(v, voxel_size_A=9.0)
    found = intensity.clahe(volume, RANGE, tile_vox=4)
    assert found.voxel_size_A == (9, 9, 9)
    assert np.array_equal(found.data, plain)


BAD_RANGES = [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (0,), "ab", None, (-1e308, 1e308), (0, 1e-50), (0, 1e39)]


@pytest.mark.parametrize("value_range", BAD_RANGES)
def test_impossible_ranges(value_range):
    v = noise((3, 4, 5))
    for work in (
        lambda: intensity.histogram(v, 5, value_range),
        lambda: intensity.normalise(v, value_range),
        lambda: intensity.clahe(v, value_range),
    ):
        with pytest.raises(InputError, match=r"value_range: expected two finite grey values, low < high"):
            work()


@pytest.mark.parametrize("bins", [1, 0, -3, 2.5, "4", 1 << 30])
def test_impossible_numbers_of_bins(bins):
    with pytest.raises(InputError, match="bins"):
        intensity.histogram(noise((3, 4, 5)), bins, (0, 1))
    with pytest.raises(InputError, match="bins"):
        intensity.clahe(noise((3, 4, 5)), (0, 1), n_bins=bins)


def test_other_errors():
    v = noise((3, 4, 5))
    for q in ((-1,), (101,), (np.nan,), ()):
        with pytest.raises(InputError, match="percentiles from 0 to 100"):
            intensity.percentiles(v, q)
    for pair in ((5, 5), (60, 40), (-1, 50), (0, 101), (np.nan, 5)):
        with pytest.raises(InputError, match="low < high"):
            intensity.percentile_range(v, *pair)
    for tile in (0, -1, 2.5, (4, 4), (4, 4, 0)):
        with pytest.raises(InputError, match="tile_vox"):
            intensity.clahe(v, (0, 1), tile_vox=tile)
    for clip_limit in (0, -1, 1.5, np.nan):
        with pytest.raises(InputError, match="clip_limit"):
            intensity.clahe(v, (0, 1), clip_limit=clip_limit)
    nothing = np.full((2, 3, 4), np.nan, np.float32)
    for work in (intensity.min_max, lambda one: intensity.percentiles(one, (50,))):
        with pytest.raises(InputError, match="finite voxels"):
            work(nothing)
    for bad, words in ((v[:0], "no empty axis"), (v[0], "no empty axis"), (v.astype(complex), "real numbers")):
        with pytest.raises(InputError, match=words):
            intensity.percentiles(bad, (50,))
        with pytest.raises(InputError, match=words):
            intensity.clahe(bad, (0, 1))
    maps = intensity.tile_maps(v, (0, 1))
    with pytest.raises(InputError, match="block"):
        maps.apply(v, (1, 0, 0))
