# SPDX-License-Identifier: MIT
"""Training on a card, in every precision, and where its memory ends."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

import cryoet_engine as ce
from cryoet_engine.training import TrainingSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")]

SETTINGS = TrainingSettings(patch=32, batch=4, patches_per_epoch=16, validation_patches=2, device="cuda")


def _pair() -> tuple[ce.Volume, ce.Volume]:
    rng = np.random.default_rng(0)
    labels = np.ones((48, 96, 96), np.uint8)
    labels[:, 20:60, 30:70] = 2
    return ce.Volume((labels * 2 + rng.normal(size=labels.shape)).astype(np.float32)), ce.Volume(labels)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("threads", [0, 3])
def test_it_learns_in_every_precision(precision: Any, threads: int) -> None:
    settings = dataclasses.replace(SETTINGS, precision=precision, loader_threads=threads)
    model = ce.create_model("unet3d", preset="small", out_channels=2)
    result = ce.train(model, [_pair()], steps=40, settings=settings)
    assert result.curve[-1]["loss"] < 0.7 * result.curve[0]["loss"]
    assert result.best_f1 > 0.8
    assert all(parameter.dtype == torch.float32 and parameter.is_cuda for parameter in model.parameters())


def test_a_batch_that_finds_no_room_is_computed_in_parts() -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    settings = dataclasses.replace(SETTINGS, batch=16, validation_share=0.0, precision="float32")
    ce.train(ce.create_model("unet3d", preset="small", out_channels=2), [_pair()], steps=1, settings=settings)
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
        model = ce.create_model("unet3d", preset="small", out_channels=2)
        result = ce.train(model, [_pair()], steps=2, settings=settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert math.isfinite(result.curve[-1]["loss"])
    assert "memory did not hold a batch of 16" in result.notes[0]
