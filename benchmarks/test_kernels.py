# SPDX-License-Identifier: MIT
"""Single kernels under pytest-benchmark: `pytest benchmarks/test_kernels.py --benchmark-enable`. One thread, no peers.

Ratios to other libraries, with a parity gate, are measured by the harness beside this file.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from cryoet_engine import FeatureSpec, PixelClassifier, _core, feature_stack, filters

SHAPE = (64, 128, 128)
ORIGIN = (0, 0, 0)


@pytest.fixture(scope="module")
def volume():
    """Noise over a few smooth blobs, so that neighbouring voxels agree as they do in a tomogram."""
    rng = np.random.default_rng(0)
    blobs = _core.gaussian(rng.normal(size=SHAPE).astype(np.float32), 6.0, (0, 0, 0), 3.5, 0)
    return blobs / blobs.std() + rng.normal(0, 1, SHAPE).astype(np.float32)


@pytest.mark.parametrize("sigma", [1.0, 5.0, 10.0])
def test_gaussian(benchmark, volume, sigma):
    benchmark(_core.gaussian, volume, sigma, (0, 0, 0), 3.5, 1)


def test_eigenvalues(benchmark):
    tensor = np.random.default_rng(0).normal(size=(6, 32, 64, 64)).astype(np.float32)
    benchmark(_core.symmetric_eigenvalues, list(tensor), 1)


@pytest.mark.parametrize("compat", ["ilastik", "scale-true"])
def test_all_channels(benchmark, volume, compat):
    plan = FeatureSpec(compat=compat)._plan(0.0)
    out = np.empty((61, *SHAPE), np.float32)
    benchmark.pedantic(_core.features, (plan, volume, ORIGIN, SHAPE, 1, out), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("label_noise", [0.0, 0.2], ids=["easy", "hard"])
@pytest.mark.parametrize("order", ["bricks", "rows"])
def test_forest(benchmark, volume, label_noise, order):
    """100 trees grown to purity on three classes of the smoothed volume; bricks include the features."""
    part = volume[:32, :64, :64]
    rows = feature_stack(part).reshape(61, -1).T
    rng = np.random.default_rng(1)
    labels = np.digitize(filters.gaussian(part, 2.0).ravel(), [-0.4, 0.4])
    chosen = rng.choice(len(rows), 4000, replace=False)
    wrong = rng.random(4000) < label_noise
    targets = np.where(wrong, rng.integers(0, 3, 4000), labels[chosen])
    trained = RandomForestClassifier(100, max_features=8, random_state=0, n_jobs=2).fit(rows[chosen], targets)
    classifier = PixelClassifier.from_sklearn(trained, n_threads=1)
    if order == "rows":
        benchmark.pedantic(classifier.predict_rows, (rows[:65536],), rounds=3, warmup_rounds=1)
    else:
        benchmark.pedantic(
            classifier.predict_proba, (part,), {"dtype": "float32", "block": part.shape}, rounds=3, warmup_rounds=1
        )
