# SPDX-License-Identifier: MIT
"""How well classes were found, counted in integers so that a volume of any size can be judged block by block.

Each kind of count has `counts`, an int64 array to which `update` adds a block's voxels. Blocks, volumes of a data set
and processes are put together by adding their `counts`, in any order, to the same result to the last bit.

Per class a score is NaN where there is nothing to judge. Its two means are told apart by name, as papers (paper 5,
tables 2 and 3) mix them: the *class mean* counts every class that was met the same; the *weighted* one counts it as
often as it has voxels (or samples) in the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .._checks import input_error
from .._progress import Progress, silent
from ..tiling import blocks
from ..volume import Region, SoftSegmentation, Triple, Volume, probability_unit

Array: TypeAlias = npt.NDArray[Any]
Scores: TypeAlias = npt.NDArray[np.float64]

# Fixed point, so that sums are the same in any order. Confidences: float32's own step just below 1; up to 5e11 voxels.
_CONFIDENCE_UNIT = 1 << 24
# -log p of a voxel, rounded by at most 5e-7; up to 4e11 voxels.
_ENTROPY_UNIT = 1 << 20
_BLOCK = (32, 256, 256)


def class_mean(scores: npt.ArrayLike) -> float:
    """The mean over the classes that were met (not NaN), each counting the same; NaN if none was."""
    values = np.asarray(scores, np.float64)
    met = ~np.isnan(values)
    return float(values[met].mean()) if met.any() else math.nan


def weighted_mean(scores: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """The mean over classes, each counting by its weight: voxels of the truth, or samples. NaN if all are zero."""
    values, w = np.asarray(scores, np.float64), np.asarray(weights, np.float64)
    counted = (w > 0) & ~np.isnan(values)
    return float((values[counted] * w[counted]).sum() / w[counted].sum()) if counted.any() else math.nan


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Scores:
    """part / whole, NaN where whole is zero."""
    out = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=out, where=np.asarray(whole) > 0)
    return out


def _count_of_classes(n_classes: int, where: str) -> int:
    if n_classes < 1:
        raise input_error(where, "n_classes", expected="at least 1", got=n_classes)
    return n_classes


def _check_truth(truth: Array, n_classes: int, where: str) -> None:
    if truth.dtype.kind not in "iu":
        raise input_error(where, "dtype of the truth", expected="integer classes", got=truth.dtype)
    if truth.size and truth.max() >= n_classes:
        raise input_error(where, "classes", expected=f"0 to {n_classes - 1}", got=f"truth up to {truth.max()}")


def _check_probabilities(probability: Array, n_classes: int, shape: tuple[int, ...], where: str) -> float:
    """The stored value of probability one."""
    if probability.shape != (n_classes, *shape):
        raise input_error(where, "prediction", expected=f"shape {(n_classes, *shape)}", got=probability.shape)
    if probability.dtype.kind not in "uf":
        raise input_error(where, "prediction", expected="probabilities: floats, uint8, uint16", got=probability.dtype)
    unit = probability_unit(probability.dtype)
    if probability.dtype.kind == "f" and probability.size:
        low, high = float(probability.min()), float(probability.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # not NaN either
            raise input_error(where, "prediction", expected="probabilities in 0..1", got=f"{low:.4g} to {high:.4g}")
    return unit


class ConfusionMatrix:
    """Counts of (truth, prediction). Rows of `counts` (int64, n_classes x n_classes) are the truth."""

    def __init__(self, n_classes: int) -> None:
        n = _count_of_classes(n_classes, "ConfusionMatrix")
        self.counts = np.zeros((n, n), np.int64)

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

    def f1(self) -> Scores:
        """F1 (Dice) of each class, 2 TP / (2 TP + FP + FN); NaN where a class is in neither truth nor prediction."""
        return _ratio(2 * np.diag(self.counts), self.counts.sum(0) + self.counts.sum(1))

    def iou(self) -> Scores:
        """Intersection over union of each class, TP / (TP + FP + FN); NaN as in `f1`."""
        found = np.diag(self.counts)
        return _ratio(found, self.counts.sum(0) + self.counts.sum(1) - found)

    def voxels(self) -> npt.NDArray[np.int64]:
        """Labelled voxels of each class in the truth: the weights of a mean by voxels."""
        return np.asarray(self.counts.sum(1))

    def mean_f1(self) -> float:
        """The class mean of `f1`: the mean over the classes that were met, each counting the same; NaN if none was."""
        return class_mean(self.f1())

    def accuracy(self) -> float:
        """The share of labelled voxels whose class was found; NaN if there were none."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")


