# SPDX-License-Identifier: MIT
"""Are strokes worth more on a preprocessed tomogram? The suggestion of paper 1's first expert (section 7), with truth.

Simulates the data set (`cryoet simulate dataset virions-8-3`). Filter settings are swept on the first tomogram alone;
on each of the others a forest learns from the same strokes on the raw, the bilaterally filtered and the CLAHE-equalised
tomogram, and with the filtered one as one channel more, and is judged against the truth of that tomogram. Writes
results/preprocessed_strokes.json and the tables of docs/preprocessing.md.

    python benchmarks/preprocessed_strokes.py [--data FOLDER] [--tomograms 10]

FOLDER keeps the tomograms: an interrupted run goes on, a second one finds them there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

import harness
from carried_forest import f1
from cryoet_engine import PixelClassifier
from cryoet_engine.io import read_volume
from cryoet_engine.preprocessing import Bilateral, Clahe, Step, preprocess
from cryoet_engine.simulate.dataset import make_dataset, read_dataset_recipe
from cryoet_engine.simulate.storage import read_plan
from cryoet_engine.simulate.strokes import _slip
from cryoet_engine.training.metrics import ConfusionMatrix
from cryoet_engine.volume import Volume, statistics
from virions import DATASET, publish

PAGE = Path(__file__).parents[1] / "docs" / "preprocessing.md"
RAW, BOTH, CHANNEL, SLIPS = "raw", "bilateral, CLAHE", "raw, and bilateral as a channel", "raw, sloppier strokes"
SLIP_RATE = 0.1
SWEPT_SIGMAS, SWEPT_RANGES = (1.0, 1.5, 2.5), (1.0, 2.0, 4.0)  # voxels; standard deviations of the tomogram
SWEPT_TILES, SWEPT_CLIPS = (32, 64), (0.01, 0.03)


@dataclass(frozen=True)
class Specimen:
    """A simulated tomogram, its strokes and its truth."""

    volume: Volume
    strokes: Volume
    truth: Volume
    classes: tuple[str, ...]
    std: float

    @classmethod
    def open(cls, folder: Path) -> Specimen:
        volume, strokes, truth = (read_volume(folder / f"{name}.mrc") for name in ("tomogram", "strokes", "truth"))
        classes = tuple(read_plan((folder / "recipe.toml").read_text()).recipe.classes)
        return cls(volume, strokes, truth, classes, statistics(volume).std)

    def slipped(self) -> Volume:
        """The same strokes by a hand that sees less: they spill over borders until a tenth of the paint is wrong."""
        marks, labels, rng = self.strokes.numpy().copy(), self.truth.numpy() + np.uint8(1), np.random.default_rng(0)
        for z in np.flatnonzero(marks.any(axis=(1, 2))):
            _slip(marks[z], labels[z], SLIP_RATE, rng)
        return self.strokes.with_data(marks)

    def filtered(self, *steps: Step) -> Volume:
        """In memory, so that the forest does not filter block after block."""
        done = preprocess(self.volume, steps)
        return done.with_data(done.block((slice(None), slice(None), slice(None))))


@dataclass(frozen=True)
class Settings:
    """Of the filters; the bilateral filter's range in standard deviations of the tomogram."""

    sigma_vox: float
    sigma_range_std: float
    tile_vox: int
    clip_limit: float

    def bilateral(self, specimen: Specimen) -> Bilateral:
        return Bilateral(sigma_vox=self.sigma_vox, sigma_range=self.sigma_range_std * specimen.std)

    def clahe(self) -> Clahe:
        return Clahe(tile_vox=self.tile_vox, clip_limit=self.clip_limit)


@dataclass(frozen=True)
class Variant:
    """What the forest is given: a volume, strokes, extra channels."""

    volume: Volume
    strokes: Volume
    extra: Sequence[Volume] = field(default_factory=tuple)


def variants(specimen: Specimen, settings: Settings) -> dict[str, Callable[[], Variant]]:
    """By name, made when asked for."""
    bilateral, clahe, strokes = settings.bilateral(specimen), settings.clahe(), specimen.strokes

    return {
        RAW: lambda: Variant(specimen.volume, strokes),
        "bilateral": lambda: Variant(specimen.filtered(bilateral), strokes),
        "CLAHE": lambda: Variant(specimen.filtered(clahe), strokes),
        BOTH: lambda: Variant(specimen.filtered(bilateral, clahe), strokes),
        CHANNEL: lambda: Variant(specimen.volume, strokes, [specimen.filtered(bilateral)]),
        SLIPS: lambda: Variant(specimen.volume, specimen.slipped()),
    }


def judged(specimen: Specimen, variant: Variant, trees: int) -> ConfusionMatrix:
    """A forest's most probable classes inside its own tomogram, against the truth of every voxel."""
    forest = PixelClassifier(trees, seed=0)
    forest.fit(variant.volume, variant.strokes, classes=specimen.classes, extra=variant.extra)
    found = forest.predict_proba(variant.volume, extra=variant.extra).data.argmax(axis=0)
    matrix = ConfusionMatrix(len(specimen.classes))
    matrix.update(specimen.truth.numpy(), found)
    return matrix


