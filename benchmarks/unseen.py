# SPDX-License-Identifier: MIT
"""Paper 1's claim, with truth: a network that learned from strokes alone, on tomograms that nobody drew in.

Eight tomograms have strokes, three do not. A forest a tomogram makes pseudo labels of its strokes; it is also carried
to the three, as ilastik carries it and with matched grey scale. One network is trained on all pseudo labels, and, as
the ceiling, one on the truth. All are counted against the truth. Writes results/unseen.json and a table of
docs/networks.md.

    python benchmarks/unseen.py [--data FOLDER] [--preset small|full] [--steps N]

FOLDER keeps tomograms and networks: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import carried_forest
import cryoet_engine as ce
import harness
import virions
from cryoet_engine.models import Network
from cryoet_engine.training import TrainingSettings
from paper_tables import PAGE
from virions import Tomograms

STROKES, TRUTH = "network, of strokes alone", "network, of the truth (ceiling)"


def network(data: Path, name: str, preset: str, steps: int, settings: TrainingSettings) -> dict[str, Any]:
    """Train on all eight, judge on the three."""
    torch.set_num_threads(1)
    tomograms = Tomograms.found(data)
    volumes = [virions.tomogram(folder) for folder in tomograms.training]
    if name == STROKES:
        labels: list[Any] = [virions.pseudo_labels(folder, tomograms.classes) for folder in tomograms.training]
    else:
        labels = [virions.truth_labels(folder) for folder in tomograms.training]

    def model() -> Network:
        return ce.create_model("unet3d", preset=preset, out_channels=len(tomograms.classes), seed=0)

    folder = data / f"unseen-{preset}-{steps}" / ("strokes" if name == STROKES else "truth")
    pairs = list(zip(volumes, labels, strict=True))
    trained, metrics = virions.trained(folder, model, pairs, steps=steps, settings=settings)
    each = [virions.judged(trained, [one]).to_dict() for one in tomograms.tests]
    whole = virions.judged(trained, tomograms.tests).to_dict()
    return {"name": name, "each": each, "all": whole, "seconds": metrics["seconds"], "settings": settings.to_dict()}


def forests(data: Path) -> dict[str, Any]:
    tomograms = Tomograms.found(data)
    return carried_forest.contest("ilastik", tomograms, trees=100)


def table(forest: dict[str, Any], networks: list[dict[str, Any]]) -> str:
    """F1 of each class, and means over classes and over voxels: means and deviations over tomograms (and forests)."""
    rows = {}
    for name, matrices in forest["counts"].items():
        voxels = np.array(matrices).sum(axis=2)  # of each class in the truth
        values = carried_forest.f1(matrices)
        weighted = (values[:, :-1] * voxels).sum(axis=1) / voxels.sum(axis=1)
        rows[f"forest, {name}"] = np.column_stack([values, weighted])
    for one in networks:
        f1 = [each["f1"] for each in one["each"]]
        rows[f"{one['name']}, unseen tomograms"] = np.array(
            [[*e["classes"], e["class_mean"], e["weighted_mean"]] for e in f1]
        )
    head = ["F1 against truth", *forest["classes"], "class mean", "weighted by voxels"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, values in rows.items():
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of tomograms and networks, kept; by default a temporary one")
    parser.add_argument("--preset", choices=("small", "full"), default="small")
    parser.add_argument("--steps", type=int, default=2000, help="of each of the two trainings")
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    args = parser.parse_args()
    settings = TrainingSettings(patch=args.patch, batch=args.batch, learning_rate=args.learning_rate)
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data or Path(temporary) / "data"
        tomograms = Tomograms.make(data)
        for folder in tomograms.training:
            virions.pseudo_labels(folder, tomograms.classes)
        jobs = 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
            names = (STROKES, TRUTH)
            learned = [workers.submit(network, data, name, args.preset, args.steps, settings) for name in names]
            carried = workers.submit(forests, data)
            networks = [future.result() for future in learned]
            forest = carried.result()
    text = table(forest, networks)
    print(text)
    print(harness.record("unseen", [forest, *networks], args.results))
    if args.results == harness.RESULTS and args.preset == "small":
        virions.publish(PAGE, "unseen", text)


if __name__ == "__main__":
    main()
