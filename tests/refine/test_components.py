# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine._checks import InputError
from cryoet_engine.refine import remove_dust
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


@pytest.mark.parametrize("diameter", [0, -1, float("nan"), float("inf")])
def test_a_diameter_is_a_number_above_zero(diameter: float) -> None:
    with pytest.raises(InputError, match="min_diameter_A"):
        remove_dust(two_balls(), min_diameter_A=diameter)
