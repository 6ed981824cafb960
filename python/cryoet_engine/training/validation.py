# SPDX-License-Identifier: MIT
"""How well a network does, after an epoch, on voxels that were held back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..models.network import SegmentationModel
from ..volume import Float32Array
from .losses import as_probabilities, loss
from .metrics import CalibrationHistogram, ConfusionMatrix, class_mean, weighted_mean

Array = npt.NDArray[Any]


@torch.inference_mode()
def validate(
    model: SegmentationModel,
    patches: Iterable[tuple[Float32Array, Array]],
    forward: Callable[[Tensor], Tensor],
    kind: str,
    class_weights: Tensor | None,
    *,
    total: Callable[[Array], Array],
) -> dict[str, Any]:
    """Scores of a network, in evaluation mode, on patches as `TrainingData.read_validation` gives them.

    forward: from (1, 1, z, y, x) to raw outputs. kind, class_weights: of the loss.
    total: sums counts over processes, each of which has its own patches.

    Returns, over labelled voxels: "validation_loss", "accuracy"; "f1" and "iou", a list of one a class, and their class
    means "mean_f1" and "mean_iou"; "weighted_f1", each class counting by its voxels; "calibration_error" (expected, of
    networks whose outputs are probabilities). NaN where there is nothing to judge.
    """
    n = model.config.out_channels
    probable = model.config.activation in ("softmax", "sigmoid")
    confusion, calibration = ConfusionMatrix(n), CalibrationHistogram()
    losses = np.zeros(2)  # times labelled voxels; labelled voxels
    device = next(model.parameters()).device
    for voxels, truth in patches:
        x, target = torch.from_numpy(voxels[None, None]).to(device), torch.from_numpy(truth[None])
        outputs = forward(x)
        probability = as_probabilities(target, n)
        known = probability.sum(1) > 0
        value = loss(kind, model, outputs, target.to(device), class_weights)
        count = int(known.sum())
        losses += value.item() * count, count
        classes = torch.where(known, probability.argmax(1), -1).numpy()
        found = model.activate(outputs)
        confusion.update(classes, found.argmax(1).cpu().numpy())
        if probable:
            calibration.update(classes[0], found[0].cpu().numpy())
    confusion.counts, calibration.counts, losses = total(confusion.counts), total(calibration.counts), total(losses)
    f1, iou = confusion.f1(), confusion.iou()
    return {
        "validation_loss": float(losses[0] / losses[1]) if losses[1] else math.nan,
        "accuracy": confusion.accuracy(),
        "f1": f1.tolist(),
        "mean_f1": class_mean(f1),
        "weighted_f1": weighted_mean(f1, confusion.voxels()),
        "iou": iou.tolist(),
        "mean_iou": class_mean(iou),
        "calibration_error": calibration.error(),
    }
