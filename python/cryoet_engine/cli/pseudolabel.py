# SPDX-License-Identifier: MIT
"""Turn sparse strokes into dense soft pseudo labels, as ilastik's pixel classification does.

37 features (61 channels) and a random forest of 100 trees, streamed in blocks: memory does not grow with the
volume. A forest saved with --save-forest can be applied to other tomograms with --forest.

  cryoet pseudolabel TOMO --labels STROKES --classes background,membrane,spikes,lumen -o soft.zarr --save-forest F
  cryoet pseudolabel OTHER --forest F -o soft2.zarr
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .._checks import input_error
from .._progress import Progress
from ._console import Bars, add_tomogram, class_names, guard_outputs, need_suffix, open_tomogram, positive, say

if TYPE_CHECKING:
    from ..forest import PixelClassifier
    from ..volume import SoftSegmentation, Volume


def add_forest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides a forest."""
    parser.add_argument("--trees", type=positive, default=100, metavar="N", help="trees of the forest (default 100)")
    parser.add_argument(
        "--features",
        choices=("ilastik", "scale-true"),
        default="ilastik",
        help="ilastik's numbers, or every filter at its own scale (default ilastik)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all that is random (default 0)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--labels", metavar="STROKES", help="strokes: 0 nothing drawn, 1 the first class, and so on")
    source.add_argument("--forest", metavar="F", help="a forest saved by --save-forest")
    parser.add_argument(
        "--classes", type=class_names, metavar="A,B,...", help="names of classes 1, 2, ..., background first"
    )
    parser.add_argument("-o", "--output", required=True, metavar="ZARR", help="soft pseudo labels, OME-Zarr")
    parser.add_argument("--save-forest", metavar="F", help="save the forest, to apply it to other tomograms")
    parser.add_argument(
        "--match-intensity",
        action="store_true",
        help="with --forest: bring the grey scale (mean, deviation) to that of the tomogram it was trained on",
    )
    parser.add_argument(
        "--dtype",
        choices=("uint8", "uint16", "float32"),
        default="uint8",
        help="type of stored probabilities",
    )
    add_forest_arguments(parser)


def fit(
    volume: Volume,
    marks: Volume,
    classes: tuple[str, ...] | None,
    args: argparse.Namespace,
    progress: Progress,
) -> PixelClassifier:
    """Train the forest that the arguments ask for."""
    from ..features import FeatureSpec
    from ..forest import PixelClassifier

    forest = PixelClassifier(n_trees=args.trees, spec=FeatureSpec(compat=args.features), seed=args.seed)
    return forest.fit(volume, marks, classes=classes, progress=progress)


def predict(
    forest: PixelClassifier,
    volume: Volume,
    path: Path,
    *,
    dtype: str = "uint8",
    match_intensity: bool = False,
    progress: Progress,
) -> SoftSegmentation:
    """Stream the forest's probabilities of a volume to an OME-Zarr and open it."""
    from .. import io

    with io.create_segmentation(path, volume.shape, forest.classes, dtype=dtype, grid=volume.grid()) as out:
        forest.predict_proba(volume, dtype=dtype, out=out, match_intensity=match_intensity, progress=progress)
    return io.read_segmentation(path)


def run(args: argparse.Namespace) -> None:
    """Strokes or a forest in, soft pseudo labels out."""
    from .. import io
    from ..forest import PixelClassifier

    output = need_suffix(args.output, (".zarr",))
    if args.forest and (args.save_forest or args.classes):
        option = "--save-forest" if args.save_forest else "--classes"
        raise input_error(option, "option", expected="--labels with it", got="--forest", fix="leave one of them out")
    if args.match_intensity and not args.forest:
        raise input_error("--match-intensity", "option", expected="--forest with it", got="--labels")
    guard_outputs([output, args.save_forest], [args.tomogram, args.labels, args.forest])
    volume = open_tomogram(args)
    with Bars() as bars:
        if args.forest:
            forest = PixelClassifier.load(args.forest)
            if warning := forest.voxel_size_mismatch(volume):
                say(f"note: {warning}")
        else:
            forest = fit(volume, io.read_volume(args.labels), args.classes, args, bars)
        if args.save_forest:
            forest.save(args.save_forest)
        predict(forest, volume, output, dtype=args.dtype, match_intensity=args.match_intensity, progress=bars)
    say(f"{output}: soft pseudo labels of {', '.join(forest.classes)}")
