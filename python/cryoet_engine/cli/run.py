# SPDX-License-Identifier: MIT
"""From tomograms and strokes to pictures: every stage, in one command.

Leaves in OUT: forest.safetensors, soft.zarr (pseudo labels), net/, proba.zarr (the network's segmentation),
transfer.json, picture.png, picture_cut.png (cut open), picture_pseudo_labels.png, slices, report.md. With several
tomograms one network learns from all that have strokes, and there is a folder for each tomogram, named after it; net/
and report.md stay at the top. An interrupted run leaves OUT.partial, which the same command resumes.

  cryoet run TOMO --labels STROKES --classes background,membrane,spikes,lumen -o out/
  cryoet run --pair TOMO1 STROKES1 --pair TOMO2 STROKES2 OTHER1 OTHER2 --classes background,foreground -o out/

Two classes are learned from soft pseudo labels by regression (--targets soft --loss mse, softmax outputs), more from
hard ones by cross-entropy + Dice. Self-training: with --rounds 2 the network learns once more, also from its own
segmentation of the OTHERs where it is sure. --leave-out-slices and --min-diameter then come after the last round.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import input_error
from . import _picture, _report, pseudolabel, segment, train
from ._console import Bars, add_tomogram, class_names, open_tomogram, positive, say
from ._job import Job, file_identity, job

if TYPE_CHECKING:
    from ..semi_supervision import SemiSupervisedResult
    from ..volume import SoftSegmentation, Volume

#: What a run leaves beside the folders of tomograms, which cannot have these names.
_TAKEN = re.compile(r"net(_round\d+)?(\.partial)?|report\.md|job\.json(\.partial)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser, nargs="*")
    parser.add_argument(
        "--labels", metavar="STROKES", help="strokes on the one TOMO: 0 nothing drawn, 1 the first class, ..."
    )
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        default=[],
        metavar=("TOMO", "STROKES"),
        help="a tomogram and its strokes, instead of --labels; may be given several times. Every TOMO beside (all of "
        "them in one place) is segmented as well",
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
    group = parser.add_argument_group("self-training")
    group.add_argument(
        "--rounds", type=positive, default=1, metavar="N", help="train N times, from the second on from own labels, too"
    )
    group.add_argument(
        "--confident-share",
        type=float,
        metavar="X",
        help="which part of each class's voxels becomes an own label: those of the highest probability (default 0.5)",
    )


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every stage may be told, a group a stage."""
    for title, add in (
        ("pseudo labels", pseudolabel.add_forest_arguments),
        ("network", train.add_network_arguments),
        ("tiles", segment.add_tile_arguments),
        ("picture", _picture.add_picture_arguments),
    ):
        add(parser.add_argument_group(title))  # type: ignore[arg-type]


def check_settings(args: argparse.Namespace, classes: tuple[str, ...]) -> None:
    """Find what is wrong before hours of work, not after."""
    from ..cuda.device import choose_device
    from ..models import model_names
    from ..tiling import tile_starts

    choose_device(args.device, where="--device")
    _picture.settings_of(args)
    train.settings_of(args)
    tile_starts(2 * args.tile, args.tile, args.overlap)
    if args.model not in model_names("segmenter"):
        raise input_error("--model", "name", expected=", ".join(model_names("segmenter")), got=args.model)
    if unknown := set(args.hide) - set(classes):
        raise input_error("--hide", "classes", expected=", ".join(classes), got=", ".join(sorted(unknown)))
    if args.hide_dust is not None and not args.hide_dust > 0:
        raise input_error("--hide-dust", "diameter", expected="a number above 0, in nm", got=args.hide_dust)