class ThresholdCounts:
    """Each class on its own (multi-label): found where its probability is above `threshold`.

    `counts`, int64 (n_classes, 4): true positives, false positives, false negatives, true negatives.
    """

    def __init__(self, n_classes: int, *, threshold: float = 0.5) -> None:
        n = _count_of_classes(n_classes, "ThresholdCounts")
        if not 0 < threshold < 1:
            raise input_error("ThresholdCounts", "threshold", expected="between 0 and 1", got=threshold)
        self.threshold = threshold
        self.counts = np.zeros((n, 4), np.int64)

    def update(self, truth: Array, prediction: Array) -> None:
        """Add voxels. prediction: probabilities (class, ...), floats or as stored (uint8, uint16).

        truth: classes (...), below 0 unlabelled; or probabilities (class, ...) to which the threshold is put, too, as
        in paper 1 (section 4.4), unlabelled where all are zero.

        Errors: InputError for shapes, types or values that do not fit.
        """
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        n = len(self.counts)
        if truth.dtype.kind in "iu" and truth.ndim == prediction.ndim - 1:
            _check_truth(truth, n, "ThresholdCounts")
            known = truth >= 0
            true = [truth == k for k in range(n)]
        else:
            above = self.threshold * _check_probabilities(truth, n, prediction.shape[1:], "ThresholdCounts")
            known = np.asarray((truth > 0).any(0))
            true = [one > above for one in truth]
        level = self.threshold * _check_probabilities(prediction, n, known.shape, "ThresholdCounts")
        total = np.count_nonzero(known)
        for k in range(n):
            found, there = (prediction[k] > level) & known, true[k] & known
            both, n_found, n_there = (np.count_nonzero(one) for one in (found & there, found, there))
            self.counts[k] += both, n_found - both, n_there - both, total - n_found - n_there + both

    def f1(self) -> Scores:
        """F1 (Dice) of each class; NaN where it is in neither truth nor prediction."""
        tp, fp, fn, _ = self.counts.T
        return _ratio(2 * tp, 2 * tp + fp + fn)

    def iou(self) -> Scores:
        """Intersection over union of each class; NaN as in `f1`."""
        tp, fp, fn, _ = self.counts.T
        return _ratio(tp, tp + fp + fn)


