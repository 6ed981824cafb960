# SPDX-License-Identifier: MIT
"""Pixel classification: strokes to a forest, a forest to soft pseudo labels."""

from __future__ import annotations

from .classifier import PixelClassifier
from .importance import FeatureImportance
from .outputs import SegmentationOutput, VolumeOutput
from .storage import TrainingRecord
from .suggest import Suggestion
from .uncertainty import entropy, hard_labels, margin

__all__ = [
    "FeatureImportance",
    "PixelClassifier",
    "SegmentationOutput",
    "Suggestion",
    "TrainingRecord",
    "VolumeOutput",
    "entropy",
    "hard_labels",
    "margin",
]