def visibility(specimen: Specimen, volume: Volume) -> list[float]:
    """How far the grey value of one voxel tells each class from the background: the area under its ROC curve, 0.5 for
    not at all, of a random million voxels; protein is dark.
    """
    rng = np.random.default_rng(0)
    picked = rng.choice(specimen.truth.numpy().size, min(1_000_000, specimen.truth.numpy().size), replace=False)
    grey, truth = volume.numpy().ravel()[picked], specimen.truth.numpy().ravel()[picked]
    areas = []
    for label in range(1, len(specimen.classes)):
        own, other = grey[truth == label], grey[truth == 0]
        ranks = rankdata(np.concatenate([own, other]))[: len(own)].sum() - len(own) * (len(own) + 1) / 2
        areas.append(float(1 - ranks / (len(own) * len(other))))
    return areas


def swept(specimen: Specimen, trees: int) -> tuple[Settings, list[dict[str, Any]]]:
    """The best settings of each filter by mean F1 on one tomogram, and what all of them gave."""
    rows: list[dict[str, Any]] = []

    def best(tried: Sequence[Settings], step: Callable[[Settings], Step]) -> Settings:
        scores = []
        for settings in tried:
            variant = Variant(specimen.filtered(step(settings)), specimen.strokes)
            scores.append(judged(specimen, variant, trees).mean_f1())
            rows.append({"step": type(step(settings)).__name__, **vars(settings), "mean_f1": scores[-1]})
            print(rows[-1], flush=True)
        return tried[int(np.argmax(scores))]

    smooth = best([Settings(s, r, 64, 0.01) for s, r in product(SWEPT_SIGMAS, SWEPT_RANGES)],
                  lambda one: one.bilateral(specimen))  # fmt: skip
    return best(
        [Settings(smooth.sigma_vox, smooth.sigma_range_std, t, c) for t, c in product(SWEPT_TILES, SWEPT_CLIPS)],
        lambda one: one.clahe(),
    ), rows


def table(classes: Sequence[str], counts: dict[str, list[Any]]) -> str:
    """Means over tomograms with their standard deviation; below, what each variant adds to raw, tomogram by tomogram,
    with its standard error.
    """
    raw = f1(counts[RAW])
    lines = [f"| F1 | {' | '.join(classes)} | mean |", "|---" * (len(classes) + 2) + "|"]
    for name, own in counts.items():
        values = f1(own)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(axis=0), values.std(axis=0, ddof=1), strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, own in counts.items():
        if name != RAW:
            gain = f1(own) - raw
            error = gain.std(axis=0, ddof=1) / np.sqrt(len(gain))
            cells = [f"{m:+.3f} ± {e:.3f}" for m, e in zip(gain.mean(axis=0), error, strict=True)]
            lines.append(f"| {name}, minus raw | {' | '.join(cells)} |")
    return "\n".join(lines)


def seen_table(classes: Sequence[str], seen: dict[str, list[list[float]]]) -> str:
    """Mean and standard deviation over tomograms of `visibility`."""
    lines = [f"| area under the ROC curve | {' | '.join(classes[1:])} |", "|---" * len(classes) + "|"]
    for name, areas in seen.items():
        values = np.array(areas)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(axis=0), values.std(axis=0, ddof=1), strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the tomograms, kept; by default a temporary one")
    parser.add_argument("--tomograms", type=int, default=10, help="how many, beside that of the sweep")
    parser.add_argument("--trees", type=int, default=100)
    args = parser.parse_args()
    recipe = read_dataset_recipe(DATASET)
    with tempfile.TemporaryDirectory() as temporary:
        folders = make_dataset(recipe, args.data or Path(temporary) / "data")[: args.tomograms + 1]
        settings, rows = swept(Specimen.open(folders[0]), args.trees)
        print(settings, flush=True)
        counts: dict[str, list[Any]] = {}
        seen: dict[str, list[list[float]]] = {}
        for folder in folders[1:]:
            specimen = Specimen.open(folder)
            for name, make in variants(specimen, settings).items():
                variant = make()
                counts.setdefault(name, []).append(judged(specimen, variant, args.trees).counts.tolist())
                if name not in (CHANNEL, SLIPS):
                    seen.setdefault(name, []).append(visibility(specimen, variant.volume))
            print(f"{folder.parent.name}/{folder.name} done", flush=True)
    tables = [table(specimen.classes, counts), seen_table(specimen.classes, seen)]
    print("\n\n".join(tables))
    result = {"classes": specimen.classes, "settings": vars(settings), "sweep": rows, "counts": counts, "seen": seen}
    if args.tomograms >= 10 and args.trees == 100:
        print(harness.record("preprocessed_strokes", [result]))
        chosen = (
            f"Settings from the sweep: bilateral filter with sigma {settings.sigma_vox:g} voxels and range "
            f"{settings.sigma_range_std:g} standard deviations, CLAHE with tiles of {settings.tile_vox}\n"
            f"voxels and clip limit {settings.clip_limit:g}. Tomograms in the table: {len(folders) - 1}."
        )
        publish(PAGE, "preprocessed", f"{chosen}\n\n{tables[0]}")
        publish(PAGE, "visibility", tables[1])


if __name__ == "__main__":
    main()
