# SPDX-License-Identifier: MIT
"""Pixel classification: strokes to a forest, a forest to soft pseudo labels."""

from __future__ import annotations

from .classifier import PixelClassifier, SegmentationOutput
from .storage import TrainingRecord

__all__ = ["PixelClassifier", "SegmentationOutput", "TrainingRecord"]
