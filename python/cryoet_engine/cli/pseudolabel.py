# SPDX-License-Identifier: MIT
"""Turn sparse strokes into dense soft pseudo labels, as ilastik's pixel classification does.

37 features (61 channels) and a random forest of 100 trees, streamed in blocks: memory does not grow with the
volume, and stays under --memory. A forest saved with --save-forest can be applied to other tomograms with --forest,
and so can the classifier of an ilastik project (.ilp).

  cryoet pseudolabel TOMO --labels STROKES --classes background,membrane,spikes,lumen -o soft.zarr --save-forest F
  cryoet pseudolabel OTHER --forest F -o soft2.zarr
  cryoet pseudolabel TOMO --forest project.ilp -o soft.zarr --labels-out labels.mrc --memory 2G

Ctrl-C leaves nothing behind, and nothing to resume: a volume takes minutes. (`cryoet run` resumes by stages.)
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .._checks import input_error
from .._progress import Progress
from ._console import (
    Bars,
    add_extra,
    add_tomogram,
    class_names,
    guard_outputs,
    load_forest,
    memory_size,
    need_suffix,
    open_extra,
    open_tomogram,
    positive,
    say,
)
from ._maps import map_notes, map_type

if TYPE_CHECKING:
    from ..cuda.device import DeviceName
    from ..features import FeatureSpec
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
    parser.add_argument(
        "--filters", type=_names, metavar="A,B,...", help="some of the filters, by ilastik's names (default all six)"
    )
    parser.add_argument("--scales", type=_numbers, metavar="A,B,...", help="some scales, in voxels (default all seven)")
    parser.add_argument(
        "--channels",
        type=_pairs,
        metavar="A:S,...",
        help="filters each at its own scale, as HessianOfGaussianEigenvalues:1.6, instead of --filters and --scales",
    )
    parser.add_argument(
        "--planar",
        type=_numbers,
        nargs="?",
        const=True,
        default=(),
        metavar="A,B,...",
        help="filter slice by slice, for slices far apart or a strong missing wedge: these scales, or without any all",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all that is random (default 0)")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted(float(number) for number in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers, as in 0.7,1.6,3.5; got {text!r}") from None


def _pairs(text: str) -> tuple[tuple[str, float], ...]:
    try:
        parts = [part.split(":") for part in text.split(",")]
        return tuple((name.strip(), float(scale)) for name, scale in parts)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected FILTER:SCALE, as in LaplacianOfGaussian:1.6; got {text!r}"
        ) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--labels", metavar="STROKES", help="strokes: 0 nothing drawn, 1 the first class, and so on")
    source.add_argument("--forest", metavar="F", help="a forest saved by --save-forest, or an ilastik project (.ilp)")
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
    parser.add_argument(
        "-u", "--uncertainty-out", metavar="FILE", help="how unsure the forest is of each voxel, .mrc or .zarr"
    )
    parser.add_argument(
        "--uncertainty",
        choices=("entropy", "margin"),
        default="entropy",
        help="entropy (default): 0 sure, 1 unsure; margin between the first two classes: 1 sure, 0 torn",
    )
    parser.add_argument("--labels-out", metavar="FILE", help="hard labels 1, 2, ..., .mrc or .zarr")
    add_extra(parser)
    parser.add_argument(
        "--memory", type=memory_size, metavar="SIZE", help="stay under this, as 4G or 500M; the result is the same"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where voxels are classified; auto: on an NVIDIA card where there is one, and CuPy",
    )
    parser.add_argument("--report", metavar="FILE", help="what the forest holds and leans on, .md or .json")
    add_forest_arguments(parser)


def spec_of(args: argparse.Namespace) -> FeatureSpec:
    """The features that the arguments ask for."""
    from ..features import FILTERS, SCALES, FeatureSpec

    if args.channels and (args.filters or args.scales):
        raise input_error("--channels", "option", expected="neither --filters nor --scales with it", got="both")
    return FeatureSpec(
        compat=args.features, filters=args.filters or FILTERS, scales=args.scales or SCALES, only=args.channels,
        planar=args.planar,
    )  # fmt: skip


def fit(
    volume: Volume,
    marks: Volume,
    classes: tuple[str, ...] | None,
    args: argparse.Namespace,
    progress: Progress,
) -> PixelClassifier:
    """Train the forest that the arguments ask for."""
    from ..forest import PixelClassifier

    forest = PixelClassifier(n_trees=args.trees, spec=spec_of(args), seed=args.seed)
    extra = open_extra(args) if getattr(args, "extra", None) else ()
    return forest.fit(
        volume, marks, classes=classes, extra=extra, memory=getattr(args, "memory", None), progress=progress
    )


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What `predict` may be asked for; see PixelClassifier.predict_proba. maps: files by name."""

    maps: Mapping[str, Path] = field(default_factory=dict)
    extra: Mapping[str, Volume] | list[Volume] = field(default_factory=list)
    memory: int | None = None
    device: DeviceName = "auto"


