# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools

import numpy as np
import pytest

from cryoet_engine._checks import InputError
from cryoet_engine.tiling import blocks, tile_ramp, tile_starts

SHAPES = [(1, 1, 1), (5, 37, 64), (64, 1, 9), (33, 32, 31)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("halo", [0, 3, 38])
def test_blocks_cover_every_voxel_once_and_read_their_halo(shape: tuple[int, int, int], halo: int) -> None:
    seen = np.zeros(shape, int)
    position = np.arange(seen.size).reshape(shape)
    for block in blocks(shape, (16, 17, 32), halo):
        seen[block.core] += 1
        np.testing.assert_array_equal(position[block.padded][block.inner], position[block.core])
        for core, padded, n in zip(block.core, block.padded, shape, strict=True):
            assert padded.start == max(core.start - halo, 0)
            assert padded.stop == min(core.stop + halo, n)
    np.testing.assert_array_equal(seen, 1)


@pytest.mark.parametrize("length", [1, 127, 128, 129, 224, 225, 1024, 1440])
def test_tiles_cover_an_axis_and_overlap_at_least_as_asked(length: int) -> None:
    starts = tile_starts(length, 128, 32)
    covered = np.zeros(max(length, 128), int)
    for start in starts:
        covered[start : start + 128] += 1
    assert covered[:length].min() >= 1
    assert starts[-1] + 128 == max(length, 128)
    assert all(b - a <= 96 for a, b in itertools.pairwise(starts))


def test_the_papers_volume_takes_825_tiles() -> None:
    counts = [len(tile_starts(n, 128, 32)) for n in (500, 1440, 1024)]
    assert np.prod(counts) == 825  # networks.md: 5 x 15 x 11


@pytest.mark.parametrize("trim", [0, 5, 16])
def test_opposite_ramps_sum_to_one_and_trimmed_ends_have_no_weight(trim: int) -> None:
    length = 224  # two tiles, exactly 32 voxels of overlap
    starts = tile_starts(length, 128, 32)
    total = np.zeros(length)
    for index, start in enumerate(starts):
        ramp = tile_ramp(length, starts, 128, 32, index, trim=trim)
        total[start : start + 128] += ramp
        inner = ramp[-trim:] if index == 0 else ramp[:trim]
        if trim:
            assert not inner.any()
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_single_tile_is_not_ramped() -> None:
    assert (tile_ramp(100, [0], 128, 32, 0, trim=8) == 1).all()


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="overlap"):
        tile_starts(100, 32, 32)
    with pytest.raises(InputError, match="trim"):
        tile_ramp(300, [0, 96, 172], 128, 32, 0, trim=17)
    with pytest.raises(InputError, match="block"):
        list(blocks((4, 4, 4), (0, 4, 4), 1))
