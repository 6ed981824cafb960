# SPDX-License-Identifier: MIT
"""Features, forest and both together, ours beside the peers: one thread each, the same numbers first."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

import cryoet_engine as ce
from cryoet_engine import filters
from harness import Contest

THREADS = 1
OURS = "cryoet-engine"
SCALES = (0.7, 1.0, 1.6, 3.5, 5.0, 10.0)


def _noise(edge: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((edge, edge, edge), dtype=np.float32)


def _bioimage_cpp(volume: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
    """The 61 channels by bioimage-cpp's filters, in ilastik's two stages.

    It rounds kernel radii up where ilastik rounds to nearest, so the two are compared at the scales where the
    radii agree (see `features`)."""
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


class _Vigra:
    """vigra in another Python's process, which takes its own time."""

    def __init__(self, python: str, volume: np.ndarray) -> None:
        self.folder = TemporaryDirectory()
        self.seconds = 0.0
        at = Path(self.folder.name)
        np.save(at / "volume.npy", volume)
        script = Path(__file__).with_name("vigra_features.py")
        self.command = [python, str(script), str(at / "volume.npy"), str(at / "out.npz")]

    def __call__(self) -> dict[str, np.ndarray]:
        done = subprocess.run(self.command, capture_output=True, text=True, check=True)
        self.seconds = float(done.stdout)
        return dict(np.load(self.command[3]))


