# SPDX-License-Identifier: MIT
"""Features and forest, ours beside the peers: one thread each, the same numbers first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

import cryoet_engine as ce
from harness import Contest

THREADS = 1
SCALES = (0.7, 1.0, 1.6, 3.5, 5.0, 10.0)


def _noise(edge: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((edge, edge, edge), dtype=np.float32)


def _bioimage_cpp(volume: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
    """The 61 channels by bioimage-cpp's filters, in ilastik's two stages.

    It rounds kernel radii up where ilastik rounds to nearest, so the two are compared at the scales where the
    radii agree (see `_parity`)."""
    from bioimage_cpp import filters

    def two_stages(scale: float) -> tuple[np.ndarray, float]:
        before, after = (float(np.sqrt(scale**2 - 1)), 1.0) if scale > 1 else (scale, scale)
        return filters.gaussian_smoothing(volume, before, window_size=3.5), after

    def run() -> dict[str, np.ndarray]:
        out = {}
        for scale in (0.3, *SCALES):
            smooth, s = two_stages(scale)
            out[f"gauss {scale}"] = filters.gaussian_smoothing(smooth, s, window_size=2.0)
            if scale == 0.3:
                continue
            out[f"log {scale}"] = filters.laplacian_of_gaussian(smooth, s, window_size=2.0)
            out[f"gradient {scale}"] = filters.gaussian_gradient_magnitude(smooth, s, window_size=2.0)
            narrow = filters.gaussian_smoothing(smooth, 0.66 * s, window_size=2.0)
            out[f"dog {scale}"] = out[f"gauss {scale}"] - narrow
            out[f"structure {scale}"] = filters.structure_tensor_eigenvalues(smooth, 0.5 * s, s, window_size=2.0)
            out[f"hessian {scale}"] = filters.hessian_of_gaussian_eigenvalues(smooth, s, window_size=2.0)
        return out

    return run


def features(edge: int = 128) -> Contest:
    """61 channels of one volume."""
    volume = _noise(edge)
    spec = ce.FeatureSpec(compat="ilastik")

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        ours = results["cryoet-engine"]
        names = list(spec.channel_names)
        theirs = results["bioimage-cpp"]
        worst = 0.0
        # Scales at which both libraries choose the same radii.
        for scale, (key, channel) in product((1.0,), (("gauss", "GaussianSmoothing"), ("log", "LaplacianOfGaussian"))):
            index = names.index(f"{channel} {scale:g}")
            reference = theirs[f"{key} {scale}"]
            worst = max(worst, float(np.abs(ours[index] - reference).max() / np.ptp(reference)))
        if worst > 1e-5:
            raise AssertionError(f"not the same features: {worst:.2e} of the range")
        return {"bioimage-cpp": worst}

    entries = {
        "cryoet-engine": lambda: ce.feature_stack(volume, spec, offset=0.0),
        "bioimage-cpp": _bioimage_cpp(volume),
    }
    return Contest(f"61 channels, {edge}^3", entries, volume.size, parity, f"{THREADS} thread")


def forest(noise: float, rows: int = 200_000) -> Contest:
    """100 trees grown to purity, 61 features of blurred noise, four classes."""
    edge = round(rows ** (1 / 3))
    stack = ce.feature_stack(_noise(edge), ce.FeatureSpec())
    x = np.ascontiguousarray(stack.reshape(61, -1).T)
    rng = np.random.default_rng(1)
    y = np.digitize(x[:, 4], np.quantile(x[:, 4], [0.4, 0.6, 0.8]))
    flip = rng.random(len(y)) < noise
    y[flip] = rng.integers(0, 4, flip.sum())
    chosen = rng.choice(len(y), 5000, replace=False)
    model = RandomForestClassifier(100, max_features=8, random_state=0, n_jobs=THREADS).fit(x[chosen], y[chosen])
    ours = ce.PixelClassifier.from_sklearn(model, n_threads=THREADS)

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        a, b = results["cryoet-engine"], results["scikit-learn"].astype(np.float32)
        if not np.array_equal(a, b):
            raise AssertionError(f"not bit-identical: {np.abs(a - b).max():.2e}")
        return {"scikit-learn": 0.0}

    entries = {"cryoet-engine": lambda: ours.predict_rows(x), "scikit-learn": lambda: model.predict_proba(x)}
    kind = "easy" if noise == 0 else f"{noise:.0%} label noise"
    return Contest(f"forest of 100 trees, {kind}", entries, len(x), parity, f"{THREADS} thread")
