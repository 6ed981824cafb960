# SPDX-License-Identifier: MIT
"""How well classes were found, counted in integers so that a volume of any size can be judged block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import input_error


class ConfusionMatrix:
    """Counts of (truth, prediction). Rows of `counts` (int64, n_classes x n_classes) are the truth."""

    def __init__(self, n_classes: int) -> None:
        if n_classes < 1:
            raise input_error("ConfusionMatrix", "n_classes", expected="at least 1", got=n_classes)
        self.counts = np.zeros((n_classes, n_classes), np.int64)

    def update(self, truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> None:
        """Add voxels: two integer arrays of one shape. Truth below 0 is unlabelled and left out.

        Errors: InputError for arrays of different shape, of no integer type, or with a class of n_classes or above.
        """
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        if truth.shape != prediction.shape:
            raise input_error("ConfusionMatrix", "prediction", expected=f"shape {truth.shape}", got=prediction.shape)
        if truth.dtype.kind not in "iu" or prediction.dtype.kind not in "iu":
            raise input_error(
                "ConfusionMatrix", "dtype", expected="integer classes", got=f"{truth.dtype} and {prediction.dtype}"
            )
        n = len(self.counts)
        labelled = truth >= 0
        true, predicted = truth[labelled].astype(np.int64), prediction[labelled].astype(np.int64)
        if true.size and (true.max() >= n or predicted.max() >= n or predicted.min() < 0):
            got = f"truth up to {true.max()}, prediction from {predicted.min()} to {predicted.max()}"
            raise input_error("ConfusionMatrix", "classes", expected=f"0 to {n - 1}", got=got)
        self.counts += np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)

    def f1(self) -> npt.NDArray[np.float64]:
        """F1 (Dice) of each class, 2 TP / (2 TP + FP + FN); NaN where a class is in neither truth nor prediction."""
        both = self.counts.sum(0) + self.counts.sum(1)
        f1 = np.full(len(both), np.nan)
        np.divide(2 * np.diag(self.counts), both, out=f1, where=both > 0)
        return f1

    def mean_f1(self) -> float:
        """The mean of `f1` over the classes that were met, each counting the same; NaN if none was."""
        f1 = self.f1()
        met = ~np.isnan(f1)
        return float(f1[met].mean()) if met.any() else float("nan")

    def accuracy(self) -> float:
        """The share of labelled voxels whose class was found; NaN if there were none."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")
