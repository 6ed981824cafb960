# SPDX-License-Identifier: MIT
"""Counts, block by block."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, log_loss

from cryoet_engine import CryoETError, SoftSegmentation, Volume
from cryoet_engine.tiling import blocks
from cryoet_engine.training.metrics import (
    CalibrationHistogram,
    ConfusionMatrix,
    CrossEntropySum,
    Evaluation,
    Evaluator,
    SurfaceDice,
    ThresholdCounts,
    class_mean,
    weighted_mean,
)
from cryoet_engine.volume import quantise
from reference import scores as reference

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 4, (7, 8, 9)).astype(np.int16)
FOUND = np.where(RNG.random(TRUTH.shape) < 0.7, TRUTH, RNG.integers(0, 4, TRUTH.shape)).astype(np.uint8)
SURE = RNG.dirichlet([0.4] * 4, TRUTH.shape).transpose(3, 0, 1, 2).astype(np.float32)
GAPS = np.where(RNG.random(TRUTH.shape) < 0.2, -1, TRUTH).astype(np.int16)  # with unlabelled voxels
BLOCKS = [part.core for part in blocks(TRUTH.shape, (3, 5, 4), 0)]


def _blobs(seed: int, shape: tuple[int, int, int] = (7, 8, 9)) -> np.ndarray:
    """Three classes in smooth regions."""
    noise = np.random.default_rng(seed).normal(size=(3, *shape))
    return np.asarray(np.stack([ndimage.gaussian_filter(one, 1.6) for one in noise]).argmax(0))


def test_same_as_scikit_learn_in_blocks() -> None:
    matrix = ConfusionMatrix(4)
    for z in range(7):
        matrix.update(TRUTH[z], FOUND[z])
    expected = f1_score(TRUTH.ravel(), FOUND.ravel(), average=None)
    np.testing.assert_allclose(matrix.f1(), expected, rtol=1e-15)
    assert matrix.mean_f1() == pytest.approx(expected.mean(), rel=1e-15)
    assert matrix.accuracy() == accuracy_score(TRUTH.ravel(), FOUND.ravel())
    assert matrix.counts.dtype == np.int64
    assert matrix.counts.sum() == TRUTH.size
    np.testing.assert_allclose(matrix.iou(), jaccard_score(TRUTH.ravel(), FOUND.ravel(), average=None), rtol=1e-15)
    for score, theirs in ((matrix.f1(), f1_score), (matrix.iou(), jaccard_score)):
        weighted = theirs(TRUTH.ravel(), FOUND.ravel(), average="weighted")
        assert weighted_mean(score, matrix.voxels()) == pytest.approx(weighted, rel=1e-14)


def test_unlabelled_voxels_do_not_count() -> None:
    some = TRUTH.copy()
    some[FOUND != TRUTH] = -1
    matrix = ConfusionMatrix(4)
    matrix.update(some, FOUND)
    assert matrix.accuracy() == 1.0
    assert matrix.counts.sum() == np.count_nonzero(some >= 0)


def test_a_class_that_is_nowhere_is_nan_and_one_never_found_is_zero() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 0, 1]), np.array([0, 0, 0]))
    assert matrix.f1()[:2].tolist() == [0.8, 0.0]
    assert matrix.iou()[:2].tolist() == [2 / 3, 0.0]
    assert np.isnan(matrix.f1()[2])
    assert matrix.mean_f1() == pytest.approx(0.4)
    assert weighted_mean(matrix.iou(), matrix.voxels()) == pytest.approx(4 / 9)
    empty = ConfusionMatrix(2)
    empty.update(np.full(3, -1), np.zeros(3, int))
    assert np.isnan([empty.mean_f1(), empty.accuracy(), *empty.f1(), *empty.iou()]).all()
    assert math.isnan(weighted_mean(empty.iou(), empty.voxels()))


def test_the_two_means_are_not_the_same() -> None:
    """As in paper 5, whose tables 2 and 3 give 67.8 and 62.7 for one experiment."""
    iou, samples = [0.7, 0.5, math.nan, 0.3], [617, 58, 0, 81]
    assert class_mean(iou) == pytest.approx(0.5)
    assert weighted_mean(iou, samples) == pytest.approx((617 * 0.7 + 58 * 0.5 + 81 * 0.3) / 756)


@pytest.mark.parametrize("kind", ["float32", "uint8", "uint16"])
def test_at_a_threshold_each_class_is_on_its_own(kind: Any) -> None:
    stored = quantise(SURE, kind)
    unit = 1.0 if kind == "float32" else float(np.iinfo(kind).max)
    known = GAPS >= 0
    for threshold in (0.5, 0.3):
        counts = ThresholdCounts(4, threshold=threshold)
        for core in BLOCKS:
            counts.update(GAPS[core], stored[(slice(None), *core)])
        for k in range(4):
            expected = reference.overlaps((k == GAPS)[known], (stored[k].astype(float) / unit > threshold)[known])
            assert (counts.f1()[k], counts.iou()[k]) == pytest.approx(expected, rel=1e-15)
        assert counts.counts.sum(1).tolist() == [known.sum()] * 4


def test_at_a_threshold_of_soft_truth_as_paper_1_has_it() -> None:
    soft = np.roll(SURE, 1, 1) * (GAPS >= 0)  # all zero: unlabelled
    counts = ThresholdCounts(4)
    counts.update(soft, SURE)
    known = GAPS.ravel() >= 0
    truth, found = ((one > 0.5).reshape(4, -1).T[known] for one in (soft, SURE))
    np.testing.assert_allclose(counts.f1(), f1_score(truth, found, average=None), rtol=1e-15)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_calibration_error(kind: Any, n_bins: int) -> None:
    """Confidences are rounded to 2^-24. Measured: equal to 8e-9."""
    stored = quantise(SURE, kind)
    histogram = CalibrationHistogram(n_bins)
    for core in BLOCKS:
        histogram.update(GAPS[core], stored[(slice(None), *core)])
    probability = stored.astype(np.float64) / (255 if kind == "uint8" else 1)
    assert histogram.error() == pytest.approx(reference.calibration_error(GAPS, probability, n_bins), abs=1e-7)
    assert histogram.counts[:, 0].sum() == np.count_nonzero(GAPS >= 0)


def test_a_calibrated_forecast_has_no_error() -> None:
    """Confidence 0.75, right three times of four; and 1, always right."""
    histogram = CalibrationHistogram()
    forecast = np.tile(np.array([[0.75], [0.25]]), 8)
    histogram.update(np.array([0, 0, 0, 1] * 2), forecast)
    histogram.update(np.zeros(5, int), np.array([[1.0] * 5, [0.0] * 5]))
    assert histogram.error() == 0
    assert histogram.counts[11].tolist() == [8, 6, 6 << 24]  # (11/15, 12/15]
    assert histogram.counts[14].tolist() == [5, 5, 5 << 24]
    assert math.isnan(CalibrationHistogram().error())


def test_a_confidence_at_the_edge_of_two_bins_belongs_to_the_lower_one() -> None:
    """17 k / 255 is k / 15. Zero, which has none below, is in the first."""
    histogram = CalibrationHistogram(15)
    histogram.update(np.zeros(256, int), np.arange(256, dtype=np.uint8)[None])
    assert histogram.counts[:, 0].tolist() == [18] + [17] * 14
    histogram = CalibrationHistogram(8)
    histogram.update(np.zeros(17, int), np.arange(17, dtype=np.float32)[None] / 16)
    assert histogram.counts[:, 0].tolist() == [3] + [2] * 7


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_cross_entropy(kind: Any) -> None:
    stored = quantise(SURE, kind)
    total = CrossEntropySum()
    for core in BLOCKS:
        total.update(GAPS[core], stored[(slice(None), *core)])
    p = np.clip(stored.astype(np.float64) / (255 if kind == "uint8" else 1), 1 / 510 if kind == "uint8" else 1e-7, 1)
    known = GAPS >= 0
    given = np.take_along_axis(p, np.maximum(GAPS, 0)[None].astype(int), 0)[0][known]
    assert total.mean() == pytest.approx(-np.log(given).mean(), abs=5e-7)  # measured: 8e-8
    never_zero = (SURE.astype(np.float64) + 0.01) / (SURE.astype(np.float64) + 0.01).sum(0)
    total = CrossEntropySum()
    total.update(GAPS, never_zero)
    theirs = log_loss(GAPS[known], never_zero.reshape(4, -1).T[known.ravel()], labels=range(4))
    assert total.mean() == pytest.approx(theirs, abs=5e-7)  # measured: 2e-8
    assert math.isnan(CrossEntropySum().mean())


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(("size_A", "tolerance_nm"), [((10, 10, 10), 1.0), ((10, 10, 10), 0.0), ((13.1, 6, 9), 2.0)])
def test_surface_dice(size_A: Any, tolerance_nm: float, gaps: bool) -> None:
    truth, found = _blobs(1), _blobs(1)
    found[2:5] = np.roll(found, 2, 2)[2:5]
    found[:, :, 6:] = _blobs(2)[:, :, 6:]
    if gaps:
        truth = np.where(np.random.default_rng(0).random(truth.shape) < 0.1, -1, truth)
    whole = SurfaceDice(4, tolerance_nm=tolerance_nm)
    whole.update(truth, found, voxel_size_A=size_A)
    expected = [reference.surface_dice(truth, found, k, 10 * tolerance_nm + 1e-6, size_A) for k in range(4)]
    np.testing.assert_allclose(whole.dice(), expected, rtol=1e-15)
    assert np.isnan(whole.dice()[3])
    assert 0.1 < np.nanmin(whole.dice()) < np.nanmax(whole.dice()) < 1 or tolerance_nm == 2.0
    cut = SurfaceDice(4, tolerance_nm=tolerance_nm)
    for part in blocks(truth.shape, (3, 3, 9), cut.halo(size_A)):
        cut.update(truth[part.padded], found[part.padded], part.inner, voxel_size_A=size_A)
    np.testing.assert_array_equal(cut.counts, whole.counts)


def test_a_surface_moved_by_the_tolerance_is_near_and_by_more_is_not() -> None:
    """A wall, moved by two voxels of 13.1 A; the volume's border, at which it ends, is no surface of it."""
    truth = np.repeat(np.repeat((np.arange(12) >= 4)[:, None, None], 5, 1), 6, 2).astype(int)
    found = np.roll(truth, 2, 0)
    found[:2] = 0
    for tolerance, expected in ((2.62, 1.0), (2.61, 0.0)):
        surface = SurfaceDice(2, tolerance_nm=tolerance)
        surface.update(truth, found, voxel_size_A=(13.1,) * 3)
        assert surface.dice().tolist() == [expected, expected]
        assert surface.counts[0].tolist() == [30, 30 * expected, 30, 30 * expected]
    in_voxels = SurfaceDice(2, tolerance_vox=2)
    in_voxels.update(truth, found)
    assert in_voxels.dice().tolist() == [1, 1]
    assert in_voxels.halo() == 3


