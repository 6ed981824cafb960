# SPDX-License-Identifier: MIT
"""Counts, block by block."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from cryoet_engine import CryoETError
from cryoet_engine.training.metrics import ConfusionMatrix

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 4, (7, 8, 9)).astype(np.int16)
FOUND = np.where(RNG.random(TRUTH.shape) < 0.7, TRUTH, RNG.integers(0, 4, TRUTH.shape)).astype(np.uint8)


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
    assert np.isnan(matrix.f1()[2])
    assert matrix.mean_f1() == pytest.approx(0.4)
    empty = ConfusionMatrix(2)
    empty.update(np.full(3, -1), np.zeros(3, int))
    assert np.isnan([empty.mean_f1(), empty.accuracy(), *empty.f1()]).all()


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


def test_needs_no_torch() -> None:
    code = "import sys, cryoet_engine.training.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
