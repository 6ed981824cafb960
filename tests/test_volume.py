# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import cryoet_engine as ce
from cryoet_engine import volume
from cryoet_engine._checks import InputError
from cryoet_engine.inference.rescale import Rescaling
from cryoet_engine.models import ModelInfo, Normalisation
from cryoet_engine.volume import quantise, statistics


def test_a_volume_keeps_its_grid_and_reads_blocks_as_float32() -> None:
    volume = ce.Volume(np.arange(24, dtype=">i2").reshape(2, 3, 4), voxel_size_A=(1, 2, 3), origin_A=(7, 8, 9))
    block = volume.block((slice(1, 2), slice(0, 2), slice(1, 4)))
    assert block.dtype == np.float32
    assert block.flags.c_contiguous
    np.testing.assert_array_equal(block[0, 0], [13, 14, 15])
    other = volume.with_data(np.zeros((2, 3, 4)))
    assert (other.voxel_size_A, other.origin_A) == ((1, 2, 3), (7, 8, 9))


@pytest.mark.parametrize("data", [np.zeros((3, 4)), np.zeros((0, 4, 4)), np.zeros((1, 2, 3, 4))])
def test_a_volume_has_three_axes_and_voxels(data: np.ndarray) -> None:
    with pytest.raises(InputError, match="3D array"):
        ce.Volume(data)


@pytest.mark.parametrize("size", [0, -1, float("nan"), (1, 2), (1, 2, 0)])
def test_voxel_sizes_are_positive_numbers(size: object) -> None:
    with pytest.raises(InputError, match="voxel_size_A"):
        ce.Volume(np.zeros((2, 2, 2)), voxel_size_A=size)  # type: ignore[arg-type]


def test_statistics_leave_nonfinite_voxels_out_and_count_them() -> None:
    data = np.random.default_rng(0).normal(1e4, 3, (7, 20, 20)).astype(np.float32)
    data[0] = np.nan
    data[3, 2, 2] = np.inf
    finite = data[np.isfinite(data)].astype(np.float64)
    facts = statistics(ce.Volume(data))
    assert facts.nonfinite == 401
    assert facts.mean == pytest.approx(finite.mean(), abs=1e-9)
    assert facts.std == pytest.approx(finite.std(), rel=1e-9)
    assert (facts.min, facts.max) == (finite.min(), finite.max())


@pytest.mark.parametrize(("dtype", "bound"), [("uint8", 0.5 / 255), ("uint16", 0.5 / 65535), ("float32", 0)])
def test_quantised_probabilities_return_within_half_a_step(dtype: str, bound: float) -> None:
    probability = np.linspace(0, 1, 4 * 1001, dtype=np.float32).reshape(4, 1, 1, 1001)
    stored = ce.SoftSegmentation(quantise(probability, dtype), ("a", "b", "c", "d"))
    back = stored.block((slice(0, 1), slice(0, 1), slice(0, 1001)))
    assert np.abs(back - probability).max() <= bound + 1e-7


def test_a_segmentation_names_each_class_once() -> None:
    with pytest.raises(InputError, match="classes"):
        ce.SoftSegmentation(np.zeros((3, 2, 2, 2), np.uint8), ("a", "b"))
    with pytest.raises(InputError, match="uint8"):
        ce.SoftSegmentation(np.zeros((1, 2, 2, 2), np.int32), ("a",))


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "moderngl", "cupy", "sklearn", "zarr")
    code = f"import sys, cryoet_engine; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_crop_stays_at_its_place_in_space() -> None:
    data = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    volume = ce.Volume(data, voxel_size_A=(1, 2, 3), origin_A=(10, 20, 30), start=(0, 0, 7))
    part = volume.crop((slice(1, 3), slice(2, None), slice(None, 4)))
    np.testing.assert_array_equal(part.data, data[1:3, 2:, :4])
    assert part.origin_A == (11, 24, 30)
    assert part.start == (1, 2, 7)
    soft = ce.SoftSegmentation(np.zeros((2, 4, 5, 6), np.uint8), ("a", "b"), origin_A=(1, 1, 1))
    assert soft.crop((slice(0, 1), slice(1, 3), slice(0, 6))).origin_A == (1, 2, 1)
    with pytest.raises(InputError, match="region"):
        volume.crop((slice(0, 9), slice(None), slice(None)))