def _evaluated(soft: np.ndarray, truth: np.ndarray, **options: Any) -> Evaluation:
    names = tuple(f"c{k}" for k in range(len(soft)))
    evaluator = Evaluator(names, surface_tolerance_nm=1.0)
    evaluator.add(SoftSegmentation(soft, names), Volume(truth, voxel_size_A=10.0), **options)
    return evaluator.result()


def test_perfect_is_one() -> None:
    blobs = _blobs(0)
    scores = _evaluated((blobs == np.arange(3)[:, None, None, None]).astype(np.uint8) * 255, blobs, truth_from=0)
    for name in Evaluation.PER_CLASS:
        assert getattr(scores, name) == (1.0,) * 3
        assert scores.class_mean(name) == scores.weighted_mean(name) == 1.0
    assert (scores.accuracy, scores.calibration_error, scores.cross_entropy) == (1.0, 0.0, 0.0)
    assert scores.voxels == scores.found == tuple(np.bincount(blobs.ravel()).tolist())


def test_classes_in_another_order_have_the_same_scores() -> None:
    soft, order = RNG.dirichlet([0.5] * 3, (7, 8, 9)).transpose(3, 0, 1, 2).astype(np.float32), [2, 0, 1]
    truth = np.where(_blobs(3) == 1, -1, _blobs(0)) + 1  # with unlabelled voxels
    plain = _evaluated(soft, truth)
    moved = _evaluated(soft[order], np.array([0, 2, 3, 1])[truth])
    for name in Evaluation.PER_CLASS:
        assert getattr(moved, name) == tuple(getattr(plain, name)[k] for k in order)
        assert moved.class_mean(name) == pytest.approx(plain.class_mean(name), rel=1e-15)
    for name in ("accuracy", "calibration_error", "cross_entropy"):
        assert getattr(moved, name) == getattr(plain, name)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_blocks_and_volumes_change_nothing(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit: one pass and small blocks; and two volumes in one evaluator, or their counts added."""
    soft = quantise(RNG.dirichlet([0.5] * 3, (7, 8, 9)).transpose(3, 0, 1, 2).astype(np.float32), kind)
    truth = np.where(_blobs(3) == 1, 0, _blobs(0) + 1).astype(np.uint8)
    whole = _evaluated(soft, truth)
    monkeypatch.setattr("cryoet_engine.training.metrics._BLOCK", (3, 5, 4))
    calls: list[tuple[int, int]] = []
    small = _evaluated(soft, truth, progress=lambda stage, done, total, note="": calls.append((done, total)))
    assert small == whole
    assert calls[-1] == (18, 18)
    both, other = Evaluator("abc"), Evaluator("abc")
    for evaluator, times in ((both, 2), (other, 1)):
        for _ in range(times):
            evaluator.add(SoftSegmentation(soft, tuple("abc")), Volume(truth))
    for part in ("confusion", "threshold", "calibration", "entropy"):
        np.testing.assert_array_equal(getattr(both, part).counts, 2 * getattr(other, part).counts)


def test_an_evaluation_as_json() -> None:
    soft = np.zeros((3, 2, 2, 2), np.float32)
    soft[0] = 1
    truth = np.ones((2, 2, 2), np.uint8)
    truth[0, 0, 0] = 2
    scores = _evaluated(soft, truth)
    facts = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert facts["classes"] == ["c0", "c1", "c2"]
    assert facts["f1"]["classes"] == [pytest.approx(14 / 15), 0.0, None]
    assert facts["f1"]["class_mean"] == pytest.approx(7 / 15)
    assert facts["iou"]["weighted_mean"] == pytest.approx(7 / 8 * 7 / 8)
    assert facts["surface_tolerance_nm"] == 1.0
    assert dataclasses.replace(scores, surface_dice=None).to_dict()["surface_dice"] is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.accuracy = 1.0  # type: ignore[misc]


def test_refuses() -> None:
    matrix = ConfusionMatrix(2)
    for truth, found, what in (
        (np.zeros(3, int), np.zeros(4, int), "shape"),
        (np.zeros(3), np.zeros(3, int), "integer"),
        (np.array([2]), np.array([0]), "0 to 1"),
        (np.array([0]), np.array([-1]), "0 to 1"),
    ):
        with pytest.raises(CryoETError, match=what):
            matrix.update(truth, found)
    assert not matrix.counts.any()
    with pytest.raises(CryoETError, match="n_classes"):
        ConfusionMatrix(0)


def test_probabilities_and_surfaces_are_refused_too() -> None:
    good = np.full((2, 3), 0.5)
    kinds: list[Any] = [ThresholdCounts(2), CalibrationHistogram(), CrossEntropySum()]
    for one in kinds:
        for truth, found, what in (
            (np.array([0, 1, 2]), good, "0 to 1"),
            (np.zeros(4, int), good, "shape"),
            (np.zeros(3, int), good * 4, "probabilities in 0..1, got 2"),
            (np.zeros(3, int), good * np.nan, "probabilities in 0..1"),
            (np.zeros(3, int), good.astype(int), "probabilities"),
        ):
            with pytest.raises(CryoETError, match=what):
                one.update(truth, found)
        assert not one.counts.any()
    box = np.zeros((2, 2, 2), int)
    surface = SurfaceDice(2, tolerance_nm=1)
    with pytest.raises(CryoETError, match="voxel_size_A"):
        surface.update(box, 1 - box)
    with pytest.raises(CryoETError, match="one shape"):
        surface.update(box, box[:1], voxel_size_A=(1, 1, 1))
    for options in ({}, {"tolerance_nm": 1, "tolerance_vox": 1}, {"tolerance_vox": -1}, {"tolerance_nm": math.nan}):
        with pytest.raises(CryoETError, match="tolerance"):
            SurfaceDice(2, **options)
    for make in (lambda: ThresholdCounts(2, threshold=1), lambda: CalibrationHistogram(0)):
        with pytest.raises(CryoETError, match="expected"):
            make()


@pytest.mark.parametrize(
    ("truth", "first", "says"),
    [
        (np.full((2, 2, 2), 3), 1, "1 to 2 for a, b, got 3 to 3"),
        (np.full((2, 2, 2), 2), 0, "0 to 1 for a, b"),
        (np.full((2, 2, 2), -1), 1, "0 .unlabelled., or 1 to 2"),
        (np.full((2, 2, 2), 0.5), 1, "whole numbers"),
        (np.zeros((2, 2, 3), int), 1, "shape"),
    ],
)
def test_evaluator_refuses(truth: np.ndarray, first: int, says: str) -> None:
    soft = SoftSegmentation(np.full((2, 2, 2, 2), 0.5, np.float32), ("a", "b"))
    evaluator = Evaluator(("a", "b"))
    with pytest.raises(CryoETError, match=says):
        evaluator.add(soft, Volume(truth), truth_from=first)
    assert not evaluator.confusion.counts.any()
    with pytest.raises(CryoETError, match="classes"):
        Evaluator(("a", "b", "c")).add(soft, Volume(truth))


def test_needs_no_torch() -> None:
    code = "import sys, cryoet_engine.training.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
