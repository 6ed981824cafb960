# SPDX-License-Identifier: MIT
"""Features and forest, ours beside the peers: one thread each, the same numbers first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

import cryoet_engine as ce
from cryoet_engine import filters
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
    from bioimage_cpp import filters as theirs

    def two_stages(scale: float) -> tuple[np.ndarray, float]:
        before, after = (float(np.sqrt(scale**2 - 1)), 1.0) if scale > 1 else (scale, scale)
        return theirs.gaussian_smoothing(volume, before, window_size=3.5), after

    def run() -> dict[str, np.ndarray]:
        out = {}
        for scale in (0.3, *SCALES):
            smooth, s = two_stages(scale)
            out[f"gauss {scale}"] = theirs.gaussian_smoothing(smooth, s, window_size=2.0)
            if scale == 0.3:
                continue
            out[f"log {scale}"] = theirs.laplacian_of_gaussian(smooth, s, window_size=2.0)
            out[f"gradient {scale}"] = theirs.gaussian_gradient_magnitude(smooth, s, window_size=2.0)
            narrow = theirs.gaussian_smoothing(smooth, 0.66 * s, window_size=2.0)
            out[f"dog {scale}"] = out[f"gauss {scale}"] - narrow
            out[f"structure {scale}"] = theirs.structure_tensor_eigenvalues(smooth, 0.5 * s, s, window_size=2.0)
            out[f"hessian {scale}"] = theirs.hessian_of_gaussian_eigenvalues(smooth, s, window_size=2.0)
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


#: Label noise, class contrast in noise deviations, strokes: chosen for about 460 nodes a tree and a mean path of 8, and
#: 1600 nodes and 16.
FORESTS = {"easy": (0.0, 1.5, 12_000), "hard": (0.2, 2.0, 6_000)}


def _blobs(edge: int, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Four classes of a smooth field, and a volume that shows them under noise of deviation 1."""
    rng = np.random.default_rng(0)
    field = filters.gaussian(rng.standard_normal((edge,) * 3, dtype=np.float32), 6.0)
    classes = np.digitize(field, np.quantile(field, [0.4, 0.6, 0.8]))
    volume = classes * contrast + rng.standard_normal((edge,) * 3, dtype=np.float32)
    return classes, volume.astype(np.float32)


def _onnx(model: RandomForestClassifier, rows: np.ndarray) -> Callable[[], np.ndarray]:
    """ONNX Runtime on one thread, in batches of 1024: the fastest of 256, 1024, 4096 and all at once, within 4 %."""
    import onnxruntime
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    inputs = [("rows", FloatTensorType([None, rows.shape[1]]))]
    graph = convert_sklearn(model, initial_types=inputs, options={id(model): {"zipmap": False}})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_outputs()[1].name
    parts = [rows[i : i + 1024] for i in range(0, len(rows), 1024)]
    return lambda: np.concatenate([session.run([name], {"rows": part})[0] for part in parts])


def forest(kind: str, order: str, edge: int = 64) -> Contest:
    """100 trees grown to purity on the 61 features of a volume of four classes; `kind` out of FORESTS.

    order: "bricks" hands everyone the voxels brick by brick (4 x 4 x 4), "raster" row by row. scikit-learn and ONNX
    Runtime take rows of features, ours takes the same rows, and the channels as they are.
    """
    noise, contrast, strokes = FORESTS[kind]
    edge -= edge % 4
    classes, volume = _blobs(edge, contrast)
    stack = ce.feature_stack(volume)
    if order == "bricks":
        n = edge // 4
        rows = stack.reshape(61, n, 4, n, 4, n, 4).transpose(1, 3, 5, 2, 4, 6, 0).reshape(-1, 61)
    else:
        rows = stack.reshape(61, -1).T
    rows = np.ascontiguousarray(rows)
    rng = np.random.default_rng(1)
    chosen = rng.choice(classes.size, min(strokes, classes.size // 4), replace=False)
    labels = classes.ravel()[chosen]
    wrong = rng.random(len(labels)) < noise
    labels[wrong] = rng.integers(0, 4, np.count_nonzero(wrong))
    samples = stack.reshape(61, -1).T[chosen]
    model = RandomForestClassifier(100, max_features=8, random_state=0, n_jobs=THREADS).fit(samples, labels)
    ours = ce.PixelClassifier.from_sklearn(model, n_threads=THREADS)

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        truth = results["scikit-learn"].astype(np.float32)
        if not np.array_equal(results["cryoet-engine"], truth):
            raise AssertionError("not scikit-learn's bits")
        onnx = float(np.abs(results["ONNX Runtime"] - truth).max())
        if onnx > 1e-6:
            raise AssertionError(f"ONNX Runtime computes something else: {onnx:.2e}")
        return {"scikit-learn": 0.0, "ONNX Runtime": onnx}

    entries: dict[str, Callable[[], np.ndarray]] = {
        "cryoet-engine": lambda: ours.predict_rows(rows),
        "scikit-learn": lambda: model.predict_proba(rows),
        "ONNX Runtime": _onnx(model, rows),
    }
    if order == "bricks":
        entries["cryoet-engine, channels"] = lambda: ours.predict_channels(stack)
    nodes = round(float(np.mean([tree.tree_.node_count for tree in model.estimators_])))
    return Contest(
        f"forest of 100 trees, {kind}, {order}", entries, len(rows), parity, f"{THREADS} thread, {nodes} nodes a tree"
    )
