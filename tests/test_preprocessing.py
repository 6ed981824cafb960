# SPDX-License-Identifier: MIT
"""Chains of steps: computed in blocks they are what the flat functions make of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine import Volume, filters, intensity, io
from cryoet_engine._checks import InputError
from cryoet_engine.preprocessing import Bilateral, Clahe, Invert, LowPass, Normalise, preprocess

GRID = {"voxel_size_A": 10.0, "origin_A": (1.0, 2.0, 3.0), "start": (4, 5, 6), "notes": ("a note",)}


@pytest.fixture
def volume():
    data = np.random.default_rng(0).normal(5, 3, (23, 19, 26)).astype(np.float32)
    return Volume(data, **GRID)


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    """Three planes at a time, so that results are put together from many blocks."""
    monkeypatch.setattr("cryoet_engine.preprocessing._SLAB_BYTES", 3 * 4 * 19 * 26)
    monkeypatch.setattr("cryoet_engine.io._lazy._SLAB_BYTES", 3 * 4 * 19 * 26)


def percentile_clahe(volume):
    return intensity.clahe(volume, intensity.percentile_range(volume, 0.1, 99.9), tile_vox=(6, 7, 8), n_bins=64)


STEPS = {
    "bilateral": (
        Bilateral(sigma_vox=1.0, sigma_range=4.0),
        lambda v: filters.bilateral(v, sigma_vox=1.0, sigma_range=4.0),
    ),
    "low-pass in A": (LowPass(resolution_A=45.0), lambda v: filters.low_pass(v, resolution_A=45.0)),
    "low-pass in voxels": (LowPass(sigma_vox=1.3), lambda v: filters.low_pass(v, 1.3)),
    "invert": (Invert(), filters.invert),
    "min-max": (Normalise(), lambda v: intensity.normalise(v, intensity.min_max(v))),
    "percentiles": (
        Normalise(low=2, high=97),
        lambda v: intensity.normalise(v, intensity.percentile_range(v, 2, 97)),
    ),
    "clahe": (Clahe(tile_vox=(6, 7, 8), n_bins=64), percentile_clahe),
}


def whole(volume):
    """The voxels, asked for slab by slab, as `io.write` does."""
    return np.concatenate([volume.data[slab] for slab in io.slabs(volume.data)])


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_its_flat_function(name, volume):
    step, flat = STEPS[name]
    found = preprocess(volume, [step])
    assert found.grid() == volume.grid()
    assert found.dtype == np.float32
    assert len(list(io.slabs(found.data))) == 8
    truth = flat(volume).data
    assert np.array_equal(whole(found), truth)
    assert np.array_equal(found.data[5:9, 3:11, 20:26], truth[5:9, 3:11, 20:26])


@pytest.mark.parametrize(
    "names",
    [
        ("low-pass in A", "invert"),
        ("bilateral", "low-pass in voxels", "invert"),
        ("bilateral", "clahe", "min-max"),
        ("invert", "percentiles", "bilateral", "clahe"),
    ],
)
def test_steps_are_done_in_their_order(names, volume, tmp_path):
    truth = volume
    for name in names:
        truth = STEPS[name][1](truth)
    found = preprocess(volume, [STEPS[name][0] for name in names], scratch=tmp_path)
    assert not list(tmp_path.iterdir())  # what lies there meanwhile has no name
    assert np.array_equal(whole(found), truth.data)
    assert found.grid() == volume.grid()


def test_a_volume_on_the_disk_is_read_in_parts(volume):
    class Watched(io.LazyArray):
        planes = 0

        def _read(self, region):
            Watched.planes = max(Watched.planes, region[0].stop - region[0].start)
            return volume.data[region]

    lazy = volume.with_data(Watched(volume.shape, np.float32))
    steps = [STEPS[name][0] for name in ("bilateral", "percentiles")]
    assert np.array_equal(whole(preprocess(lazy, steps)), whole(preprocess(volume, steps)))
    assert Watched.planes == 3 + 2 * 2


def test_integers_and_one_slice():
    data = np.random.default_rng(1).integers(-100, 100, (1, 20, 21)).astype(np.int16)
    volume = Volume(data, voxel_size_A=10.0)
    steps = [Bilateral(sigma_vox=1.0, sigma_range=50.0), Invert(), Normalise(), Clahe(tile_vox=8, slice_wise=True)]
    found = whole(preprocess(volume, steps))
    assert found.shape == data.shape
    assert 0 <= found.min() < found.max() <= 1


def test_progress_tells_every_pass_and_can_cancel(volume):
    told = []

    def progress(stage, done, total, note=""):
        told.append((stage, done, total))

    preprocess(volume, [Invert(), Clahe(tile_vox=8)], progress=progress)
    stages = list(dict.fromkeys(stage for stage, *_ in told))
    assert stages == ["filter", "percentiles", "percentiles, again", "tile histograms"]
    assert all((stage, 23, 23) in told for stage in stages)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bilateral(sigma_vox=0, sigma_range=1), "sigma_vox"),
        (lambda: Bilateral(sigma_vox=1, sigma_range=np.nan), "sigma_range"),
        (lambda: LowPass(), "sigma_vox or resolution_A"),
        (lambda: LowPass(sigma_vox=1, resolution_A=40), "sigma_vox or resolution_A"),
        (lambda: LowPass(resolution_A=np.inf), "finite"),
        (lambda: Normalise(low=50, high=50), "low < high"),
        (lambda: Clahe(tile_vox=0), "tile_vox"),
        (lambda: Clahe(clip_limit=2), "clip_limit"),
        (lambda: Clahe(percentiles=(99, 1)), "low < high"),
    ],
)
def test_impossible_settings_are_told_before_any_work(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_what_a_volume_does_not_allow(volume):
    flat = volume.with_data(np.zeros(volume.shape, np.float32))
    for step in (Normalise(), Clahe()):
        with pytest.raises(InputError, match="one grey value has no range"):
            preprocess(flat, [step])
    with pytest.raises(InputError, match="two voxels"):
        preprocess(volume, [LowPass(resolution_A=12)])
    with pytest.raises(InputError, match="at most 20"):
        preprocess(volume, [LowPass(sigma_vox=21)])