class CalibrationHistogram:
    """Whether a class named with a confidence of 0.8 is right 8 times of 10 (Guo et al. 2017, section 2).

    `counts`, int64 (n_bins, 3), of voxels whose largest probability lies in (i, i + 1] / n_bins: voxels, those whose
    most probable class is the true one, and the sum of those largest probabilities in units of 2^-24.
    """

    def __init__(self, n_bins: int = 15) -> None:
        if not 1 <= n_bins <= 1 << 16:
            raise input_error("CalibrationHistogram", "n_bins", expected="1 to 65536", got=n_bins)
        self.counts = np.zeros((n_bins, 3), np.int64)

    def update(self, truth: Array, prediction: Array) -> None:
        """Add voxels. truth: classes (...), below 0 unlabelled. prediction: probabilities (class, ...), floats or as
        stored. Errors: InputError for shapes, types or values that do not fit.
        """
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        _check_truth(truth, len(prediction), "CalibrationHistogram")
        unit = _check_probabilities(prediction, len(prediction), truth.shape, "CalibrationHistogram")
        known = truth >= 0
        named = prediction.argmax(0)[known]
        largest = prediction.max(0)[known]
        fixed = np.rint(np.clip(largest.astype(np.float64) / unit, 0, 1) * _CONFIDENCE_UNIT).astype(np.int64)
        # Stored numbers as they are: 17 / 255 is 1 / 15 and belongs to the first of 15 bins.
        part, whole = (
            (largest.astype(np.int64), int(unit)) if prediction.dtype.kind == "u" else (fixed, _CONFIDENCE_UNIT)
        )
        n = len(self.counts)
        which = np.maximum(-(-part * n // whole) - 1, 0)
        self.counts[:, 0] += np.bincount(which, minlength=n)
        self.counts[:, 1] += np.bincount(which[named == truth[known]], minlength=n)
        np.add.at(self.counts[:, 2], which, fixed)

    def accuracy(self) -> Scores:
        """The share of right ones in each bin; NaN where a bin is empty."""
        return _ratio(self.counts[:, 1], self.counts[:, 0])

    def confidence(self) -> Scores:
        """The mean confidence in each bin; NaN where a bin is empty."""
        return _ratio(self.counts[:, 2] / _CONFIDENCE_UNIT, self.counts[:, 0])

    def error(self) -> float:
        """Expected calibration error: mean over voxels of |accuracy - confidence| of their bin; NaN without any."""
        return weighted_mean(np.abs(self.accuracy() - self.confidence()), self.counts[:, 0])


class CrossEntropySum:
    """-log of the probability given to the true class. `counts`, int64 (2,): voxels, and the sum in units of 2^-20.

    Probabilities are held at half of what is stored as one step (1 / 510 for uint8), or 1e-7 for floats: a zero that
    was rounded, or was not, costs much and not everything.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2, np.int64)

    def update(self, truth: Array, prediction: Array) -> None:
        """Add voxels, as in `CalibrationHistogram`."""
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        _check_truth(truth, len(prediction), "CrossEntropySum")
        unit = _check_probabilities(prediction, len(prediction), truth.shape, "CrossEntropySum")
        least = 0.5 / unit if prediction.dtype.kind == "u" else 1e-7
        index = np.maximum(truth, 0).astype(np.intp)
        given = np.take_along_axis(prediction, index[None], 0)[0][truth >= 0]
        cost = -np.log(np.clip(given.astype(np.float64) / unit, least, 1))
        self.counts += given.size, np.rint(cost * _ENTROPY_UNIT).astype(np.int64).sum()

    def mean(self) -> float:
        """Cross-entropy in nats a labelled voxel; NaN without any."""
        return float(self.counts[1] / _ENTROPY_UNIT / self.counts[0]) if self.counts[0] else math.nan


class SurfaceDice:
    """The share of both surfaces that lies within a tolerance of the other (Nikolov et al. 2021, section "surface
    Dice"), counted in voxels: a surface voxel of a class has one of another class among its six neighbours.

    Exactly one of tolerance_nm, tolerance_vox. A distance is that between voxel centres.

    `counts`, int64 (n_classes, 4): surface voxels of the truth, those near the prediction's surface, surface voxels of
    the prediction, those near the truth's. Voxels are counted, not the areas of triangles, so that the numbers are
    integers; the border of the volume is no surface, and neither is that of what is labelled, for nobody knows what
    lies beyond.

    Blocks cut surfaces: `update` therefore takes a block with a `halo`, and counts the voxels of its core. The halo is
    what the tolerance reaches plus the neighbour that makes a surface, so blocks give what the whole volume gives.
    Volumes of a data set are added, each voxel counting the same: a large volume counts for more.
    """

    def __init__(
        self, n_classes: int, *, tolerance_nm: float | None = None, tolerance_vox: float | None = None
    ) -> None:
        n = _count_of_classes(n_classes, "SurfaceDice")
        given = [one for one in (tolerance_nm, tolerance_vox) if one is not None]
        if len(given) != 1 or not 0 <= given[0] < math.inf:
            got = f"tolerance_nm={tolerance_nm}, tolerance_vox={tolerance_vox}"
            raise input_error("SurfaceDice", "tolerance", expected="one of the two, from 0 on", got=got)
        self.tolerance_nm, self.tolerance_vox = tolerance_nm, tolerance_vox
        self.counts = np.zeros((n, 4), np.int64)

    def halo(self, voxel_size_A: Triple | None = None) -> int:
        """How many voxels beyond its core a block has to show. voxel_size_A: (z, y, x), needed for tolerance_nm."""
        sampling, tolerance = self._scale(voxel_size_A)
        return int(tolerance / min(sampling)) + 1

    def update(
        self, truth: Array, prediction: Array, core: Region | None = None, *, voxel_size_A: Triple | None = None
    ) -> None:
        """Add a block. truth: classes (z, y, x), below 0 unlabelled. prediction: classes (z, y, x).

        core: the part of the block that counts, by default all of it. voxel_size_A: (z, y, x) in Å, for tolerance_nm.

        Errors: InputError for shapes, types or classes that do not fit, or a voxel size that is missing.
        """
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        if truth.ndim != 3 or truth.shape != prediction.shape:
            got = f"{truth.shape} and {prediction.shape}"
            raise input_error("SurfaceDice", "blocks", expected="two of one shape (z, y, x)", got=got)
        for one in (truth, prediction):
            _check_truth(one, len(self.counts), "SurfaceDice")
        self._scale(voxel_size_A)
        core = core or (slice(None), slice(None), slice(None))
        known = truth >= 0
        for k in range(len(self.counts)):
            a, b = (_surface(one == k, known) for one in (truth, prediction))
            if not (a[core].any() or b[core].any()):
                continue
            near_b, near_a = self._near(b, voxel_size_A), self._near(a, voxel_size_A)
            counted = (a, a & near_b, b, b & near_a)
            self.counts[k] += [np.count_nonzero(one[core]) for one in counted]

    def dice(self) -> Scores:
        """Surface Dice of each class; NaN where it has a surface in neither truth nor prediction."""
        truth, found, prediction, right = self.counts.T
        return _ratio(found + right, truth + prediction)

    def _scale(self, voxel_size_A: Triple | None) -> tuple[Triple, float]:
        """Edges of a voxel and the tolerance, in one unit."""
        if self.tolerance_nm is None:
            return (1.0, 1.0, 1.0), self.tolerance_vox or 0.0
        if voxel_size_A is None or not min(voxel_size_A) > 0:
            raise input_error("SurfaceDice", "voxel_size_A", expected="(z, y, x) for tolerance_nm", got=voxel_size_A)
        # A whole number of voxels must not be missed by rounding.
        return voxel_size_A, self.tolerance_nm * 10 * (1 + 1e-9)

    def _near(self, surface: npt.NDArray[np.bool_], voxel_size_A: Triple | None) -> npt.NDArray[np.bool_]:
        """Voxels within the tolerance of a surface."""
        sampling, tolerance = self._scale(voxel_size_A)
        if not surface.any():
            return np.zeros_like(surface)
        distance: Array = ndimage.distance_transform_edt(~surface, sampling=sampling)
        return distance <= tolerance


def _surface(mask: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Labelled voxels of a mask with a labelled neighbour outside it."""
    outside = ~mask & known
    beside = np.zeros_like(mask)
    for axis in range(3):
        here, there = [slice(None)] * 3, [slice(None)] * 3
        here[axis], there[axis] = slice(1, None), slice(None, -1)
        for one, other in ((tuple(here), tuple(there)), (tuple(there), tuple(here))):
            beside[one] |= outside[other]
    return beside & mask & known


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A segmentation, or a data set of them, against the truth. Tuples have one number a class, NaN where it was not
    met. Labelled voxels alone count.

    voxels, found: of each class in the truth, and as the most probable class.
    f1, iou: by the most probable class. f1_at_threshold, iou_at_threshold: each class where its probability is above
    one half. surface_dice: at `surface_tolerance_nm`, or None where it was not asked for.
    accuracy: share of voxels whose class was found. calibration_error: expected, over 15 bins of confidence.
    cross_entropy: nats a voxel.
    """

    classes: tuple[str, ...]
    voxels: tuple[int, ...]
    found: tuple[int, ...]
    f1: tuple[float, ...]
    iou: tuple[float, ...]
    f1_at_threshold: tuple[float, ...]
    iou_at_threshold: tuple[float, ...]
    surface_dice: tuple[float, ...] | None
    surface_tolerance_nm: float | None
    accuracy: float
    calibration_error: float
    cross_entropy: float

    #: The scores that are given for each class.
    PER_CLASS = ("f1", "iou", "f1_at_threshold", "iou_at_threshold", "surface_dice")

    def class_mean(self, score: str) -> float:
        """The mean of a score over classes that were met, each counting the same."""
        return class_mean(getattr(self, score))

    def weighted_mean(self, score: str, weights: Sequence[float] | None = None) -> float:
        """The mean of a score over classes, by their voxels in the truth, or by other weights (samples)."""
        return weighted_mean(getattr(self, score), self.voxels if weights is None else weights)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; NaN is None."""

        def number(value: float) -> float | None:
            return None if math.isnan(value) else value

        out: dict[str, Any] = {
            "kind": "evaluation",
            "classes": list(self.classes),
            "voxels": list(self.voxels),
            "found": list(self.found),
        }
        for score in self.PER_CLASS:
            values = getattr(self, score)
            out[score] = values and {
                "classes": [number(value) for value in values],
                "class_mean": number(self.class_mean(score)),
                "weighted_mean": number(self.weighted_mean(score)),
            }
        out["surface_tolerance_nm"] = self.surface_tolerance_nm
        return out | {name: number(getattr(self, name)) for name in ("accuracy", "calibration_error", "cross_entropy")}


class Evaluator:
    """All counts of a data set together.

    classes: names. surface_tolerance_nm: of surface Dice, which takes longer than all the rest; None leaves it out.
    """

    def __init__(self, classes: Sequence[str], *, surface_tolerance_nm: float | None = None) -> None:
        n = len(classes)
        self.classes = tuple(classes)
        self.confusion, self.threshold = ConfusionMatrix(n), ThresholdCounts(n)
        self.calibration, self.entropy = CalibrationHistogram(), CrossEntropySum()
        self.surface = None if surface_tolerance_nm is None else SurfaceDice(n, tolerance_nm=surface_tolerance_nm)

    def add(
        self, segmentation: SoftSegmentation, truth: Volume, *, truth_from: int = 1, progress: Progress = silent
    ) -> None:
        """Add a tomogram's segmentation, block by block; both may be larger than memory.

        truth: whole numbers: `truth_from` for the first class, and so on; below that unlabelled. The simulator's truth
        counts from 0, strokes and label files from 1.

        Errors: InputError for shapes that differ, voxels that are no whole numbers, or numbers of no class.
        """
        if len(segmentation.classes) != len(self.classes):
            got = ", ".join(segmentation.classes)
            raise input_error("evaluate", "classes", expected=f"{', '.join(self.classes)}", got=got)
        if truth.shape != segmentation.shape:
            raise input_error(
                "evaluate", "truth", expected=f"the segmentation's shape {segmentation.shape}", got=truth.shape
            )
        size = truth.voxel_size_A if truth.voxel_size_status != "unknown" else segmentation.voxel_size_A
        halo = 0 if self.surface is None else self.surface.halo(size)
        parts = list(blocks(truth.shape, _BLOCK, halo))
        for done, part in enumerate(parts, start=1):
            true = self._classes(truth, part.padded, truth_from)
            stored = np.asarray(segmentation.data[(slice(None), *part.padded)])
            most, core = stored.argmax(0), part.inner
            if self.surface is not None:
                self.surface.update(true, most, core, voxel_size_A=size)
            inner = stored[(slice(None), *core)]
            self.confusion.update(true[core], most[core])
            self.threshold.update(true[core], inner)
            self.calibration.update(true[core], inner)
            self.entropy.update(true[core], inner)
            progress("evaluation", done, len(parts))

    def result(self) -> Evaluation:
        """The scores of what was added so far."""
        confusion, threshold, surface = self.confusion, self.threshold, self.surface
        return Evaluation(
            classes=self.classes,
            voxels=tuple(confusion.counts.sum(1).tolist()),
            found=tuple(confusion.counts.sum(0).tolist()),
            f1=tuple(confusion.f1().tolist()),
            iou=tuple(confusion.iou().tolist()),
            f1_at_threshold=tuple(threshold.f1().tolist()),
            iou_at_threshold=tuple(threshold.iou().tolist()),
            surface_dice=None if surface is None else tuple(surface.dice().tolist()),
            surface_tolerance_nm=None if surface is None else surface.tolerance_nm,
            accuracy=confusion.accuracy(),
            calibration_error=self.calibration.error(),
            cross_entropy=self.entropy.mean(),
        )

    def _classes(self, truth: Volume, region: Region, first: int) -> npt.NDArray[np.int64]:
        """Classes from 0, -1 unlabelled."""
        voxels = np.asarray(truth.data[region])
        if voxels.dtype.kind not in "biu" and not (np.isfinite(voxels).all() and (voxels == np.rint(voxels)).all()):
            raise input_error("evaluate", "truth", expected="whole numbers", got=f"other {voxels.dtype} voxels")
        index = voxels.astype(np.int64) - first
        if index.max() >= len(self.classes) or voxels.min() < 0:
            raise input_error(
                "evaluate",
                "truth",
                expected=f"{'' if first == 0 else '0 (unlabelled), or '}{first} to {len(self.classes) - 1 + first} for "
                f"{', '.join(self.classes)}",
                got=f"{voxels.min()} to {voxels.max()}",
                fix="say whether the first class is 0 or 1, or choose the segmentation that belongs to it",
            )
        return np.maximum(index, -1)
