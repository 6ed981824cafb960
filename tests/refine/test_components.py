# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cryoet_engine._checks import InputError
from cryoet_engine.refine import components, remove_dust
from cryoet_engine.volume import SoftSegmentation

CLASSES = ("background", "membrane", "spikes")


def two_balls(dtype: str = "uint8") -> SoftSegmentation:
    """A ball of radius 6 with a knob of another class on it, a ball of radius 2, each with a soft rim; 10 Å voxels."""
    z, y, x = np.ogrid[:20, :20, :40]
    membrane = np.zeros((20, 20, 40), np.float32)
    for centre, radius in ((10, 6), (32, 2)):
        distance = np.sqrt((z - 10.0) ** 2 + (y - 10.0) ** 2 + (x - centre) ** 2)
        membrane = np.maximum(membrane, np.clip(0.5 + (radius - distance) / 4, 0, 1))
    spikes = np.zeros_like(membrane)
    spikes[10, 10, 15:19], membrane[10, 10, 15:19] = 1, 0
    unit = 255 if dtype == "uint8" else 1
    data = np.stack([1 - membrane - spikes, membrane, spikes]) * unit
    stored = (np.rint(data) if unit > 1 else data).astype(dtype)
    return SoftSegmentation(stored, CLASSES, voxel_size_A=10)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_small_particles_go_with_their_rims_and_large_ones_stay_whole(dtype: str) -> None:
    before = two_balls(dtype)
    after = remove_dust(before, min_diameter_A=60)
    np.testing.assert_array_equal(after.data[..., :22], before.data[..., :22])  # the knob of another class, too
    assert (after.data[1:, ..., 30:] == 0).all()
    assert (after.data[0, ..., 30:] == before.unit).all()
    np.testing.assert_allclose(
        after.data.astype(float).sum(axis=0), before.unit, atol=1.01 if dtype == "uint8" else 1e-5
    )
    assert after.voxel_size_A == before.voxel_size_A


def test_the_diameter_is_physical() -> None:
    before = two_balls()
    np.testing.assert_array_equal(remove_dust(before, min_diameter_A=20).data, before.data)
    coarse = SoftSegmentation(before.data, CLASSES, voxel_size_A=30)
    np.testing.assert_array_equal(remove_dust(coarse, min_diameter_A=60).data, before.data)


def test_all_dust_leaves_background() -> None:
    after = remove_dust(two_balls(), min_diameter_A=1e6)
    assert (after.data[0] == 255).all()
    assert not after.data[1:].any()


def test_without_a_voxel_size_a_diameter_means_nothing() -> None:
    unknown = SoftSegmentation(two_balls().data, CLASSES, voxel_size_status="unknown")
    with pytest.raises(InputError, match="voxel size: expected a known one"):
        remove_dust(unknown, min_diameter_A=60)


@pytest.mark.parametrize("diameter", [0, -1, float("nan"), float("inf")])
def test_a_diameter_is_a_number_above_zero(diameter: float) -> None:
    with pytest.raises(InputError, match="min_diameter_A"):
        remove_dust(two_balls(), min_diameter_A=diameter)


