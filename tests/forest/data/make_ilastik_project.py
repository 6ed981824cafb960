# SPDX-License-Identifier: MIT
"""Made ilastik_project.ilp.gz and ilastik_rows.npz: vigra's own forests and predictions in ilastik's layout.

Needs vigra's Python module and h5py (Debian: python3-vigra, python3-h5py). The features are random numbers: the test
looks at trees, columns and classes, and vigra's answers are the truth.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import vigra

HERE = Path(__file__).parent
# An older order of ilastik's features; four of them at two scales, not all.
FEATURES = [
    "GaussianSmoothing",
    "LaplacianOfGaussian",
    "StructureTensorEigenvalues",
    "HessianOfGaussianEigenvalues",
    "GaussianGradientMagnitude",
    "DifferenceOfGaussians",
]
SCALES = [0.3, 0.7, 1.6]
CHOSEN = [(0, 0), (0, 2), (2, 1), (3, 2), (5, 1), (5, 2)]
NAMES = {0: "Gaussian Smoothing", 2: "Structure Tensor Eigenvalues", 3: "Hessian of Gaussian Eigenvalues"}
NAMES |= {5: "Difference of Gaussians"}


def main() -> None:
    rng = np.random.default_rng(7)
    names = []
    for i, j in CHOSEN:
        name = f"{NAMES[i]} (σ={SCALES[j]})"
        names += [f"{name} [{k}]" for k in range(3)] if FEATURES[i].endswith("Eigenvalues") else [name]
    x = rng.normal(size=(60, len(names))).astype(np.float32)
    x[:, 0] = np.round(x[:, 0] * 2) / 2  # values that lie on thresholds
    y = 1 + (x[:, 0] + x[:, 4] + rng.normal(0, 0.3, 60) > 0).astype(np.uint32)
    y[x[:, 2] > 1] = 4  # label 3 was named, but never drawn
    forests = []
    temporary = HERE / "temporary.h5"
    for i, trees in enumerate((3, 2)):
        # The second keeps leaves of several classes.
        forest = vigra.learning.RandomForest(trees, min_split_node_size=1 if i == 0 else 12)
        forest.learnRF(x, y[:, None])
        forest.writeHDF5(str(temporary), f"ClassifierForests/Forest{i:04d}")
        forests.append(forest)
    rows = np.concatenate([x, rng.normal(size=(60, len(names))).astype(np.float32)])
    single = [forest.predictProbabilities(rows) for forest in forests]
    # As ilastik puts them together.
    both = sum(forest.treeCount() * proba for forest, proba in zip(forests, single, strict=True)) / 5
    np.savez_compressed(HERE / "ilastik_rows.npz", rows=rows, first=single[0], both=both)

    selected = np.zeros((len(FEATURES), len(SCALES)), bool)
    for i, j in CHOSEN:
        selected[i, j] = True
    with h5py.File(HERE / "ilastik_project.ilp", "w", libver="latest") as out, h5py.File(temporary, "r") as made:
        out["workflowName"] = b"Pixel Classification"
        out["ilastikVersion"] = b"1.4.0"
        features = out.create_group("FeatureSelections")
        features["FeatureIds"] = np.array([name.encode() for name in FEATURES])
        features["Scales"] = np.array(SCALES)
        features["SelectionMatrix"] = selected
        features["ComputeIn2d"] = np.zeros(len(SCALES), bool)
        group = out.create_group("PixelClassification")
        made.copy("ClassifierForests", group)
        trained = group["ClassifierForests"]
        trained["known_labels"] = np.array([1, 2, 4], np.uint32)
        trained["feature_names"] = np.array([name.encode() for name in names])
        trained["pickled_type"] = b"clazyflow.classifiers.parallelVigraRfLazyflowClassifier\n."
        group["LabelNames"] = np.array([b"background", b"membrane", b"never drawn", b"spikes"])
    project = HERE / "ilastik_project.ilp"
    (HERE / "ilastik_project.ilp.gz").write_bytes(gzip.compress(project.read_bytes(), mtime=0))
    project.unlink()
    temporary.unlink()


main()
