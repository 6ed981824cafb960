# SPDX-License-Identifier: MIT
"""Tiles blended into slices, against the float64 oracle that divides by a map of weights."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from cryoet_engine import _core
from cryoet_engine._checks import InputError
from cryoet_engine.blending import SlabBlender
from cryoet_engine.tiling import tile_shares, tile_starts
from cryoet_engine.volume import quantise
from reference import blend as reference

# Shape, tile, overlap along (z, y, x).
CASES = [
    ((13, 21, 30), (8, 9, 16), (4, 3, 6)),
    ((1, 9, 300), (1, 5, 290), (0, 2, 40)),  # longer than the runs in which slices are finished
    ((7, 8, 9), (7, 8, 9), (0, 0, 0)),  # one tile
    ((9, 10, 11), (3, 4, 5), (2, 3, 4)),  # up to 27 tiles a voxel
    ((17, 1, 5), (6, 1, 5), (1, 0, 4)),
]
MODES = ["plain", "trimmed", "gaussian"]


def shares_of(shape, tile, overlap, mode):
    """Starts and shares along each axis."""
    at = [tile_starts(*one) for one in zip(shape, tile, overlap, strict=True)]
    rest = zip(shape, at, tile, overlap, strict=True)
    trims = [max(0, (one - 1) // 2) if mode == "trimmed" else 0 for one in overlap]
    shares = [tile_shares(*one, trim=trim, gaussian=mode == "gaussian") for one, trim in zip(rest, trims, strict=True)]
    return at, shares, trims


def weights_of(shape, tile, overlap, mode, at, trims):
    """The oracle's, along each axis for each tile."""
    if mode == "gaussian":
        return [[reference.bell(n)] * len(one) for n, one in zip(tile, at, strict=True)]
    return [
        [reference.ramp(n, start, t, o, trim) for start in starts]
        for n, t, o, trim, starts in zip(shape, tile, overlap, trims, at, strict=True)
    ]


def noise(at, tile, n_classes, seed=0):
    """Tiles that do not agree with each other, (class, z, y, x), by their index."""
    rng = np.random.default_rng(seed)
    indices = product(*(range(len(one)) for one in at))
    return {k: rng.normal(0.4, 0.5, (n_classes, *tile)).astype(np.float32) for k in indices}


def blended(tiles, shape, at, shares, *, device=None, sent=lambda tile: tile, **how):
    """All of it, slab by slab: (class, *shape) and labels."""
    tile = next(iter(tiles.values())).shape
    slices, labels = [], []
    with SlabBlender(tile[0], (tile[1], *shape[1:]), device=device) as blender:
        for iz, z in enumerate(at[0]):
            for iy, ix in product(range(len(at[1])), range(len(at[2]))):
                weights = (shares[0][iz], shares[1][iy], shares[2][ix])
                blender.add(sent(tiles[iz, iy, ix]), weights, (z, at[1][iy], at[2][ix]))
            found = blender.finish(at[0][iz + 1] if iz + 1 < len(at[0]) else shape[0], labels=True, **how)
            slices.append(found[0])
            labels.append(found[1])
    return np.concatenate(slices, axis=1), np.concatenate(labels)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "tile", "overlap"), CASES)