def noise(shape: tuple[int, int, int], seed: int = 0) -> SoftSegmentation:
    """Islands of all sizes and shapes: smooth noise above a threshold, two classes of it."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    foreground = np.clip(0.5 + (field / field.std() - 1.2) / 2, 0, 1)
    share = np.random.default_rng(seed + 1).random(shape) > 0.5
    data = np.stack([1 - foreground, foreground * share, foreground * ~share])
    return SoftSegmentation(np.rint(data * 255).astype(np.uint8), CLASSES, voxel_size_A=(10, 11, 12))


def whole(segmentation: SoftSegmentation, min_diameter_A: float) -> np.ndarray:
    """The definition, with everything in memory at once."""
    sizes = segmentation.voxel_size_A
    labels, n = ndimage.label(segmentation.data.argmax(0) > 0, np.ones((3, 3, 3)))
    volume = np.bincount(labels.ravel(), minlength=n + 1) * np.prod(sizes)
    large = volume >= np.pi / 6 * min_diameter_A**3
    large[0] = False
    dust, kept = (labels > 0) & ~large[labels], large[labels]
    far = np.full(labels.shape, np.inf)
    to_dust, to_kept = (
        ndimage.distance_transform_edt(~one, sampling=sizes) if one.any() else far for one in (dust, kept)
    )
    gone = (to_dust <= min_diameter_A) & (to_dust < to_kept)
    return np.where(gone, np.array([255, 0, 0], np.uint8)[:, None, None, None], segmentation.data)


@pytest.mark.parametrize("diameter", [25, 45, 70, 400])
@pytest.mark.parametrize("slices", [3, 8, 64])
@pytest.mark.parametrize("block", [2, 64])
def test_slab_by_slab_is_the_whole(diameter: float, slices: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Particles that reach over several slabs, and join only in a later one, are one."""
    monkeypatch.setattr(components, "_SLICES", slices)
    monkeypatch.setattr(components, "_BLOCK", block)
    before = noise((37, 30, 26))
    expected = whole(before, diameter)
    assert 0 < (expected != before.data).any(axis=0).sum() < expected[0].size or diameter == 400
    stored, labels = np.full(before.data.shape, 77, np.uint8), np.zeros(before.shape, np.uint8)
    after = remove_dust(before, min_diameter_A=diameter, out=stored, labels=labels)
    assert after.data is stored
    np.testing.assert_array_equal(stored, expected)
    np.testing.assert_array_equal(labels, expected.argmax(0) + 1)


def test_pieces_that_meet_in_the_last_slice_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_SLICES", 2)
    data = np.zeros((2, 12, 5, 9), np.uint8)
    data[1, :, 2, 1] = data[1, :, 2, 7] = data[1, 11, 2, 1:8] = 255  # a U of 29 voxels
    data[0] = 255 - data[1]
    soft = SoftSegmentation(data, ("background", "u"), voxel_size_A=10)
    edge = (6 * 29 * 1000 / np.pi) ** (1 / 3)  # the diameter of a sphere of 29 voxels
    np.testing.assert_array_equal(remove_dust(soft, min_diameter_A=edge - 0.01).data, data)
    assert not remove_dust(soft, min_diameter_A=edge + 0.01).data[1].any()


def test_reads_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_SLICES", 4)
    before = noise((40, 10, 10))

    class Lazy:
        shape, dtype = before.data.shape, before.data.dtype

        def __getitem__(self, key: Any) -> Any:
            part = before.data[key]
            assert part.shape[1] <= 8
            return part

    lazy = SoftSegmentation(Lazy(), CLASSES, voxel_size_A=before.voxel_size_A)
    np.testing.assert_array_equal(remove_dust(lazy, min_diameter_A=35).data, whole(before, 35))


def test_many_specks_cost_what_the_volume_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distance transform a speck, each of a box around it, would have 89 times the volume's voxels."""
    lit = np.random.default_rng(0).random((24, 90, 80)) < 0.01
    lit[:, 30:50, 20:40] = True  # what stays
    soft = SoftSegmentation(np.stack([~lit, lit, 0 * lit]).astype(np.uint8) * 255, CLASSES, voxel_size_A=(10, 11, 12))
    transformed, distance = 0, components._distance

    def counted(particle: np.ndarray, size: Any) -> Any:
        nonlocal transformed
        transformed += particle.size
        return distance(particle, size)

    monkeypatch.setattr(components, "_distance", counted)
    found = remove_dust(soft, min_diameter_A=60).data
    np.testing.assert_array_equal(found, whole(soft, 60))
    assert (found != soft.data).any()
    assert transformed < 4 * lit.size  # measured: 1.9
