# SPDX-License-Identifier: MIT
"""Ridler and Calvard's iteration on the values themselves, in float64. Imports nothing of ours."""

from __future__ import annotations

import numpy as np


def iterated_threshold(values_0_255: np.ndarray) -> float | None:
    """Threshold in 0..1 of integer grey values 0..255, None if they are all equal."""
    values = np.asarray(values_0_255, np.float64).ravel()
    if values.min() == values.max():
        return None

    def settle(level: float) -> float:
        return float(np.clip(np.floor(level + 0.5), values.min() + 1, values.max()))

    level = settle(values.mean())
    for _ in range(10_000):
        following = settle((values[values < level].mean() + values[values >= level].mean()) / 2)
        if abs(following - level) < 1:
            return following / 255
        level = following
    raise AssertionError("did not settle")
