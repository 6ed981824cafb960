# SPDX-License-Identifier: MIT
"""Run the whole main job on two simulated virion tomograms with known truth, and report how good each stage is.

Simulate two tomograms -> sparse strokes on the first -> forest -> soft pseudo labels -> train a 3D network on them
-> segment the second, unseen tomogram -> transfer functions -> picture. Leaves the volumes (MRC and OME-Zarr),
picture.png, slices, and report.md with F1 per class and stage.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import _picture, _report, pseudolabel, segment, train
from . import run as whole_job
from ._console import Bars, say
from ._job import Job, job

if TYPE_CHECKING:
    from ..forest import PixelClassifier
    from ..training.metrics import ConfusionMatrix
    from ..volume import SoftSegmentation, Volume

FOREST, SOFT, NET = "forest.safetensors", "soft_first.zarr", "net"
CLASSES = ("background", "membrane", "spikes", "lumen")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("-o", "--output", default="demo", metavar="DIR", help="folder of the results (default demo)")
    whole_job.add_stage_arguments(parser)
    parser.set_defaults(steps=600)  # the whole demo in less than six minutes on two cores


@dataclass(frozen=True)
class Tomogram:
    """One simulated tomogram and its truth: numbers of `CLASSES`, 0 the background."""

    volume: Volume
    truth: Volume


def _simulate(current: Job, bars: Bars) -> tuple[Tomogram, Tomogram]:
    from .. import io
    from ..simulate import demo_recipes, simulate_virions

    def opened(name: str) -> Tomogram:
        folder = current.folder
        return Tomogram(io.read_volume(folder / f"{name}.mrc"), io.read_volume(folder / f"{name}_truth.mrc"))

    def make(name: str, index: int) -> Tomogram:
        recipe = demo_recipes()[index]
        made = simulate_virions(recipe, progress=bars)
        io.write(current.folder / f"{name}.mrc", made.tomogram)
        io.write(current.folder / f"{name}.zarr", made.tomogram)
        io.write(current.folder / f"{name}_truth.mrc", made.truth)
        with io.partial_path(current.folder / f"{name}_recipe.toml") as partial:
            partial.write_text(recipe.to_toml(), encoding="utf-8")
        return opened(name)

    first = current.stage("simulate the first tomogram", lambda: make("first", 0), lambda: opened("first"))
    second = current.stage("simulate the second tomogram", lambda: make("second", 1), lambda: opened("second"))
    return first, second


def _strokes(current: Job, first: Tomogram) -> Volume:
    from .. import io
    from ..simulate import draw_strokes

    path = current.folder / "strokes.mrc"

    def draw() -> Volume:
        io.write(path, draw_strokes(first.truth, tomogram=first.volume))
        return io.read_volume(path)

    return current.stage("strokes", draw, lambda: io.read_volume(path))


def _learn(
    current: Job, first: Tomogram, marks: Volume, args: argparse.Namespace, bars: Bars
) -> tuple[PixelClassifier, SoftSegmentation]:
    """Strokes -> forest -> soft pseudo labels -> a trained network in the job's folder."""
    from .. import io
    from ..forest import PixelClassifier
    from ..training import train as train_network

    folder, volume = current.folder, first.volume

    def fit() -> PixelClassifier:
        forest = pseudolabel.fit(volume, marks, CLASSES, args, bars)
        forest.save(folder / FOREST)
        return forest

    def fit_network() -> None:
        settings, steps = train.settings_of(args)
        model = train.network_of(args, len(CLASSES))
        train_network(model, [(volume, soft)], steps=steps, settings=settings, out=folder / NET, progress=bars)

    forest = current.stage("forest", fit, lambda: PixelClassifier.load(folder / FOREST))
    wishes = pseudolabel.Wishes(device=args.device)
    soft = current.stage(
        "pseudo labels",
        lambda: pseudolabel.predict(forest, volume, folder / SOFT, wishes=wishes, progress=bars),
        lambda: io.read_segmentation(folder / SOFT),
    )
    current.stage("training", fit_network, lambda: None)
    return forest, soft


