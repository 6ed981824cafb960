# SPDX-License-Identifier: MIT
"""A tomogram whose projections are made on a card, here an emulated one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from emulated import EmulatedDevice

from cryoet_engine.cuda import arrays
from cryoet_engine.simulate import VirionRecipe, simulate, tomogram

RECIPE = VirionRecipe(
    shape=(16, 12, 20), n_virions=1, tilt_step_deg=20, n_gold=0, clutter_per_um3=0, dtype="float32", seed=2
)


@pytest.fixture
def launched(kernels, monkeypatch):
    """The kernels that were launched on the card."""
    device = EmulatedDevice(kernels)
    names = []
    launch = device.launch
    monkeypatch.setattr(device, "launch", lambda job, stream: (names.append(job.kernel), launch(job, stream))[1])
    monkeypatch.setattr(arrays, "card", lambda where: device)
    monkeypatch.setattr(tomogram, "choose_device", lambda name, where: device if name == "cuda" else None)
    return names


@pytest.mark.parametrize("method", ["wbp", "sirt"])
def test_the_card_makes_the_same_tomogram(launched, method):
    recipe = dataclasses.replace(RECIPE, reconstruction=method, sirt_iterations=2)
    here = simulate(recipe).tomogram.numpy()
    assert not launched
    there = simulate(recipe, device="cuda").tomogram.numpy()
    assert {"project", "back_project"} == set(launched)
    # Counts are drawn from expectations that differ in their last bits: one in a million may come out otherwise.
    assert np.abs(there - here).max() < 1e-3 * here.std()  # measured 8e-7