def predict(
    forest: PixelClassifier,
    volume: Volume,
    path: Path,
    *,
    dtype: str = "uint8",
    match_intensity: bool = False,
    wishes: Wishes | None = None,
    progress: Progress,
) -> SoftSegmentation:
    """Stream the forest's probabilities of a volume to an OME-Zarr and open it."""
    from .. import io

    wishes = wishes or Wishes()
    with contextlib.ExitStack() as files:
        maps = {
            name: files.enter_context(
                io.create_volume(
                    file,
                    volume.shape,
                    dtype=map_type(name, file, dtype, len(forest.classes)),
                    grid=volume.grid() | {"notes": (*map_notes(name, file, dtype, forest.classes), *volume.notes)},
                )
            )
            for name, file in wishes.maps.items()
        }
        out = files.enter_context(
            io.create_segmentation(path, volume.shape, forest.classes, dtype=dtype, grid=volume.grid())
        )
        forest.predict_proba(
            volume,
            out=out,
            maps=maps,
            extra=wishes.extra,
            memory=wishes.memory,
            device=wishes.device,
            match_intensity=match_intensity,
            progress=progress,
        )
    return io.read_segmentation(path)


def run(args: argparse.Namespace) -> None:
    """Strokes or a forest in, soft pseudo labels out."""
    from .. import io
    from ..cuda.device import choose_device
    from ._forest import write_report

    output = need_suffix(args.output, (".zarr",))
    if args.forest and (args.save_forest or args.classes):
        option = "--save-forest" if args.save_forest else "--classes"
        raise input_error(option, "option", expected="--labels with it", got="--forest", fix="leave one of them out")
    if args.forest and (args.filters or args.scales or args.channels):
        raise input_error("--filters, --scales, --channels", "option", expected="--labels with it", got="--forest")
    decided = {"--features": args.features != "ilastik", "--planar": args.planar != (), "--trees": args.trees != 100}
    decided["--seed"] = args.seed != 0
    if args.forest and any(decided.values()):
        given = ", ".join(option for option, changed in decided.items() if changed)
        raise input_error(
            given,
            "option",
            expected="--labels with it",
            got="--forest",
            fix="a trained forest brings its own: leave it out",
        )
    if args.uncertainty != "entropy" and not args.uncertainty_out:
        raise input_error("--uncertainty", "option", expected="-u FILE with it", got="none", fix="say where it goes")
    if args.match_intensity and not args.forest:
        raise input_error("--match-intensity", "option", expected="--forest with it", got="--labels")
    volumes = (".mrc", ".zarr")
    spec_of(args)  # what is wrong with it is told before the work
    maps = {}
    if args.uncertainty_out:
        maps[args.uncertainty] = need_suffix(args.uncertainty_out, volumes, "-u")
    if args.labels_out:
        maps["labels"] = need_suffix(args.labels_out, volumes, "--labels-out")
    report = need_suffix(args.report, (".md", ".json"), "--report") if args.report else None
    outputs = [output, args.save_forest, *maps.values(), report]
    inputs = [args.tomogram, args.labels, args.forest, *(path for _, path in args.extra)]
    guard_outputs(outputs, inputs)
    choose_device(args.device, where="--device")  # before the forest is grown
    volume = open_tomogram(args)
    with Bars() as bars:
        if args.forest:
            forest = load_forest(args.forest)
            if warning := forest.voxel_size_mismatch(volume):
                say(f"note: {warning}")
        else:
            forest = fit(volume, io.read_volume(args.labels), args.classes, args, bars)
        if args.save_forest:
            forest.save(args.save_forest)
        wishes = Wishes(maps=maps, extra=open_extra(args), memory=args.memory, device=args.device)
        predict(
            forest,
            volume,
            output,
            dtype=args.dtype,
            match_intensity=args.match_intensity,
            wishes=wishes,
            progress=bars,
        )
        if report:
            write_report(report, forest)
    say(f"{output}: soft pseudo labels of {', '.join(forest.classes)}")
