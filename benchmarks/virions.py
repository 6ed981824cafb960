# SPDX-License-Identifier: MIT
"""The simulated tomograms that paper 1's figures are held against: eight to train on, three that nobody sees.

They, the forest's pseudo labels and trained networks lie in one folder, so that an interrupted study goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cryoet_engine as ce
from cryoet_engine import io
from cryoet_engine.models import Network, load_model
from cryoet_engine.simulate.dataset import make_dataset, read_dataset_recipe
from cryoet_engine.simulate.storage import read_plan
from cryoet_engine.training import Evaluation, Evaluator, TrainingSettings, train
from cryoet_engine.volume import SoftSegmentation, Volume

DATASET = "virions-8-3"
FOREGROUND = ("membrane", "spikes", "lumen")
TWO = {"foreground": FOREGROUND}


@dataclass(frozen=True)
class Tomograms:
    """Folders of simulated tomograms: to train on, and to be judged by."""

    training: Sequence[Path]
    tests: Sequence[Path]
    classes: tuple[str, ...]

    @classmethod
    def make(cls, folder: Path, dataset: str = DATASET) -> Tomograms:
        """Simulate what is not there yet."""
        make_dataset(read_dataset_recipe(dataset), folder)
        return cls.found(folder)

    @classmethod
    def found(cls, folder: Path) -> Tomograms:
        """Those that `make` left; several processes may look at the same time."""
        training, tests = (sorted((folder / part).iterdir()) for part in ("train", "test"))
        classes = read_plan((training[0] / "recipe.toml").read_text()).recipe.classes
        return cls(training, tests, tuple(classes))


def tomogram(folder: Path) -> Volume:
    return io.read_volume(folder / "tomogram.mrc")


def truth_labels(folder: Path) -> Volume:
    """As labels to train on: from 1, where the simulator counts from 0."""
    truth = io.read_volume(folder / "truth.mrc")
    return truth.with_data(truth.numpy() + 1)


def pseudo_labels(folder: Path, classes: Sequence[str]) -> SoftSegmentation:
    """What a forest of 100 trees makes of a tomogram's own strokes."""
    path, volume = folder / "soft.zarr", tomogram(folder)
    if not path.exists():
        forest = ce.PixelClassifier(100, seed=0).fit(volume, io.read_volume(folder / "strokes.mrc"), classes=classes)
        with io.create_segmentation(path, volume.shape, forest.classes, dtype="uint8", grid=volume.grid()) as out:
            forest.predict_proba(volume, out=out)
    return io.read_segmentation(path)


def trained(
    folder: Path,
    model: Callable[[], Network],
    pairs: Sequence[tuple[Volume, Any]],
    *,
    steps: int,
    settings: TrainingSettings,
) -> tuple[Network, dict[str, Any]]:
    """A network in a folder, trained if it is not there; its metrics, and the seconds that training took a core."""
    clock = folder.with_suffix(".json")
    if not clock.exists():
        start = time.process_time()
        train(model(), pairs, steps=steps, settings=settings, out=folder, progress=printed(folder.name))
        clock.write_text(json.dumps({"seconds": time.process_time() - start}))
    network, info = load_model(folder)
    return network, {**info.metrics, **json.loads(clock.read_text())}


def judged(model: Network, folders: Sequence[Path], groups: dict[str, tuple[str, ...]] | None = None) -> Evaluation:
    """A network's segmentation of tomograms against their truth, all voxels together.

    groups: classes of the truth that are one, in the order of the network's classes from 1 on.
    """
    assert model.info is not None
    scores = Evaluator(model.info.classes)
    for folder in folders:
        truth = io.read_volume(folder / "truth.mrc")
        if groups is not None:
            truth = truth.with_data((truth.numpy() > 0).astype("uint8"))
        scores.add(ce.segment(model, tomogram(folder), tile=96, overlap=32), truth, truth_from=0)
    return scores.result()


def printed(name: str) -> Callable[..., None]:
    """A `Progress` for a log: a line every two hundred steps."""
    last = -1

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        if stage == "training" and done != last and done % 200 == 0:
            last = done
            print(f"{name}: {done} of {total} steps, {note}", flush=True)

    return progress


def publish(page: Path, mark: str, text: str) -> None:
    """Put a table between `<!-- mark -->` and `<!-- /mark -->` of a page."""
    before, rest = page.read_text().split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- /{mark} -->")[1]
    page.write_text(f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{after}")