def _carry(
    current: Job, forest: PixelClassifier, second: Tomogram, wishes: pseudolabel.Wishes, bars: Bars
) -> list[SoftSegmentation]:
    """The forest on the other tomogram: as ilastik carries it, and with the grey scale matched first."""
    from .. import io

    results = []
    for name, match in (("forest_second", False), ("forest_second_matched", True)):
        path = current.folder / f"{name}.zarr"

        def work(path: Path = path, match: bool = match) -> SoftSegmentation:
            return pseudolabel.predict(forest, second.volume, path, match_intensity=match, wishes=wishes, progress=bars)

        stage = "forest carried over, grey matched" if match else "forest carried over"
        results.append(current.stage(stage, work, lambda path=path: io.read_segmentation(path)))  # type: ignore[misc]
    return results


def run(args: argparse.Namespace) -> None:
    """Every stage, twice judged."""
    from .. import io

    out = Path(args.output)
    whole_job.check_settings(args, CLASSES)
    settings = whole_job.settings_from(args, {})
    with job(out, settings, restart=True) as current, Bars() as bars:
        folder = current.folder
        first, second = _simulate(current, bars)
        marks = _strokes(current, first)
        forest, soft = _learn(current, first, marks, args, bars)
        carried, matched = _carry(current, forest, second, pseudolabel.Wishes(device=args.device), bars)
        proba = current.stage(
            "segmentation of the second",
            lambda: segment.predict(folder / NET, second.volume, folder / "proba_second.zarr", args, progress=bars),
            lambda: io.read_segmentation(folder / "proba_second.zarr"),
        )
        io.export_classes(proba, folder / "classes_second", prefix="")
        notices = whole_job.picture(current, second.volume, proba, args, bars)
        _picture.draw_slices(first.volume, soft, folder, "first_pseudo_labels")
        _picture.draw_slices(second.volume, carried, folder, "second_forest")
        rows = {
            "strokes to pseudo labels, first tomogram": _report.evaluate(first.truth, soft),
            "forest carried over to the second": _report.evaluate(second.truth, carried),
            "the same, grey scale matched first": _report.evaluate(second.truth, matched),
            "network on the second": _report.evaluate(second.truth, proba),
        }
        _report.write(folder / "report.md", _sections(current, marks, rows, notices))
    say(f"\n{_report.f1_table(CLASSES, rows)}\n{out / 'picture.png'}\n{out / 'report.md'}")


def _sections(current: Job, marks: Volume, rows: dict[str, ConfusionMatrix], notices: list[str]) -> list[str]:
    import numpy as np

    drawn = marks.numpy()
    network = np.nanmean(rows["network on the second"].f1())
    forest = np.nanmean(rows["forest carried over to the second"].f1())
    matched = np.nanmean(rows["the same, grey scale matched first"].f1())
    return [
        "# From strokes to a picture, on tomograms with known truth",
        "The second tomogram, segmented by the network:",
        *whole_job.picture_links(current.folder),
        "## F1 per class and stage, from this run",
        _report.f1_table(CLASSES, rows),
        f"Strokes: {np.count_nonzero(drawn):,} voxels, {np.count_nonzero(drawn) / drawn.size:.3%} of the first "
        "tomogram. Truth is what was simulated; every voxel counts. The network never saw the truth, nor the second "
        "tomogram.",
        f"On the second tomogram the network's mean F1 is {network:.3f}; the carried-over forest's is {forest:.3f}, "
        f"and {matched:.3f} when the grey scale is matched first (mean and deviation).",
        "The two tomograms differ in defocus, dose, thickness, grey scale and virions: `first_recipe.toml`, "
        "`second_recipe.toml`.",
        "## Slices",
        *(
            f"**{title}**\n\n"
            + "\n".join(f"![{name}]({name})" for name in _picture.slice_names(current.folder, prefix))
            for title, prefix in (
                ("First tomogram, pseudo labels", "first_pseudo_labels"),
                ("Second tomogram, forest carried over", "second_forest"),
                ("Second tomogram, network", "slice"),
            )
        ),
        "## Time",
        _report.timing(current.seconds()),
        *(["## Notices", *(f"- {notice}" for notice in notices)] if notices else []),
    ]
