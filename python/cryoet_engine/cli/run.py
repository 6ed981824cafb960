# SPDX-License-Identifier: MIT
"""From a tomogram and strokes to a picture: every stage, in one command.

Leaves in OUT: forest, soft.zarr (pseudo labels), net/, proba.zarr (the network's segmentation), transfer.json,
picture.png, picture_cut.png (cut open), picture_pseudo_labels.png, slices, report.md. An interrupted run leaves
OUT.partial, which the same command resumes.

  cryoet run TOMO --labels STROKES --classes background,membrane,spikes,lumen -o out/
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import input_error
from . import _report, pseudolabel, render, segment, train
from ._console import Bars, add_tomogram, class_names, open_tomogram, say
from ._job import Job, file_identity, job

if TYPE_CHECKING:
    from ..forest import PixelClassifier
    from ..volume import SoftSegmentation, Volume

FOREST, SOFT, NET, PROBA = "forest.safetensors", "soft.zarr", "net", "proba.zarr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser)
    parser.add_argument(
        "--labels", required=True, metavar="STROKES", help="strokes: 0 nothing drawn, 1 the first class, ..."
    )
    parser.add_argument(
        "--classes",
        type=class_names,
        required=True,
        metavar="A,B,...",
        help="names of classes 1, 2, ..., background first",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run in OUT")
    add_stage_arguments(parser)


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every stage may be told, a group a stage."""
    for title, add in (
        ("pseudo labels", pseudolabel.add_forest_arguments),
        ("network", train.add_network_arguments),
        ("tiles", segment.add_tile_arguments),
        ("picture", render.add_picture_arguments),
    ):
        add(parser.add_argument_group(title))  # type: ignore[arg-type]


def check_settings(args: argparse.Namespace, classes: tuple[str, ...]) -> None:
    """Find what is wrong before hours of work, not after."""
    from ..cuda.device import choose_device
    from ..models import model_names
    from ..tiling import tile_starts

    choose_device(args.device, where="--device")
    render.settings_of(args)
    train.settings_of(args)
    tile_starts(2 * args.tile, args.tile, args.overlap)
    if args.model not in model_names("segmenter"):
        raise input_error("--model", "name", expected=", ".join(model_names("segmenter")), got=args.model)
    if unknown := set(args.hide) - set(classes):
        raise input_error("--hide", "classes", expected=", ".join(classes), got=", ".join(sorted(unknown)))
    if args.hide_dust is not None and not args.hide_dust > 0:
        raise input_error("--hide-dust", "diameter", expected="a number above 0, in nm", got=args.hide_dust)


def settings_from(args: argparse.Namespace, inputs: dict[str, str]) -> dict[str, Any]:
    """What a resumed run must have in common with the interrupted one."""
    # The picture comes last: other wishes for it do not make what was computed before worthless.
    picture_only = argparse.ArgumentParser()
    render.add_picture_arguments(picture_only)
    wishes = vars(picture_only.parse_args([]))
    hidden = {"run", "command", "debug", "output", "overwrite", *inputs, *wishes}
    chosen = {name: value for name, value in vars(args).items() if name not in hidden}
    chosen = {
        name: value if isinstance(value, int | float | str | None) else str(value) for name, value in chosen.items()
    }
    return chosen | {name: file_identity(path) for name, path in inputs.items()}


def learn(
    current: Job,
    volume: Volume,
    marks: Volume,
    args: argparse.Namespace,
    bars: Bars,
    classes: tuple[str, ...],
    soft_name: str = SOFT,
) -> tuple[PixelClassifier, SoftSegmentation]:
    """Strokes -> forest -> soft pseudo labels -> a trained network in the job's folder."""
    from .. import io
    from ..forest import PixelClassifier
    from ..training import train as train_network

    folder = current.folder

    def fit() -> PixelClassifier:
        forest = pseudolabel.fit(volume, marks, classes, args, bars)
        forest.save(folder / FOREST)
        return forest

    forest = current.stage("forest", fit, lambda: PixelClassifier.load(folder / FOREST))
    soft = current.stage(
        "pseudo labels",
        lambda: pseudolabel.predict(
            forest, volume, folder / soft_name, wishes=pseudolabel.Wishes(device=args.device), progress=bars
        ),
        lambda: io.read_segmentation(folder / soft_name),
    )

    def fit_network() -> None:
        settings, steps = train.settings_of(args)
        model = train.network_of(args, len(classes))
        train_network(model, [(volume, soft)], steps=steps, settings=settings, out=folder / NET, progress=bars)

    current.stage("training", fit_network, lambda: None)
    return forest, soft