def _python_with_vigra() -> str | None:
    for path in (os.defpath, None):  # the system's own, which is where Debian puts it, and the first one found
        python = shutil.which("python3", path=path)
        if python and subprocess.run([python, "-c", "import vigra"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def features(edge: int = 128) -> Contest:
    """61 channels of one volume."""
    volume = _noise(edge)
    spec = ce.FeatureSpec(compat="ilastik")
    room = np.zeros((spec.n_channels, *volume.shape), np.float32)

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        ours, names = results[OURS], list(spec.channel_names)
        errors = {}
        for peer, theirs in results.items():
            if peer.startswith(OURS):
                continue
            worst = 0.0
            # A scale at which all libraries choose the same radii.
            for key, channel in (("gauss", "GaussianSmoothing"), ("log", "LaplacianOfGaussian")):
                reference = theirs[f"{key} 1.0"]
                mine = ours[names.index(f"{channel} 1")]
                worst = max(worst, float(np.abs(mine - reference).max() / np.ptp(reference)))
            if worst > 1e-5:
                raise AssertionError(f"{peer}: not the same features: {worst:.2e} of the range")
            errors[peer] = worst
        return errors

    entries: dict[str, Callable[[], Any]] = {
        OURS: lambda: ce.feature_stack(volume, spec, offset=0.0, n_threads=THREADS),
        f"{OURS}, out=": lambda: ce.feature_stack(volume, spec, offset=0.0, out=room, n_threads=THREADS),
        "bioimage-cpp": _bioimage_cpp(volume),
    }
    if python := _python_with_vigra():
        entries["vigra"] = _Vigra(python, volume)
    return Contest(f"61 channels, {edge}^3", entries, volume.size, parity, f"{THREADS} thread")


@cache
def _scene(edge: int, hard: bool) -> tuple[np.ndarray, RandomForestClassifier]:
    """Smooth blobs of four grey values in noise, and a forest grown to purity on some of their voxels.

    Easy: 511 nodes a tree, mean path 7. Hard, a fifth of the labels wrong: 1605 nodes, mean path 15 (at 48^3)."""
    rng = np.random.default_rng(0)
    smooth = filters.gaussian(rng.standard_normal((edge,) * 3, dtype=np.float32), 6.0)
    truth = np.digitize(smooth, np.quantile(smooth, [0.4, 0.6, 0.8]))
    contrast, samples, wrong = (2.0, 6000, 0.2) if hard else (1.5, 12000, 0.0)
    volume = (truth * contrast + rng.standard_normal(truth.shape, dtype=np.float32)).astype(np.float32)
    chosen = rng.choice(truth.size, min(samples, truth.size // 4), replace=False)
    labels = truth.ravel()[chosen]
    flip = rng.random(len(labels)) < wrong
    labels[flip] = rng.integers(0, 4, flip.sum())
    rows = ce.feature_stack(volume, offset=0.0).reshape(61, -1)[:, chosen].T
    forest = RandomForestClassifier(100, max_features=8, random_state=0, n_jobs=-1).fit(rows, labels)
    forest.n_jobs = THREADS
    return volume, forest


def _onnx(forest: RandomForestClassifier) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model = convert_sklearn(
        forest,
        initial_types=[("x", FloatTensorType([None, forest.n_features_in_]))],
        options={id(forest): {"zipmap": False}},
        target_opset=17,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_outputs()[1].name
    return lambda rows: session.run([name], {"x": rows})[0]


def forest(hard: bool, edge: int = 96, *, order: str = "bricks") -> Contest:
    """100 trees, 61 features, four classes. Peers take the rows in the order given.

    order: "bricks", the voxels of a volume brick by brick: ours takes the channels, and the rows too; "raster": rows
    alone, in packets 64 voxels long instead of 4 x 4 x 4."""
    volume, model = _scene(edge, hard)
    stack = ce.feature_stack(volume, offset=0.0)
    at = np.arange(volume.size).reshape(volume.shape)
    if order == "bricks":
        n = edge // 4
        at = at[: 4 * n, : 4 * n, : 4 * n].reshape(n, 4, n, 4, n, 4).transpose(0, 2, 4, 1, 3, 5)
    at = at.ravel()
    rows = np.ascontiguousarray(stack.reshape(61, -1)[:, at].T)
    ours = ce.PixelClassifier.from_sklearn(model, n_threads=THREADS)
    onnx = _onnx(model)

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        mine = results[OURS]
        if order == "bricks":
            mine = mine.reshape(len(mine), -1)[:, at].T
        truth = results["scikit-learn"].astype(np.float32)
        if not all(np.array_equal(one, truth) for one in (mine, results.get(f"{OURS}, rows", truth))):
            raise AssertionError("not bit for bit scikit-learn's probabilities")
        error = float(np.abs(results["ONNX Runtime"] - mine).max())
        if error > 2e-6:
            raise AssertionError(f"ONNX Runtime: another forest: {error:.1e}")
        return {"scikit-learn": 0.0, "ONNX Runtime": error}

    entries = {
        OURS: (lambda: ours.predict_channels(stack)) if order == "bricks" else (lambda: ours.predict_rows(rows)),
        "ONNX Runtime": lambda: onnx(rows),
        "scikit-learn": lambda: model.predict_proba(rows),
    }
    if order == "bricks":
        entries[f"{OURS}, rows"] = lambda: ours.predict_rows(rows)
    kind = f"{'20% of the labels wrong' if hard else 'easy'}, {'voxels of a volume' if order == 'bricks' else 'rows'}"
    return Contest(f"forest of 100 trees, {kind}", entries, len(rows), parity, f"{THREADS} thread")


def streamed(hard: bool, edge: int = 96) -> Contest:
    """Volume to probabilities. Ours streams; the best pair of peers computes all channels, then rows, then votes."""
    volume, model = _scene(edge, hard)
    ours = ce.PixelClassifier.from_sklearn(model, n_threads=THREADS)
    channels, onnx = _bioimage_cpp(volume), _onnx(model)
    kinds = ("gauss", "log", "gradient", "dog", "structure", "hessian")

    def pair() -> np.ndarray:
        found = channels()
        columns = []
        for kind, scale in product(kinds, (0.3, *SCALES)):
            if f"{kind} {scale}" in found:
                part = found[f"{kind} {scale}"]
                columns.append(part.reshape(volume.size, -1))
        return onnx(np.ascontiguousarray(np.concatenate(columns, axis=1)))

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        mine = results[OURS].data.reshape(4, -1).T
        # Its radii differ at two scales: other features, nearly the same answers.
        flips = float(np.mean(mine.argmax(axis=1) != results["bioimage-cpp + ONNX Runtime"].argmax(axis=1)))
        if flips > 0.1:
            raise AssertionError(f"not the same work: {flips:.0%} of the answers differ")
        return {"bioimage-cpp + ONNX Runtime": flips}

    entries = {OURS: lambda: ours.predict_proba(volume, dtype="float32"), "bioimage-cpp + ONNX Runtime": pair}
    kind = "20% of the labels wrong" if hard else "easy"
    return Contest(f"features and forest, {kind}, {edge}^3", entries, volume.size, parity, f"{THREADS} thread")
