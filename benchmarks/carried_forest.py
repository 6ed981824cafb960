# SPDX-License-Identifier: MIT
"""A forest inside its own tomogram, and carried to others, against the truth, for both sets of features.

Simulates the data set (`cryoet simulate dataset virions-8-3`), trains a forest on each training tomogram's strokes, and
counts its answers there and on every test tomogram: as ilastik carries a forest, and with the grey scale's mean and
deviation matched first. Writes results/carried_forest.json and the table of docs/forest.md.

    python benchmarks/carried_forest.py [--data FOLDER] [--dataset NAME_OR_TOML] [--trees 100]

FOLDER keeps the tomograms: an interrupted run goes on, a second one finds them there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

import harness
from cryoet_engine import FeatureSpec, PixelClassifier, read
from cryoet_engine.features import Compat
from cryoet_engine.training.metrics import ConfusionMatrix
from cryoet_engine.volume import Volume
from virions import DATASET, Tomograms, publish

PAGE = Path(__file__).parents[1] / "docs" / "forest.md"
INSIDE, CARRIED, MATCHED = "inside its tomogram", "carried to the others", "carried, grey scale matched"


def judged(forest: PixelClassifier, folder: Path, *, match_intensity: bool = False) -> ConfusionMatrix:
    """A forest's most probable classes on a tomogram, against its truth."""
    tomogram, truth = read(folder / "tomogram.mrc"), read(folder / "truth.mrc")
    assert isinstance(tomogram, Volume) and isinstance(truth, Volume)
    found = forest.predict_proba(tomogram, match_intensity=match_intensity).data.argmax(axis=0)
    matrix = ConfusionMatrix(len(forest.classes))
    matrix.update(truth.numpy(), found)
    return matrix


def contest(compat: Compat, tomograms: Tomograms, trees: int) -> dict[str, Any]:
    """Counts (truth, answer) of every forest on every tomogram that it is asked about."""
    counts: dict[str, list[list[list[int]]]] = {INSIDE: [], CARRIED: [], MATCHED: []}
    classes = tomograms.classes
    for folder in tomograms.training:
        forest = PixelClassifier(trees, spec=FeatureSpec(compat=compat), seed=0)
        forest.fit(read(folder / "tomogram.mrc"), read(folder / "strokes.mrc"), classes=classes)
        counts[INSIDE].append(judged(forest, folder).counts.tolist())
        for test in tomograms.tests:
            counts[CARRIED].append(judged(forest, test).counts.tolist())
            counts[MATCHED].append(judged(forest, test, match_intensity=True).counts.tolist())
        print(f"{compat}: {folder.name} done", flush=True)
    return {"compat": compat, "classes": list(classes), "counts": counts}


def f1(counts: Any) -> npt.NDArray[np.float64]:
    """F1 of each class in each matrix, and their mean: (matrix, class + 1)."""
    rows = []
    for one in counts:
        matrix = ConfusionMatrix(len(one))
        matrix.counts += np.array(one)
        rows.append([*matrix.f1(), matrix.mean_f1()])
    return np.array(rows)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Means over forests (and test tomograms), with their standard deviation."""
    classes = results[0]["classes"]
    lines = [f"| features | forest | {' | '.join(classes)} | mean |", "|---" * (len(classes) + 3) + "|"]
    for result in results:
        for name, counts in result["counts"].items():
            values = f1(counts)
            cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True)]
            lines.append(f"| {result['compat']} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the tomograms, kept; by default a temporary one")
    parser.add_argument("--dataset", default=DATASET, help="recipe of the data set")
    parser.add_argument("--trees", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        tomograms = Tomograms.make(args.data or Path(temporary) / "data", args.dataset)
        results = [contest(compat, tomograms, args.trees) for compat in get_args(Compat)]
    text = table(results)
    print(text)
    if args.dataset == DATASET and args.trees == 100:
        print(harness.record("carried_forest", results))
        publish(PAGE, "carried", text)


if __name__ == "__main__":
    main()
