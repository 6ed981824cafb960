# SPDX-License-Identifier: MIT
"""Pixel classification on a card against the CPU: needs numpy, scikit-learn, CuPy and pytest only."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from cryoet_engine import FeatureSpec, PixelClassifier, Volume, feature_stack, filters
from cryoet_engine.cuda.device import card
from cryoet_engine.cuda.source import kernel_names, source_names

cupy = pytest.importorskip("cupy")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cupy.cuda.is_available(), reason="CuPy sees no NVIDIA card"),
]

# Largest difference to the CPU, relative to a channel's own range: both lie this near float64 (tests/test_features.py),
# and thin axes leave little of a coarse channel's range.
BOUNDS = {"StructureTensorEigenvalues": 5e-4, "HessianOfGaussianEigenvalues": 1e-4, "DifferenceOfGaussians": 1e-3}
BOUND, THIN = 3e-5, 6.0


def noise(shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape).astype(np.float32)


@pytest.fixture(autouse=True)
def all_memory_comes_back():
    device = card("test")
    before = device.free_bytes()
    yield
    assert device.free_bytes() > before - (64 << 20)  # compiled kernels stay


def test_every_kernel_compiles_here():
    from cryoet_engine.cuda.source import COMPILE_OPTIONS, compose

    for name in source_names():
        module = cupy.RawModule(code=compose(name), options=COMPILE_OPTIONS)
        for kernel in kernel_names(name):
            assert module.get_function(kernel).max_threads_per_block >= 256


@pytest.mark.parametrize("compat", ["ilastik", "scale-true"])
@pytest.mark.parametrize(
    ("shape", "planar"), [((60, 91, 130), ()), ((1, 300, 200), True), ((5, 1, 40), ()), ((40, 70, 33), (1.0, 5.0))]
)
def test_features_are_the_cpus(compat, shape, planar):
    v, spec = noise(shape, mean=5), FeatureSpec(compat=compat, planar=planar)
    found = feature_stack(cupy.asarray(v), spec)
    assert isinstance(found, cupy.ndarray)
    truth = feature_stack(v, spec)
    size = np.ptp(truth, axis=(1, 2, 3))
    for (name, scale), channel, reference in zip(spec.channel_sources, found.get(), truth, strict=True):
        # An eigenvalue along an axis of length one has no range of its own: that of its filter counts.
        one = max(s for s, other in zip(size, spec.channel_sources, strict=True) if other == (name, scale))
        bound = BOUNDS.get(name, BOUND) * (THIN if min(shape) == 1 else 1.0)
        assert np.abs(channel - reference).max() <= bound * one, (name, scale)


def test_filters_are_the_cpus():
    v = noise((50, 61, 72))
    there = cupy.asarray(v)
    for found, truth in (
        (filters.gaussian(there, 30.0, order=(0, 1, 2)), filters.gaussian(v, 30.0, order=(0, 1, 2))),
        (filters.gaussian(there[:, ::2], 50.0), filters.gaussian(v[:, ::2], 50.0)),
        (filters.difference_of_gaussians(there, 2.0), filters.difference_of_gaussians(v, 2.0)),
        (filters.gaussian_gradient_magnitude(there, 1.0), filters.gaussian_gradient_magnitude(v, 1.0)),
        (filters.hessian_of_gaussian_eigenvalues(there, 1.0), filters.hessian_of_gaussian_eigenvalues(v, 1.0)),
    ):
        assert np.abs(found.get() - truth).max() < 5e-6


def test_an_array_of_torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no card")
    v = noise((20, 30, 40))
    found = filters.gaussian(torch.from_numpy(v).cuda(), 2.0)
    assert np.abs(found.get() - filters.gaussian(v, 2.0)).max() < 2e-6


@pytest.mark.parametrize(("n_classes", "n_trees"), [(2, 101), (4, 100), (16, 30), (40, 20)])
@pytest.mark.parametrize("how", [{}, {"min_samples_leaf": 3}], ids=["pure", "mixed"])
def test_the_forest_is_the_cpus_bit_for_bit(n_classes, n_trees, how):
    rng = np.random.default_rng(n_classes)
    x, y = rng.normal(size=(5000, 61)).astype(np.float32), rng.integers(0, n_classes, 5000)
    trained = RandomForestClassifier(n_trees, random_state=1, max_features=8, **how).fit(x, y)
    made = PixelClassifier.from_sklearn(trained)
    channels = noise((61, 21, 33, 50), 1)
    for dtype in ("float32", "uint8", "uint16"):
        found = made.predict_channels(cupy.asarray(channels), dtype=dtype)
        assert np.array_equal(found.get(), made.predict_channels(channels, dtype=dtype))
    rows = noise((10_001, 61), 2)
    assert np.array_equal(made.predict_rows(cupy.asarray(rows)).get(), made.predict_rows(rows))


@pytest.fixture(scope="module")
def ball() -> tuple[Volume, PixelClassifier]:
    z, y, x = np.ogrid[:150, :170, :190]
    inside = (z - 75.0) ** 2 + (y - 85.0) ** 2 + (x - 95.0) ** 2 < 50.0**2
    volume, marks = noise(inside.shape, 3) + 1.5 * inside, np.zeros(inside.shape, np.uint8)
    marks[75, ::9, ::5] = 1 + inside[75, ::9, ::5]
    return Volume(volume.astype(np.float32)), PixelClassifier(100).fit(volume, marks)


def test_streamed_is_the_cpus(ball):
    volume, classifier = ball
    truth = classifier.predict_proba(volume, dtype="float32", device="cpu").data
    whole = classifier.predict_proba(volume, dtype="float32", device="cuda").data
    # Features differ by float32 rounding: noise of 1e-6 of their range flips 0.004 % of answers, moves them by 2e-5.
    assert np.abs(whole - truth).mean() < 1e-4
    assert np.mean(whole.argmax(axis=0) != truth.argmax(axis=0)) < 1e-4
    for block in ((40, 170, 190), (64, 64, 64), 33):
        assert np.array_equal(classifier.predict_proba(volume, dtype="float32", device="cuda", block=block).data, whole)
    assert np.array_equal(
        classifier.predict_proba(volume, device="cuda", memory="6G").data, np.rint(whole * np.float32(255))
    )


def test_cancelled_in_the_middle(ball):
    volume, classifier = ball

    def stop(stage, done, total, note=""):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier.predict_proba(volume, device="cuda", block=(16, 170, 190), progress=stop)
    classifier.predict_proba(volume, device="cuda")
