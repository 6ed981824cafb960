# SPDX-License-Identifier: MIT
"""Projection and back-projection on a card against the CPU: needs numpy, CuPy and pytest only."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine import projection

cupy = pytest.importorskip("cupy")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cupy.cuda.is_available(), reason="CuPy sees no NVIDIA card"),
]

ANGLES = [0, 11, -23.5, 45, -45, 45.5, -46, 60, -60, 77, 89.5, 90, -90]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Positions, weights and the order of additions are the CPU's; both fuse multiply and add.
@pytest.mark.parametrize("shape", [(60, 91, 130), (130, 35, 60), (1, 300, 200), (5, 1, 40), (40, 2, 1)])
def test_both_are_the_cpus(shape):
    v = noise(shape)
    views = projection.project(v, ANGLES)
    there = projection.project(cupy.asarray(v), ANGLES)
    assert isinstance(there, cupy.ndarray)
    assert np.abs(there.get() - views).max() < 3e-5
    back = projection.back_project(cupy.asarray(views), ANGLES, shape)
    assert np.abs(back.get() - projection.back_project(views, ANGLES, shape)).max() < 3e-5 * np.abs(views).max()


def test_a_box_is_the_whole_bit_for_bit():
    views, shape = cupy.asarray(noise((len(ANGLES), 70, 80), 1)), (75, 70, 90)
    whole = projection.back_project(views, ANGLES, shape).get()
    for box in (
        (slice(3, 60), slice(31, 66), slice(7, 81)),
        (slice(70, 75), slice(None), slice(0, 1)),
    ):
        assert np.array_equal(projection.back_project(views, ANGLES, shape, box=box).get(), whole[box])
