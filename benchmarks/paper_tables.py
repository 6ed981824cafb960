# SPDX-License-Identifier: MIT
"""Tables 1 and 2 of paper 1, and its four classes from two by transfer, on simulated tomograms with known truth.

Forests make pseudo labels of eight tomograms from their strokes. Every network is trained on these with the same number
of voxels; loss and F1 on held-back voxels are against pseudo labels, as in the paper, and on three tomograms that
nobody saw against the truth. Writes results/paper_tables.json and the tables of docs/networks.md.

    python benchmarks/paper_tables.py [--data FOLDER] [--preset small|full] [--steps N] [--jobs N]

FOLDER keeps tomograms and networks: an interrupted run goes on. Jobs are trainings at a time, one thread each on the
CPU.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import cryoet_engine as ce
import harness
import virions
from cryoet_engine.models import Network, transfer
from cryoet_engine.training import TrainingSettings
from cryoet_engine.training.settings import Targets
from virions import TWO, Tomograms

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training. published: the paper's loss and F1 on its validation set, and its training time."""

    table: str
    model: str
    loss: str
    activation: str
    targets: Targets
    published: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.model}-{self.loss}-{self.activation}-{self.targets}"


TWO_CLASSES = [
    *(
        Row(table="1", model=model, loss="bce", activation="sigmoid", targets="hard", published=published)
        for model, published in (
            ("unet3d", ("0.4280", "0.6896", "9 h 10 min")),
            ("rsunet3d", ("0.4360", "0.6776", "11 h 58 min")),
            ("densenet3d", ("0.4701", "0.6254", "21 h 21 min")),
        )
    ),
    *(
        Row(table="2", model=model, loss=loss, activation=activation, targets="soft", published=published)
        for loss, activation, model, published in (
            ("mse", "none", "unet3d", ("0.01798", "0.5918")),
            ("mse", "none", "rsunet3d", ("0.01678", "0.6064")),
            ("adaptive_wing", "normalised_relu", "unet3d", ("0.03246", "0.4058")),
            ("adaptive_wing", "normalised_relu", "rsunet3d", ("0.03663", "0.4874")),
        )
    ),
]
#: Four classes: from the two-class network that was best in the paper, from our U-Net, and from nothing.
FOUR_CLASSES = {
    "rsunet3d, from its two classes": "rsunet3d-mse-none-soft",
    "unet3d, from its two classes": "unet3d-mse-none-soft",
    "unet3d, from random weights": None,
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Where everything lies, and the budget of every training."""

    data: Path
    preset: str
    steps: int
    patch: int
    batch: int
    learning_rate: float

    def settings(self, loss: str, targets: Targets) -> TrainingSettings:
        return TrainingSettings(
            patch=self.patch, batch=self.batch, learning_rate=self.learning_rate, loss=loss, targets=targets
        )

    @property
    def nets(self) -> Path:
        return self.data / f"networks-{self.preset}-{self.steps}x{self.batch}x{self.patch}"


def two_classes(study: Study, row: Row) -> dict[str, Any]:
    """Train one network of Table 1 or 2, and judge it."""
    torch.set_num_threads(1)
    tomograms = Tomograms.found(study.data)
    labels = [virions.pseudo_labels(f, tomograms.classes).merge(TWO) for f in tomograms.training]
    pairs = list(zip(map(virions.tomogram, tomograms.training), labels, strict=True))

    def model() -> Network:
        return ce.create_model(row.model, preset=study.preset, out_channels=2, activation=row.activation, seed=0)

    settings = study.settings(row.loss, row.targets)
    network, metrics = virions.trained(study.nets / row.name, model, pairs, steps=study.steps, settings=settings)
    found = virions.judged(network, tomograms.tests, TWO)
    return {
        "table": row.table,
        "model": row.model,
        "preset": study.preset,
        "loss_and_activation": [row.loss, row.activation],
        "targets": row.targets,
        "published": row.published,
        "weights": network.n_weights(),
        "seconds": round(metrics["seconds"]),
        "validation_loss": metrics["loss"],
        "validation_f1_foreground": metrics["f1"][1],
        "unseen_f1_foreground": found.f1_at_threshold[1],
        "unseen": found.to_dict(),
    }


def four_classes(study: Study, name: str, source: str | None) -> dict[str, Any]:
    """Train a network for four classes on hard labels, and judge it."""
    torch.set_num_threads(1)
    tomograms = Tomograms.found(study.data)
    labels = [virions.pseudo_labels(f, tomograms.classes) for f in tomograms.training]
    pairs = list(zip(map(virions.tomogram, tomograms.training), labels, strict=True))

    def model() -> Network:
        if source is None:
            return ce.create_model(name.split(",")[0], preset=study.preset, out_channels=4, seed=0)
        return transfer(study.nets / source, out_channels=4, seed=0)

    settings = study.settings("cross_entropy", "hard")
    folder = study.nets / f"four-from-{source or 'nothing'}"
    network, metrics = virions.trained(folder, model, pairs, steps=study.steps, settings=settings)
    found = virions.judged(network, tomograms.tests)
    return {
        "table": "four classes",
        "network": name,
        "preset": study.preset,
        "classes": list(tomograms.classes),
        "seconds": round(metrics["seconds"]),
        "validation_loss": metrics["loss"],
        "validation_f1": list(metrics["f1"]),
        "validation_mean_f1": metrics["mean_f1"],
        "unseen": found.to_dict(),
    }


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Table 1, Table 2 and four classes, published values beside ours."""
    lines = []
    for table, title in (("1", "Table 1: hard labels, BCE"), ("2", "Table 2: soft labels, regression")):
        head = ["network", "loss + activation", "published loss", "ours", "published F1", "ours"]
        head += ["unseen, at 0.5", "unseen, most probable"]
        head += ["published time", "core time"] if table == "1" else ["core time"]
        lines += ["", f"{title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for one in (one for one in results if one["table"] == table):
            loss, f1, *time = one["published"]
            took = f"{one['seconds'] / 60:.1f} min"
            cells = [one["model"], " + ".join(one["loss_and_activation"]), loss, f"{one['validation_loss']:.4f}"]
            cells += [f1, f"{one['validation_f1_foreground']:.4f}", f"{one['unseen_f1_foreground']:.4f}"]
            cells += [f"{one['unseen']['f1']['classes'][1]:.4f}", *time, took]
            lines.append(f"| {' | '.join(cells)} |")
    four = [one for one in results if one["table"] == "four classes"]
    head = [
        "network",
        "CE, held back",
        "F1, held back",
        *four[0]["classes"],
        "class mean",
        "weighted by voxels",
        "core time",
    ]
    lines += ["", "Four classes: F1 on unseen tomograms, against the truth", ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in four:
        f1 = one["unseen"]["f1"]
        cells = [one["network"], f"{one['validation_loss']:.4f}", f"{one['validation_mean_f1']:.4f}"]
        cells += [f"{value:.3f}" for value in f1["classes"]]
        cells += [f"{f1['class_mean']:.3f}", f"{f1['weighted_mean']:.3f}", f"{one['seconds'] / 60:.1f} min"]
        lines.append(f"| {' | '.join(cells)} |")
    cells = ["paper 1, its own pseudo labels", "0.1158", "0.9618", *["-"] * 6, "2 d 15 h"]
    return "\n".join([*lines, f"| {' | '.join(cells)} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of tomograms and networks, kept; by default a temporary one")
    parser.add_argument("--preset", choices=("small", "full"), default="small")
    parser.add_argument("--steps", type=int, default=300, help="of every training")
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--jobs", type=int, default=1 if torch.cuda.is_available() else os.cpu_count())
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        study = Study(
            data=args.data or Path(temporary) / "data", preset=args.preset, steps=args.steps, patch=args.patch,
            batch=args.batch, learning_rate=args.learning_rate,
        )  # fmt: skip
        tomograms = Tomograms.make(study.data)
        for folder in tomograms.training:
            virions.pseudo_labels(folder, tomograms.classes)
        with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as workers:
            # The slowest first; what is transferred needs its source.
            slowest = sorted(TWO_CLASSES, key=lambda row: row.model != "rsunet3d")
            two = {row: workers.submit(two_classes, study, row) for row in slowest}
            done = [two[row].result() for row in TWO_CLASSES]
            four = [workers.submit(four_classes, study, *entry) for entry in FOUR_CLASSES.items()]
            done += [future.result() for future in four]
    text = tables(done)
    print(text)
    print(harness.record("paper_tables", done, args.results))
    if args.results == harness.RESULTS and args.preset == "small":
        virions.publish(PAGE, "tables", text)


if __name__ == "__main__":
    main()
