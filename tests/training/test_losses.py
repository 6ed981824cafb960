# SPDX-License-Identifier: MIT
"""Losses against float64 arithmetic by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cryoet_engine.models import create_model
from cryoet_engine.training.losses import as_probabilities, loss

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(2, 3, 4, 5, 6))
INDEX = RNG.integers(-1, 3, (2, 4, 5, 6))
SOFT = RNG.dirichlet([1, 1, 1], (2, 4, 5, 6)).transpose(0, 4, 1, 2, 3) * (INDEX >= 0)[:, None]
WEIGHTS = np.array([0.3, 0.7, 2.0])


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("target", [INDEX, SOFT])
@pytest.mark.parametrize(
    ("kind", "activation"),
    [("cross_entropy", "softmax"), ("cross_entropy", "sigmoid"), ("mse", "none"), ("mse", "softmax")],
)
def test_against_numpy(kind: Any, activation: Any, target: Any, weights: Any) -> None:
    truth = target if target.ndim == 5 else (target[:, None] == np.arange(3)[:, None, None, None]).astype(float)
    scaled = truth * (1 if weights is None else weights[:, None, None, None])
    per_voxel = scaled.sum(1)
    sigmoid = 1 / (1 + np.exp(-OUTPUTS))
    if kind == "mse":
        each = ((_softmax(OUTPUTS) if activation == "softmax" else OUTPUTS) - truth) ** 2
        expected = (each.mean(1) * per_voxel).sum() / per_voxel.sum()
    elif activation == "sigmoid":
        each = -(truth * np.log(sigmoid) + (1 - truth) * np.log(1 - sigmoid))
        expected = (each.mean(1) * per_voxel).sum() / per_voxel.sum()
    else:
        expected = -(scaled * np.log(_softmax(OUTPUTS))).sum() / per_voxel.sum()
    model = create_model("unet3d", preset="small", out_channels=3, activation=activation)
    given = torch.from_numpy(target) if target.ndim == 4 else torch.from_numpy(target.astype(np.float32))
    w = None if weights is None else torch.from_numpy(weights.astype(np.float32))
    got = loss(kind, model, torch.from_numpy(OUTPUTS), given, w)
    assert got.item() == pytest.approx(expected, rel=1e-5)  # float32; measured: 2e-7


def test_one_hot_soft_targets_are_hard_targets() -> None:
    model = create_model("unet3d", preset="small", out_channels=3)
    index = torch.from_numpy(INDEX)
    outputs = torch.from_numpy(OUTPUTS)
    hard, soft = (loss("cross_entropy", model, outputs, t, None) for t in (index, as_probabilities(index, 3)))
    assert hard.item() == pytest.approx(soft.item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_no_label_at_all_is_no_loss(kind: Any) -> None:
    model = create_model("unet3d", preset="small", out_channels=3)
    outputs = torch.zeros(1, 3, 2, 2, 2, requires_grad=True)
    for target in (torch.full((1, 2, 2, 2), -1), torch.zeros(1, 3, 2, 2, 2)):
        value = loss(kind, model, outputs, target, None)
        value.backward()  # type: ignore[no-untyped-call]
        assert value.item() == 0
        assert outputs.grad is not None
        assert not outputs.grad.any()