def test_merged_classes_add_up_and_are_read_lazily() -> None:
    rng = np.random.default_rng(0)
    exact = rng.dirichlet(np.ones(4), (3, 4, 5)).transpose(3, 0, 1, 2).astype(np.float32)
    names = ("background", "membrane", "spikes", "lumen")
    for dtype, bound in (("float32", 1e-6), ("uint16", 3 / 65535), ("uint8", 3 / 255)):
        soft = ce.SoftSegmentation(quantise(exact, dtype), names, voxel_size_A=3.0)
        two = soft.merge({"structure": ["spikes", "membrane", "lumen"]})
        assert two.classes == ("background", "structure")
        assert two.colors == (soft.colors[0], soft.colors[1])
        assert two.voxel_size_A == (3, 3, 3)
        assert two.data.dtype == soft.data.dtype
        whole = np.asarray(two.data)
        assert np.abs(whole[1] / two.unit - exact[1:].sum(axis=0)).max() <= bound
        for key in ((1,), (slice(0, 2), 1), (slice(None), slice(1, 3), 2), (..., 1), (0, 1, 2, 3), (-1, slice(0, 2))):
            np.testing.assert_array_equal(two.data[key], whole[key])
        region = (slice(0, 2), slice(1, 4), slice(0, 5))
        np.testing.assert_array_equal(two.block(region), whole[(slice(None), *region)] / np.float32(two.unit))
    full = ce.SoftSegmentation(np.full((2, 1, 1, 1), 128, np.uint8), ("a", "b")).merge({"all": ["a", "b"]})
    assert np.asarray(full.data).item() == 255


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"x": ["nobody"]}, "'nobody'"),
        ({"x": []}, "a list of class names"),
        ({"x": "ab"}, "a list of class names"),
        ({"x": ["a"], "y": ["a", "b"]}, "one group, got x, y"),
        ({"c": ["a", "b"]}, "'c' twice"),
    ],
)
def test_groups_that_do_not_fit(groups: dict, message: str) -> None:
    soft = ce.SoftSegmentation(np.zeros((3, 1, 1, 1), np.uint8), ("a", "b", "c"))
    with pytest.raises(InputError, match=message):
        soft.merge(groups)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_memory_map_reads_the_same_and_gives_its_pages_back(tmp_path, axes: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).normal(size=(40, 300, 400)).astype(np.float32)
    data.tofile(tmp_path / "v.raw")
    mapped = np.memmap(tmp_path / "v.raw", np.float32, "r", 0, data.shape).transpose(axes)
    volume, plain = ce.Volume(mapped), ce.Volume(data.transpose(axes))
    for region in ((slice(None),) * 3, (slice(3, 30), slice(0, 40), slice(7, 9)), (slice(None, 5),) * 3):
        block = volume.block(region)
        assert block.flags.c_contiguous
        np.testing.assert_array_equal(block, plain.block(region))
    assert statistics(volume) == statistics(plain)
    status = "/proc/self/smaps"
    if os.path.exists(status):
        with open(status) as file:
            lines = file.read().split("v.raw")[1].splitlines()
        resident = next(int(line.split()[1]) for line in lines if line.startswith("Rss"))
        assert resident < 1024  # kB of 19 MB


class Chunked:
    """A store that counts how often each of its chunks is unpacked."""

    def __init__(self, data: np.ndarray, chunks: tuple[int, int, int]) -> None:
        self.data, self.shape, self.dtype, self.chunks = data, data.shape, data.dtype, chunks
        self.unpacked = np.zeros([-(-n // c) for n, c in zip(data.shape, chunks, strict=True)], int)
        self.largest = 0

    def __getitem__(self, key) -> np.ndarray:
        key = (key, slice(None), slice(None)) if isinstance(key, slice) else (*key, *[slice(None)] * (3 - len(key)))
        ranges = [part.indices(n)[:2] for part, n in zip(key, self.shape, strict=True)]
        self.unpacked[tuple(slice(a // c, -(-b // c)) for (a, b), c in zip(ranges, self.chunks, strict=True))] += 1
        self.largest = max(self.largest, self.data[key].nbytes)
        return self.data[key]


@pytest.mark.parametrize("band", [1, 30_000, 1 << 20])
def test_statistics_unpack_each_chunk_once(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A band of one row of chunks has 16 x 16 x 50 voxels. Sums in another order: measured 4e-16 apart at most."""
    monkeypatch.setattr(volume, "_BAND_BYTES", band)
    data = np.random.default_rng(0).normal(size=(37, 40, 50)).astype(np.float32)
    store = Chunked(data, (16, 8, 16))
    found, plain = statistics(ce.Volume(store)), statistics(ce.Volume(data))
    assert (store.unpacked == 1).all()
    assert store.largest <= max(band, 16 * 8 * 50 * 4)
    assert (found.min, found.max, found.nonfinite) == (plain.min, plain.max, 0)
    if band == 1 << 20:  # whole slices: the order of the sums is that of any array
        assert found == plain
    assert found.mean == pytest.approx(plain.mean, abs=1e-14)
    assert found.std == pytest.approx(plain.std, abs=1e-14)
    percentile = Normalisation.measure(ce.Volume(store), "percentile")
    assert (store.unpacked == 3).all()
    expected = Normalisation.measure(ce.Volume(data), "percentile")
    assert (percentile.offset, percentile.scale) == pytest.approx((expected.offset, expected.scale), abs=1e-14)


def test_statistics_of_a_rescaled_store_unpack_a_chunk_a_few_times() -> None:
    data = np.random.default_rng(0).normal(size=(64, 40, 40)).astype(np.float32)
    info = ModelInfo(classes=("a",), colors=((1, 0, 0),), voxel_size_A=(13.0,) * 3)
    store = Chunked(data, (16, 16, 16))
    found = statistics(Rescaling(info, ce.Volume(store, voxel_size_A=10.0)).volume)
    assert found == statistics(Rescaling(info, ce.Volume(data, voxel_size_A=10.0)).volume)
    assert store.unpacked.max() <= 3  # 16 with a slice at a time
