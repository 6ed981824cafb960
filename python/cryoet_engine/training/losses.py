# SPDX-License-Identifier: MIT
"""What a network is asked to make small, on hard and on soft targets; voxels without a label do not count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.network import SegmentationModel
from .settings import Loss


def as_probabilities(target: Tensor, n_classes: int) -> Tensor:
    """Class indices (batch, z, y, x), below 0 unlabelled, as (batch, class, z, y, x); soft targets as they are."""
    if target.is_floating_point():
        return target
    classes = torch.arange(n_classes, device=target.device)[:, None, None, None]
    return (target[:, None] == classes).float()


def loss(kind: Loss, model: SegmentationModel, outputs: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Mean loss over labelled voxels.

    kind: "cross_entropy" of softmax, or, for a network whose activation is sigmoid, binary of each class;
        "mse" between the activated outputs and the target.
    outputs: raw, (batch, class, z, y, x). target: indices or probabilities, see `LabelledTomogram.read`.
    weights: one a class, or None.
    """
    outputs = outputs.float()
    if kind == "cross_entropy" and model.config.activation != "sigmoid" and not target.is_floating_point():
        total = F.cross_entropy(outputs, target, weights, ignore_index=-1, reduction="sum")
        labelled = target >= 0
        return total / (labelled.sum() if weights is None else weights[target[labelled]].sum()).clamp_min(1e-6)
    target = as_probabilities(target, outputs.shape[1])
    weighted = target if weights is None else target * weights[:, None, None, None]
    labelled = weighted.sum(1)
    if kind == "cross_entropy" and model.config.activation != "sigmoid":
        total = -(weighted * outputs.log_softmax(1)).sum()
    elif kind == "cross_entropy":
        each = F.binary_cross_entropy_with_logits(outputs, target, reduction="none").mean(1)
        total = (each * labelled).sum()
    else:
        total = ((model.activate(outputs) - target).square().mean(1) * labelled).sum()
    return total / labelled.sum().clamp_min(1e-6)
