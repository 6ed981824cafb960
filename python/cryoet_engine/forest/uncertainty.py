# SPDX-License-Identifier: MIT
"""What a voxel's class probabilities say beyond themselves: how unsure the forest is, and which class it would name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from ..volume import Float32Array


def entropy(probabilities: Float32Array) -> Float32Array:
    """Entropy of the class probabilities over log K (Shannon 1948): 0 sure of one class, 1 all K equally likely.

    probabilities: float32 (class, ...) that sum to 1. Returns float32 (...).
    """
    total = np.zeros(probabilities.shape[1:], np.float32)
    for share in probabilities:
        with np.errstate(divide="ignore", invalid="ignore"):
            term = np.log(share)
            term *= share
        total -= np.where(share > 0, term, np.float32(0))  # p log p is 0 at 0
    total /= np.float32(math.log(max(len(probabilities), 2)))
    return np.clip(total, 0, 1, out=total)


def margin(probabilities: Float32Array) -> Float32Array:
    """The most probable class's probability minus the next one's: 1 sure, 0 torn between two; high is sure.

    probabilities: float32 (class, ...). Returns float32 (...).
    """
    first, second = _two_largest(probabilities)
    first -= second
    return first


def hard_labels(probabilities: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The most probable class of (class, ...), counted from 1 as strokes are; of equals the first.

    That is ilastik's "Simple Segmentation". Works on stored probabilities (uint8, uint16) as well, where rounding may
    make equals of what was not.
    """
    best = np.array(probabilities[0])
    label = np.ones(best.shape, np.uint8)
    for k, share in enumerate(probabilities[1:], start=2):
        label[share > best] = k
        np.maximum(best, share, out=best)
    return label


def _two_largest(probabilities: Float32Array) -> tuple[Float32Array, Float32Array]:
    first = np.array(probabilities[0])
    second = np.zeros_like(first)
    for share in probabilities[1:]:
        np.maximum(second, np.minimum(first, share), out=second)
        np.maximum(first, share, out=first)
    return first, second


#: What can be had beside the probabilities, voxel by voxel.
MAPS: dict[str, Callable[[Float32Array], npt.NDArray[Any]]] = {
    "entropy": entropy,
    "margin": margin,
    "labels": hard_labels,
}


def map_of(name: str) -> Callable[[Float32Array], npt.NDArray[Any]]:
    """The function behind a map's name."""
    if name not in MAPS:
        raise input_error("predict_proba", "maps", expected=f"names out of {', '.join(MAPS)}", got=name)
    return MAPS[name]