def test_equals_the_oracle(shape, tile, overlap, mode, instruction_set):
    """Values up to 2. Measured: 2.8e-7, after softmax 1.5e-7."""
    at, shares, trims = shares_of(shape, tile, overlap, mode)
    assert at == [reference.starts(*one) for one in zip(shape, tile, overlap, strict=True)]
    tiles = noise(at, tile, 3)
    weights = weights_of(shape, tile, overlap, mode, at, trims)
    truth = reference.blend(tiles, shape, at, weights)
    found, labels = blended(tiles, shape, at, shares)
    assert np.abs(found - np.clip(truth, 0, 1)).max() < 1e-6
    sure = np.ptp(np.sort(truth, axis=0)[-2:], axis=0) > 1e-5
    assert sure.mean() > 0.99
    assert np.array_equal(labels[sure], truth.argmax(axis=0)[sure])
    softened, again = blended(tiles, shape, at, shares, softmax=True)
    assert np.abs(softened - reference.softmax(truth)).max() < 1e-6
    assert np.array_equal(again, labels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("softmax", [False, True])
def test_stored_types(dtype, softmax, instruction_set):
    """Bit for bit what volume.quantise makes of the float32 slices, and of the oracle but for ties."""
    shape, tile, overlap = CASES[0]
    at, shares, trims = shares_of(shape, tile, overlap, "plain")
    tiles = noise(at, tile, 4, 1)
    whole, _ = blended(tiles, shape, at, shares, softmax=softmax)
    found, _ = blended(tiles, shape, at, shares, dtype=dtype, softmax=softmax)
    assert found.dtype == dtype
    assert np.array_equal(found, quantise(whole, dtype))
    truth = reference.blend(tiles, shape, at, weights_of(shape, tile, overlap, "plain", at, trims))
    expected = reference.stored(reference.softmax(truth) if softmax else truth, dtype)
    assert np.mean(found != expected) < (1e-3 if dtype == "uint8" else 0.02)  # measured: 6e-5 and 0.0105
    assert np.abs(found - expected).max() <= 1


def test_every_level_and_half_is_rounded_to_even(instruction_set):
    levels = np.concatenate([np.arange(0, 255.5, 0.5), [-3, 300, np.nan, np.inf]]) / 255
    values = levels.astype(np.float32)[None, None, None]
    blender = SlabBlender(1, values.shape[1:])
    ones = tuple(np.ones(n, np.float32) for n in values.shape[1:])
    blender.add(values, ones, (0, 0, 0))
    found, _ = blender.finish(1, dtype="uint8")
    expected = quantise(np.nan_to_num(np.clip(values, 0, 1)), "uint8")
    assert np.array_equal(found, expected)
    assert set(found.ravel()) == set(range(256))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [1, 127, 128, 129, 223, 224, 225, 500, 1440])
