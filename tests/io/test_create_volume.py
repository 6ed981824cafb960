# SPDX-License-Identifier: MIT
"""Volumes filled part by part hold the same bytes as those written at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import Volume, io
from cryoet_engine._checks import InputError
from cryoet_engine.tiling import blocks

SHAPE = (13, 70, 35)


def fill(path: Path, data: np.ndarray, block: tuple[int, int, int], **grid: object) -> None:
    with io.create_volume(path, data.shape, dtype=data.dtype, grid=grid) as out:
        for part in reversed(list(blocks(data.shape, block, 0))):
            out[part.core] = data[part.core]


@pytest.mark.parametrize("ending", [".mrc", ".zarr"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("block", [(4, 16, 10), (5, 7, 35), SHAPE])
def test_parts_in_any_order_give_the_file_that_write_gives(tmp_path, ending, dtype, block) -> None:
    data = np.random.default_rng(0).normal(50, 20, SHAPE).astype(dtype)
    grid = {"voxel_size_A": (5.0, 4.0, 3.0), "origin_A": (1.0, 2.0, 3.0), "notes": ("a note",)}
    one, other = (tmp_path / name / f"v{ending}" for name in "ab")
    fill(one, data, block, **grid)
    io.write(other, Volume(data, **grid))
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in (one, other)]
    assert files[0] == files[1]
    if one.is_file():
        assert one.read_bytes() == other.read_bytes()
    found = io.read_volume(one)
    assert np.array_equal(found.numpy(), data)
    assert found.voxel_size_A == (5.0, 4.0, 3.0)


@pytest.mark.parametrize("ending", [".mrc", ".zarr"])
def test_what_fails_leaves_nothing(tmp_path, ending) -> None:
    path = tmp_path / f"v{ending}"
    with pytest.raises(InputError, match="shape"), io.create_volume(path, (4, 5, 6), dtype="int16") as out:
        out[0:2, 0:5, 0:6] = np.zeros((2, 5, 5), np.int16)
    with pytest.raises(InputError, match="holds exactly"), io.create_volume(path, (4, 5, 6), dtype="int8") as out:
        out[0:2, 0:5, 0:6] = np.full((2, 5, 6), 300)
    assert not list(tmp_path.iterdir())


def test_formats_and_types_that_do_not_fit(tmp_path) -> None:
    for name in ("v.tif", "v.mrc.gz", "v"):
        with pytest.raises(InputError, match=r"\.mrc or \.zarr"), io.create_volume(tmp_path / name, SHAPE, dtype="i2"):
            pass
    with pytest.raises(InputError, match="MRC stores"), io.create_volume(tmp_path / "v.mrc", SHAPE, dtype="uint8"):
        pass
    with pytest.raises(InputError, match="empty axis"), io.create_volume(tmp_path / "v.mrc", (3, 0, 4), dtype="i2"):
        pass
    assert not list(tmp_path.iterdir())
