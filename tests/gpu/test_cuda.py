# SPDX-License-Identifier: MIT
"""What runs on a card: needs numpy, torch and pytest only, so that a machine without the file libraries can run it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cryoet_engine as ce
from cryoet_engine.training import TrainingSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA card"),
]


def shells(seed: int) -> tuple[ce.Volume, ce.Volume]:
    """A shell in noise, protein dark, and its labels 1 (background) and 2 (shell)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[:64, :64, :64]
    radius = np.sqrt((z - 32.0) ** 2 + (y - 32.0) ** 2 + (x - 32.0) ** 2)
    labels = (1 + ((radius > 16) & (radius < 22))).astype(np.uint8)
    grey = np.where(labels == 2, -2.0, 0.0) + rng.normal(0, 0.7, labels.shape)
    return ce.Volume(grey.astype(np.float32)), ce.Volume(labels)


def test_training_on_the_card_learns_and_carries_over() -> None:
    model = ce.create_model("unet3d", preset="small", out_channels=2)
    ce.train(model, [shells(0)], steps=150, settings=TrainingSettings(patch=32, batch=4, device="cuda"))
    volume, truth = shells(1)
    found = ce.segment(model, volume, device="cuda").data.argmax(axis=0) == 1
    shell = truth.data == 2
    assert 2 * (found & shell).sum() / (found.sum() + shell.sum()) > 0.8


def test_segmentation_on_the_card_equals_that_on_the_cpu() -> None:
    model = ce.create_model("unet3d", preset="small", out_channels=2, activation="softmax")
    volume, _ = shells(2)
    here, there = (
        ce.segment(model, volume, tile=48, overlap=16, dtype="float32", device=device).data
        for device in ("cpu", "cuda")
    )
    # bfloat16 convolutions keep eight bits: probabilities agree to a few hundredths.
    assert np.abs(here - there).max() < 0.05


def test_batches_orientations_and_labels_on_the_card() -> None:
    """What the batch is changes nothing but rounding, and labels are those of the blended sums."""
    model = ce.create_model("unet3d", preset="small", out_channels=2, activation="softmax")
    volume, _ = shells(2)
    found = []
    for batch in (1, 3):
        maps = {"labels": np.zeros(volume.shape, np.uint8), "variance": np.full(volume.shape, np.nan, np.float32)}
        how = {"tile": 32, "overlap": 16, "tta": "turn", "dtype": "float32", "maps": maps, "batch": batch}
        data = ce.segment(model, volume, device="cuda", **how).data
        np.testing.assert_array_equal(maps["labels"], data.argmax(0) + 1)
        assert 0 <= maps["variance"].min() <= maps["variance"].max() <= 0.25
        found.append(data)
    assert np.abs(found[0] - found[1]).max() < 0.02