def check_tiles(args: argparse.Namespace, paths: Sequence[str], volumes: Sequence[Volume]) -> None:
    """Find what the last stage but one could not do with these tomograms, before hours of work."""
    for path, volume in zip(paths, volumes, strict=True):
        if sum(args.leave_out_slices) >= volume.shape[0]:
            expected = f"under {volume.shape[0]} slices together, as many as {path} has"
            got = ",".join(map(str, args.leave_out_slices))
            raise input_error("--leave-out-slices", "numbers", expected=expected, got=got)
        wishes = {"--rescale": args.rescale, "--min-diameter": args.min_diameter, "--hide-dust": args.hide_dust}
        if volume.voxel_size_status == "unknown" and (asked := [name for name, wish in wishes.items() if wish]):
            fix = f"say it (--voxel-size), or leave {asked[0]} out"
            expected = "tomograms whose voxel sizes are known"
            raise input_error(asked[0], "voxel size", expected=expected, got=f"an unknown one in {path}", fix=fix)


def settings_from(args: argparse.Namespace, inputs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a resumed run must have in common with the interrupted one."""
    # The picture comes last: other wishes for it do not make what was computed before worthless.
    picture_only = argparse.ArgumentParser()
    _picture.add_picture_arguments(picture_only)
    wishes = vars(picture_only.parse_args([]))
    hidden = {"run", "command", "debug", "output", "overwrite", "tomogram", "labels", "pair", *wishes}
    chosen = {name: value for name, value in vars(args).items() if name not in hidden}
    chosen = {
        name: value if isinstance(value, int | float | str | None) else str(value) for name, value in chosen.items()
    }
    return chosen | {name: [file_identity(path) for path in paths] for name, paths in inputs.items()}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files: pairs of tomogram and strokes, and tomograms without strokes."""

    pairs: Sequence[tuple[str, str]]
    others: Sequence[str] = ()

    @property
    def tomograms(self) -> list[str]:
        """Those of the pairs first."""
        return [*(tomogram for tomogram, _ in self.pairs), *self.others]


def inputs_of(args: argparse.Namespace) -> Inputs:
    """The files that the arguments name; what is there twice is told, or refused where it makes no sense."""
    if args.labels and args.pair:
        raise input_error("--labels, --pair", "strokes", expected="one of the options", got="both")
    if not args.labels and not args.pair:
        expected = "TOMO --labels STROKES, or --pair TOMO STROKES"
        raise input_error("--labels, --pair", "strokes", expected=expected, got="neither")
    if args.labels:
        if len(args.tomogram) != 1:
            fix = "for several say --pair TOMO STROKES for those with strokes"
            raise input_error("--labels", "tomograms", expected="one TOMO with it", got=len(args.tomogram), fix=fix)
        return Inputs(pairs=[(args.tomogram[0], args.labels)])
    resolved = [Path(path).resolve() for pair in args.pair for path in pair]
    for path in (path for pair in args.pair for path in pair):
        if resolved.count(Path(path).resolve()) > 1:
            fix = "a tomogram has one file of strokes, with all that is drawn on it"
            raise input_error("--pair", path, expected="each file once", got="it more than once", fix=fix)
    others: dict[Path, str] = {}
    for path in args.tomogram:
        place = Path(path).resolve()
        if place in resolved[1::2]:
            raise input_error("TOMO", path, expected="a tomogram", got="the strokes of a --pair")
        if place in resolved or place in others:
            say(f"note: {path} is named twice and segmented once")
        else:
            others[place] = path
    return Inputs(pairs=[(tomogram, strokes) for tomogram, strokes in args.pair], others=list(others.values()))


def names_of(paths: Sequence[str]) -> list[str]:
    """A name for each tomogram, from its file's: all different, and such that a folder may have it."""
    names: list[str] = []
    for path in paths:
        stem = Path(path).name.removesuffix(".gz")
        stem = re.sub(r"[^\w.+-]", "_", Path(stem).stem)
        number, name = 1, stem
        while name in names or _TAKEN.fullmatch(name):
            number += 1
            name = f"{stem}_{number}"
        names.append(name)
    return names


def picture(
    current: Job,
    volume: Volume,
    proba: SoftSegmentation,
    args: argparse.Namespace,
    bars: Bars,
    soft: SoftSegmentation | None = None,
    *,
    name: str = "",
) -> list[str]:
    """Transfer functions, pictures and slices, of the pseudo labels too; what the renderer had to say.

    name: of the tomogram, and of its folder, where there are several.
    """
    folder, stage = current.folder / name, f"picture: {name}" if name else "picture"

    def draw() -> None:
        folder.mkdir(exist_ok=True)
        transfer = _picture.ramps(volume, proba, args, progress=bars)
        transfer.save(folder / "transfer.json")
        part = _picture.drawn_part(volume, proba, args)
        notices = _picture.draw(*part, transfer, args, folder / "picture.png", progress=bars)
        cuts = args.cut or [_picture.cut_plane("z")]
        if not args.cut:
            _picture.draw(*part, transfer, args, folder / "picture_cut.png", cuts=cuts, progress=bars)
        if soft is not None:
            part = _picture.drawn_part(volume, soft, args)
            transfer = _picture.ramps(volume, soft, args, progress=bars)
            _picture.draw(*part, transfer, args, folder / "picture_pseudo_labels.png", cuts=cuts, progress=bars)
        current.record.setdefault("notices", {})[name] = notices
        _picture.draw_slices(volume, proba, folder)

    current.stage(stage, draw, lambda: None)
    return list(current.record["notices"][name])


def picture_links(folder: Path, name: str = "") -> list[str]:
    """The pictures that `picture` left, as Markdown."""
    texts = {
        "picture.png": "The network's segmentation",
        "picture_cut.png": "The same, cut open at the middle slice",
        "picture_pseudo_labels.png": "The forest's pseudo labels, cut open",
    }
    return [f"![{text}]({Path(name, file)})" for file, text in texts.items() if (folder / name / file).exists()]


def run(args: argparse.Namespace) -> None:
    """Every stage."""
    from .. import io
    from ..semi_supervision import Hooks, SemiSupervisedSettings, default_loss, default_targets, semi_supervised

    out, inputs = Path(args.output), inputs_of(args)
    args.targets = args.targets or default_targets(len(args.classes))
    if args.loss is None:
        args.loss, args.activation = default_loss(len(args.classes), args.targets)
    files = {"tomograms": inputs.tomograms, "strokes": [strokes for _, strokes in inputs.pairs]}
    settings = settings_from(args, files)
    check_settings(args, args.classes)
    training, steps = train.settings_of(args)
    share = {} if args.confident_share is None else {"confident_share": args.confident_share}
    route = SemiSupervisedSettings(
        n_trees=args.trees,
        features=pseudolabel.spec_of(args),
        steps=steps,
        training=training,
        rounds=args.rounds,
        seed=args.seed,
        **share,
    )
    volumes = [open_tomogram(args, path) for path in inputs.tomograms]
    check_tiles(args, inputs.tomograms, volumes)
    strokes = [io.read_volume(path) for _, path in inputs.pairs]
    names, several = names_of(inputs.tomograms), len(volumes) > 1
    # A further round would learn as truth what these two make background.
    learned = argparse.Namespace(**vars(args) | {"leave_out_slices": (0, 0), "min_diameter": None})
    with job(out, settings, restart=args.overwrite) as current, Bars() as bars:
        current.announces = several
        result = semi_supervised(
            list(zip(volumes, strokes, strict=False)),
            volumes[len(strokes) :],
            classes=args.classes,
            model=train.network_of(args, len(args.classes)),
            settings=route,
            names=names,
            out=current.folder,
            hooks=Hooks(
                stage=current.stage,
                segmenter=lambda net, volume, path, last: segment.predict(
                    net, volume, path, args if last else learned, progress=bars
                ),
                tell=lambda note: say(f"note: {note}"),
            ),
            progress=bars,
        )
        labels = [*result.pseudo_labels, *[None] * len(inputs.others)]
        notices = list(result.notes)
        if args.rounds > 1 and (any(args.leave_out_slices) or args.min_diameter is not None):
            notices.append("slices left out and a smallest diameter are of the last round alone, and of its scores")
        folders = names if several else [""]
        for volume, proba, soft, folder in zip(volumes, result.segmentations, labels, folders, strict=True):
            notices += picture(current, volume, proba, args, bars, soft, name=folder)
        _report.write(current.folder / "report.md", _sections(current, inputs, folders, volumes, result, notices))
    say("\n".join(str(out / name / "picture.png") for name in folders) + f"\n{out / 'report.md'}")


def _sections(
    current: Job,
    inputs: Inputs,
    folders: Sequence[str],
    volumes: Sequence[Volume],
    result: SemiSupervisedResult,
    notices: Sequence[str],
) -> list[str]:
    """The report; folders: of the tomograms in OUT, "" where there is one alone."""
    classes, several = result.segmentations[0].classes, len(volumes) > 1
    shares = [_report.class_shares(one) for one in result.segmentations]
    scores = [("not met there" if math.isnan(value) else f"{value:.3f}") for value in result.rounds[-1].held_back_f1]
    forests = "the forest's labels" if len(result.forests) == 1 else "the forests' labels"
    against = forests if len(result.rounds) == 1 else "the last round's labels"
    network = [
        "Shares are of voxels in which the class is the most probable one. Ramps start where Algorithm 1 of the "
        "paper says.",
        f"Network against {against} on held-back voxels, F1: "
        + ", ".join(f"{name} {score}" for name, score in zip(classes, scores, strict=True))
        + ".",
    ]
    if len(result.rounds) > 1:
        network += [
            "## Rounds",
            _report.rounds_table(classes, result.rounds),
            "None of these is the truth: the forests were trained on the strokes, and some of the held-back labels are "
            "the network's own from the second round on. Falling scores against the first two tell that it strays.",
        ]
    if several:
        rows = [
            [
                name,
                f"{sum(result.drawn[k]):,}" if k < len(result.drawn) else "none",
                *(f"{share:.2%}" for share in shares[k]),
            ]
            for k, name in enumerate(folders)
        ]
        head = ["tomogram", "voxels drawn", *(f"share: {name}" for name in classes)]
        sections = [f"# {len(volumes)} tomograms", _report.table(head, rows), *network]
    else:
        sections = [f"# {Path(inputs.tomograms[0]).name}"]
    for k, (folder, path) in enumerate(zip(folders, inputs.tomograms, strict=True)):
        size = " x ".join(f"{value:.4g}" for value in volumes[k].voxel_size_A)
        sections += [
            *([f"## {folder}", path] if several else []),
            f"{' x '.join(map(str, volumes[k].shape))} voxels (z, y, x) of {size} A ({volumes[k].voxel_size_status}).",
            *picture_links(current.folder, folder),
            *([] if several else ["## Classes"]),
            _class_table(current.folder / folder, k, result, shares[k]),
            *([] if several else [*network, "## Slices"]),
            *(f"![{name}]({Path(folder, name)})" for name in _picture.slice_names(current.folder / folder)),
        ]
    return [
        *sections,
        "## Time",
        _report.timing(current.seconds()),
        *(["## Notices", *(f"- {notice}" for notice in notices)] if notices else []),
    ]


def _class_table(folder: Path, k: int, result: SemiSupervisedResult, shares: Sequence[float]) -> str:
    """A row a class of one tomogram; of one without strokes there are no columns of strokes and forest."""
    from ..transfer import TransferFunction

    ramps = TransferFunction.load(folder / "transfer.json").ramps
    names = result.segmentations[k].classes
    if k >= len(result.forests):
        rows = [[name, f"{shares[i]:.2%}", f"{ramps[i].left:.2f}"] for i, name in enumerate(names)]
        return _report.table(["class", "share: network", "ramp from"], rows)
    forest = _report.class_shares(result.pseudo_labels[k])
    rows = [
        [name, f"{result.drawn[k][i]:,}", f"{forest[i]:.2%}", f"{shares[i]:.2%}", f"{ramps[i].left:.2f}"]
        for i, name in enumerate(names)
    ]
    return _report.table(["class", "voxels drawn", "share: forest", "share: network", "ramp from"], rows)
