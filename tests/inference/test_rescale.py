# SPDX-License-Identifier: MIT
"""Another voxel size is computed at the network's, and comes back on its own grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cryoet_engine import CryoETError, Volume
from cryoet_engine.inference import segment
from cryoet_engine.inference.rescale import Rescaling, along, needed, resampling_matrix


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("step", [0.37, 0.5, 1.0, 1.3, 2.0, 3.7])
def test_rows_are_weights_of_neighbours(step: float, cubic: bool) -> None:
    n = math.ceil(40 / step)
    stored = resampling_matrix(40, n, step, cubic=cubic)
    matrix = stored.toarray()
    assert cubic or matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    centre = (np.arange(n) + 0.5) * step - 0.5
    # A line stays a line, but for the border: to 2e-6 for these, where a triangle's samples average to its middle.
    inside = (centre > 2 * max(step, 1)) & (centre < 39 - 2 * max(step, 1))
    bound = 1e-5 if step <= 1 or step == 2 else (0.012 if cubic else 0.057)
    np.testing.assert_allclose((matrix @ np.arange(40))[inside], centre[inside], atol=bound)
    assert all(not matrix[k, : needed(stored, slice(k, k + 1)).start].any() for k in range(n))
    assert all(not matrix[k, needed(stored, slice(k, k + 1)).stop :].any() for k in range(n))
    if step == 1:
        np.testing.assert_array_equal(matrix, np.eye(40))


@pytest.mark.parametrize(("cubic", "bound"), [(False, 0.12), (True, 0.013)])  # measured: 0.111, 0.0123
def test_going_coarser_averages(cubic: bool, bound: float) -> None:
    """The finest stripes there are must not fold back. A sample of every third voxel would give 1 and -1."""
    stripes = np.tile([1.0, -1.0], 30)
    assert np.abs(resampling_matrix(60, 20, 3.0, cubic=cubic) @ stripes)[2:-2].max() < bound


def blobs(n: int, size: float, **grid: Any) -> Volume:
    """Round blobs in a box of 400 Å, sampled in n voxels along each axis."""
    z, y, x = np.meshgrid(*[(np.arange(n) + 0.5) * size] * 3, indexing="ij")
    data = np.zeros((n, n, n))
    for centre, radius in (((130, 150, 140), 90), ((280, 240, 270), 70)):
        square = sum((axis - c) ** 2 for axis, c in zip((z, y, x), centre, strict=True))
        data += np.exp(-square / (2 * (radius / 2) ** 2))
    return Volume(data.astype(np.float32), voxel_size_A=size, **grid)


@pytest.mark.parametrize("tile", [12, 64])
def test_a_finer_tomogram_of_the_same_gives_the_same(tile: int, network: Callable) -> None:
    """20 Å against 10 Å. Measured: 0.0036 of at most 1; computed at 10 Å, without rescaling: 0.14."""
    model = network("test_smoothing", voxel_size_A=20)
    coarse, fine = blobs(20, 20.0), blobs(40, 10.0, origin_A=(5.0, 6.0, 7.0), notes=("kept",))
    how: dict[str, Any] = {"tile": tile, "overlap": 4, "dtype": "float32"}
    expected = segment(model, coarse, **how).data
    assert np.ptp(expected[1]) > 0.7
    for axis in (1, 2, 3):  # on the fine grid
        expected = along(resampling_matrix(20, 40, 0.5), expected, axis)
    found = segment(model, fine, rescale=True, **how)
    assert found.grid() == fine.grid()
    assert found.data.shape == (2, 40, 40, 40)
    np.testing.assert_allclose(found.data.sum(0), 1, atol=1e-5)
    assert np.abs(found.data - expected).max() < 0.005
    assert np.abs(segment(model, fine, **how).data - expected).max() > 0.1


def test_a_coarser_tomogram_and_maps(network: Callable) -> None:
    """33.3 Å to 20 Å and back; labels are those of the probabilities that are stored."""
    model = network("test_smoothing", voxel_size_A=20)
    volume = blobs(12, 400 / 12)
    labels, variance = np.zeros(volume.shape, np.uint8), np.full(volume.shape, np.nan, np.float32)
    maps = {"labels": labels, "variance": variance}
    found = segment(model, volume, rescale=True, tile=8, overlap=4, dtype="float32", tta="turn", maps=maps)
    np.testing.assert_array_equal(labels, found.data.argmax(0) + 1)
    assert set(np.unique(labels)) == {1, 2}
    assert 0 <= variance.min() <= variance.max() < 1e-12
    expected = segment(model, blobs(20, 20.0), dtype="float32").data[1]
    assert abs(found.data[1].mean() - expected.mean()) < 0.01  # measured: 0.002


@pytest.mark.parametrize(("first", "size"), [(0, 14.0), (1, 31.0), (13, 9.0), (13, 31.0), (24, 14.0), (29, 9.0)])
def test_goes_on_where_it_stopped(first: int, size: float, network: Callable, recorder: Any) -> None:
    model = network("test_smoothing", voxel_size_A=size)
    volume = blobs(30, 400 / 30)
    how: dict[str, Any] = {"rescale": True, "tile": 16, "overlap": 4, "leave_out_slices": (3, 5)}
    whole = segment(model, volume, **how).data
    out = recorder((2, 30, 30, 30))
    segment(model, volume, out=out, first_slice=first, **how)
    assert out.written[0].start == first
    np.testing.assert_array_equal(out.data[:, first:], whole[:, first:])
    assert (out.data[:, :first] == 77).all()
    assert (whole[0, :3] == 255).all()
    assert (whole[0, 25:] == 255).all()


def test_reads_parts_and_keeps_alike_grids(network: Callable) -> None:
    volume = blobs(40, 10.0)
    most = 0

    class Lazy:
        shape, dtype = volume.shape, volume.dtype

        def __getitem__(self, key: Any) -> Any:
            nonlocal most
            part = volume.data[key]
            most = max(most, part.size)
            return part

    model = network("test_smoothing", voxel_size_A=20)
    found = segment(model, Volume(Lazy(), voxel_size_A=10), rescale=True, tile=8, overlap=2)
    np.testing.assert_array_equal(found.data, segment(model, volume, rescale=True, tile=8, overlap=2).data)
    assert most <= 24**3  # a tile of 16 and its neighbours; of 40**3
    alike = network("test_smoothing", voxel_size_A=10.05)
    np.testing.assert_array_equal(segment(alike, volume, rescale=True).data, segment(alike, volume).data)


def test_sizes_have_to_be_known(network: Callable) -> None:
    model = network("test_smoothing", voxel_size_A=20)
    with pytest.raises(CryoETError, match="a tomogram whose voxel size is known, got an unknown one"):
        segment(model, Volume(np.eye(4)[None], voxel_size_status="unknown"), rescale=True)


def test_one_voxel_and_slivers(network: Callable) -> None:
    model = network("test_smoothing", voxel_size_A=20)
    for shape in ((1, 5, 9), (2, 1, 30)):
        data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        found = segment(model, Volume(data, voxel_size_A=13.0), rescale=True, dtype="float32")
        assert found.data.shape == (2, *shape)
        np.testing.assert_allclose(found.data.sum(0), 1, atol=1e-5)
    assert Rescaling(model.info, blobs(20, 19.99)).volume.shape == (20, 20, 20)
