# SPDX-License-Identifier: MIT
"""Training: data, augmentation, losses, metrics, trainer. `training.metrics` needs no torch, so names load lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.checkpoint import ModelInfo, load_model, save_model
    from .augmentation import Augmentation
    from .metrics import ConfusionMatrix, Evaluation, Evaluator
    from .settings import TrainingSettings
    from .stepper import TrainingDivergedError
    from .trainer import TrainingResult, train

_PLACES = {
    "Augmentation": ".augmentation",
    "ConfusionMatrix": ".metrics",
    "Evaluation": ".metrics",
    "Evaluator": ".metrics",
    "ModelInfo": "..models.checkpoint",
    "TrainingDivergedError": ".stepper",
    "TrainingResult": ".trainer",
    "TrainingSettings": ".settings",
    "load_model": "..models.checkpoint",
    "save_model": "..models.checkpoint",
    "train": ".trainer",
}

__all__ = [
    "Augmentation",
    "ConfusionMatrix",
    "Evaluation",
    "Evaluator",
    "ModelInfo",
    "TrainingDivergedError",
    "TrainingResult",
    "TrainingSettings",
    "load_model",
    "save_model",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