def test_shares_sum_to_one(length, mode):
    """Measured: 1.2e-7. Where tiles are not shifted, ramps are what they are: nothing is divided."""
    tile = min(128, length)
    at, (shares, *_), _ = shares_of((length,) * 3, (tile,) * 3, (min(32, tile - 1),) * 3, mode)
    total = np.zeros(length)
    for start, share in zip(at[0], shares, strict=True):
        total[start : start + tile] += share
    assert np.abs(total - 1).max() < 3e-7


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_stays_one(mode):
    """Weights in 3D sum to one: measured 2.4e-7."""
    shape, tile, overlap = CASES[3]
    at, shares, _ = shares_of(shape, tile, overlap, mode)
    tiles = {k: np.full_like(v, 0.75) for k, v in noise(at, tile, 2).items()}
    found, labels = blended(tiles, shape, at, shares)
    assert np.abs(found - 0.75).max() < 1e-6
    assert not labels.any()  # equal: the first class


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_read_as_it_is(kind, instruction_set):
    """Every 16-bit pattern that is a number, as torch reads it."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = torch.from_numpy(bits).view(getattr(torch, kind))
    truth = halves.float().numpy().reshape(1, 4, 64, 256)
    tile = (bits.view(np.float16) if kind == "float16" else bits).reshape(truth.shape)
    ones = tuple(np.ones(n, np.float32) for n in truth.shape[1:])
    sums = np.zeros_like(truth)
    _core.blend_tile(tile, ones, sums, (0, 0, 0), 1)
    finite = np.isfinite(truth)
    assert np.array_equal(sums[finite], truth[finite])
    assert np.array_equal(np.isnan(sums), np.isnan(truth))
    assert np.array_equal(np.isposinf(sums), np.isposinf(truth))


def test_tiles_of_any_strides(instruction_set):
    """Channels last, reversed, a window: the same bits."""
    shape, tile, overlap = CASES[0]
    at, shares, _ = shares_of(shape, tile, overlap, "trimmed")
    tiles = noise(at, tile, 4, 2)
    truth, _ = blended(tiles, shape, at, shares)

    def channels_last(one):
        return np.ascontiguousarray(one.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)

    def mirrored(one):
        return np.ascontiguousarray(one[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]

    def window(one):
        return np.pad(one, [(0, 1), (1, 2), (3, 0), (2, 5)])[:-1, 1:-2, 3:, 2:-5]

    for turned in (channels_last, mirrored, window):
        assert not turned(tiles[0, 0, 0]).flags.c_contiguous
        assert np.array_equal(blended(tiles, shape, at, shares, sent=turned)[0], truth)


def test_threads_change_nothing():
    shape, tile = (70, 90, 130), (64, 80, 120)
    at, shares, _ = shares_of(shape, tile, (60, 75, 115), "gaussian")
    tiles = noise(at, tile, 2, 3)
    found = []
    for threads in (1, 2, 5):
        sums, some = np.zeros((2, *shape), np.float32), []
        for iz, iy, ix in tiles:
            weights = (shares[0][iz], shares[1][iy], shares[2][ix])
            _core.blend_tile(tiles[iz, iy, ix], weights, sums, (at[0][iz], at[1][iy], at[2][ix]), threads)
        out, labels = np.empty((2, *shape), np.uint16), np.empty(shape, np.uint8)
        some.append(sums.copy())
        _core.finish_blend(sums, 0, shape[0], True, out, labels, threads)
        assert not sums.any()  # for the slices that come there next
        found.append([*some, out, labels])
    for others in found[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_tiles_cut_by_the_border_and_what_has_no_weight():
    """Beyond the far ends, and where weights are zero, even NaN is not looked at."""
    tile = np.full((2, 4, 6, 8), np.nan, np.float32)
    tile[:, 1:3, :4, :5] = 0.5
    weights = (np.float32([0, 1, 1, 0]), np.ones(6, np.float32), np.float32([1, 1, 1, 1, 1, 0, 0, 0]))
    blender = SlabBlender(2, (4, 10, 20))
    blender.add(tile, weights, (0, 6, 13))  # two rows and one column of it lie outside
    found, _ = blender.finish(4)
    expected = np.zeros((2, 4, 10, 20), np.float32)
    expected[:, 1:3, 6:, 13:18] = 0.5
    assert np.array_equal(found, expected)


def test_slices_of_a_larger_array_are_written_to():
    tile = np.random.default_rng(6).random((3, 4, 5, 6), np.float32)
    ones = tuple(np.ones(n, np.float32) for n in (4, 5, 6))
    whole = np.full((3, 9, 5, 6), 7, np.float32)
    blender = SlabBlender(3, (4, 5, 6))
    blender.add(tile, ones, (0, 0, 0))
    found, _ = blender.finish(3, out=whole[:, 2:5])
    assert np.shares_memory(found, whole)
    assert np.array_equal(whole[:, 2:5], tile[:, :3])
    assert (whole[:, [0, 1, 5, 6, 7, 8]] == 7).all()
    for out in (whole[:, :2], whole[:, :1, :, ::-1], np.empty((3, 1, 5, 6), np.uint8)):
        with pytest.raises(InputError, match=r"out: expected float32 \(3, 1, 5, 6\), each class contiguous"):
            blender.finish(4, out=out)


def test_refuses():
    blender = SlabBlender(2, (4, 5, 6))
    tile, ones = np.zeros((2, 4, 5, 6), np.float32), tuple(np.ones(n, np.float32) for n in (4, 5, 6))
    for arguments, what in (
        ((tile[:1], ones, (0, 0, 0)), r"tile: expected \(2, z, y, x\)"),
        ((tile.astype(float), ones, (0, 0, 0)), "float32, float16 or uint16.*got float64"),
        ((tile.astype(">f4"), ones, (0, 0, 0)), "got >f4"),
        ((tile, (ones[0], ones[1], ones[1]), (0, 0, 0)), "weights: expected rows of"),
        ((tile, ones, (4, 0, 0)), r"at: expected a voxel of the slab, \(0, 0, 0\) to \(4, 5, 6\)"),
        ((tile, ones, (0, -1, 0)), "at: "),
        ((tile, ones, (0, 0, 6)), "at: "),
    ):
        with pytest.raises(InputError, match=what):
            blender.add(*arguments)
    blender.finish(2)
    with pytest.raises(InputError, match="finish the slices above first"):
        blender.add(tile, ones, (1, 0, 0))
    with pytest.raises(InputError, match="until: expected 3 to 6, got 2"):
        blender.finish(2)
    with pytest.raises(InputError, match="dtype: expected uint8, uint16, float32"):
        blender.finish(3, dtype="int8")
    with pytest.raises(InputError, match="1 to 255 classes"):
        SlabBlender(256, (1, 1, 1))