def picture(
    current: Job,
    volume: Volume,
    proba: SoftSegmentation,
    args: argparse.Namespace,
    bars: Bars,
    soft: SoftSegmentation | None = None,
) -> list[str]:
    """Transfer functions, pictures and slices, of the pseudo labels too; what the renderer had to say."""
    folder = current.folder

    def draw() -> None:
        transfer = render.ramps(volume, proba, args, progress=bars)
        transfer.save(folder / "transfer.json")
        part = render.drawn_part(volume, proba, args)
        notices = render.draw(*part, transfer, args, folder / "picture.png", cut=args.cut, progress=bars)
        cut = args.cut or "z"
        if not args.cut:
            render.draw(*part, transfer, args, folder / "picture_cut.png", cut=cut, progress=bars)
        if soft is not None:
            part = render.drawn_part(volume, soft, args)
            transfer = render.ramps(volume, soft, args, progress=bars)
            render.draw(*part, transfer, args, folder / "picture_pseudo_labels.png", cut=cut, progress=bars)
        current.record["notices"] = notices
        render.draw_slices(volume, proba, folder)

    current.stage("picture", draw, lambda: None)
    return list(current.record.get("notices", []))


def picture_links(folder: Path) -> list[str]:
    """The pictures that `picture` left, as Markdown."""
    texts = {
        "picture.png": "The network's segmentation",
        "picture_cut.png": "The same, cut open at the middle slice",
        "picture_pseudo_labels.png": "The forest's pseudo labels, cut open",
    }
    return [f"![{text}]({name})" for name, text in texts.items() if (folder / name).exists()]


def run(args: argparse.Namespace) -> None:
    """Every stage."""
    from .. import io

    out = Path(args.output)
    settings = settings_from(args, {"tomogram": args.tomogram, "labels": args.labels})
    check_settings(args, args.classes)
    volume = open_tomogram(args)
    marks = io.read_volume(args.labels)
    with job(out, settings, restart=args.overwrite) as current, Bars() as bars:
        folder = current.folder
        forest, soft = learn(current, volume, marks, args, bars, args.classes)
        proba = current.stage(
            "segmentation",
            lambda: segment.predict(folder / NET, volume, folder / PROBA, args, progress=bars),
            lambda: io.read_segmentation(folder / PROBA),
        )
        notices = picture(current, volume, proba, args, bars, soft)
        _report.write(folder / "report.md", _sections(current, args, volume, marks, forest, (soft, proba), notices))
    say(f"{out / 'picture.png'}\n{out / 'report.md'}")


def _sections(
    current: Job,
    args: argparse.Namespace,
    volume: Volume,
    marks: Volume,
    forest: PixelClassifier,
    results: tuple[SoftSegmentation, SoftSegmentation],
    notices: list[str],
) -> list[str]:
    import numpy as np

    from ..models import load_model
    from ..transfer import TransferFunction

    facts = load_model(current.folder / NET)[1]
    transfer = TransferFunction.load(current.folder / "transfer.json")
    drawn = np.bincount(marks.numpy().ravel().astype(np.int64), minlength=len(forest.classes) + 1)[1:]
    shares = [_report.class_shares(result) for result in results]
    rows = [
        [name, f"{drawn[i]:,}", f"{shares[0][i]:.2%}", f"{shares[1][i]:.2%}", f"{transfer.ramps[i].left:.2f}"]
        for i, name in enumerate(forest.classes)
    ]
    size = " x ".join(f"{value:.4g}" for value in volume.voxel_size_A)
    scores = [("not met there" if math.isnan(value) else f"{value:.3f}") for value in facts.metrics["f1"]]
    validation = ", ".join(f"{name} {score}" for name, score in zip(facts.classes, scores, strict=True))
    return [
        f"# {Path(args.tomogram).name}",
        f"{' x '.join(map(str, volume.shape))} voxels (z, y, x) of {size} A ({volume.voxel_size_status}).",
        *picture_links(current.folder),
        "## Classes",
        _report.table(["class", "voxels drawn", "share: forest", "share: network", "ramp from"], rows),
        "Shares are of voxels in which the class is the most probable one. Ramps start where Algorithm 1 of the "
        "paper says.",
        f"Network against the forest's labels on held-back voxels, F1: {validation}.",
        "## Slices",
        *(f"![{name}]({name})" for name in render.slice_names(current.folder)),
        "## Time",
        _report.timing(current.seconds()),
        *(["## Notices", *(f"- {notice}" for notice in notices)] if notices else []),
    ]
