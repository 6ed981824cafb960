# SPDX-License-Identifier: MIT
"""Judge a soft segmentation against the truth, or against labels: a table of scores a class, and their means.

Labelled voxels alone count. F1 and IoU are given by the most probable class, and for each class on its own where its
probability is above one half. "class mean" counts each class that was met the same, "by voxels" as often as the truth
has voxels of it. The simulator's truth counts classes from 0, strokes and label files from 1 (0 unlabelled).

  cryoet evaluate proba.zarr --truth sim/truth.mrc --surface-tolerance 2
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from .._checks import file_error
from ._console import Bars, guard_outputs, need_suffix, say
from ._report import table

if TYPE_CHECKING:
    from ..training.metrics import Evaluation
    from ..volume import Volume

_HEADS = {
    "f1": "F1",
    "iou": "IoU",
    "f1_at_threshold": "F1 at 0.5",
    "iou_at_threshold": "IoU at 0.5",
    "surface_dice": "surface Dice",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("segmentation", metavar="FILE", help="soft segmentation, or labels from --labels-out")
    parser.add_argument("--truth", required=True, metavar="FILE", help="whole numbers, a class each, of the same shape")
    parser.add_argument(
        "--truth-from",
        type=int,
        choices=(0, 1),
        help="number of the first class in the truth (default: 0 where the file says that it was simulated, else 1)",
    )
    parser.add_argument(
        "--surface-tolerance",
        type=_length,
        metavar="NM",
        help="also surface Dice: the share of both surfaces within so many nm of the other; takes longer",
    )
    parser.add_argument("--json", metavar="FILE", help="also write all scores as JSON")


def _length(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a length in nm, from 0 on; got {text!r}")
    return value


def first_class(truth: Volume) -> int:
    """The number of the first class in a truth: 0 where its notes are those of the simulator's, else 1."""
    return 0 if " ".join(truth.notes).startswith("truth of simulated ") else 1


def score_table(scores: Evaluation) -> str:
    """A row a class, then the two means, as Markdown; then what is said of all classes together."""
    shown = [name for name in scores.PER_CLASS if getattr(scores, name) is not None]
    head = ["class", *(_HEADS[name] for name in shown), "voxels", "found"]
    columns = [getattr(scores, name) for name in shown]
    rows = [
        [name, *(_number(column[k]) for column in columns), f"{scores.voxels[k]:,}", f"{scores.found[k]:,}"]
        for k, name in enumerate(scores.classes)
    ]
    total = f"{sum(scores.voxels):,}"
    for name, mean in (("class mean", scores.class_mean), ("by voxels", scores.weighted_mean)):
        rows.append([name, *(_number(mean(score)) for score in shown), total, total])
    facts = [
        f"accuracy {_number(scores.accuracy)}",
        f"expected calibration error {_number(scores.calibration_error, 4)}",
        f"cross-entropy {_number(scores.cross_entropy, 4)}",
    ]
    if scores.surface_tolerance_nm is not None:
        facts.append(f"surface Dice within {scores.surface_tolerance_nm:g} nm")
    return table(head, rows) + "\n" + ", ".join(facts)


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def run(args: argparse.Namespace) -> None:
    """A segmentation and the truth in, scores out."""
    from .. import io
    from ..training.metrics import Evaluator

    output = None if args.json is None else need_suffix(args.json, (".json",), "--json")
    if output is not None:
        guard_outputs([] if _is_evaluation(output) else [output], [args.segmentation, args.truth])
    soft, truth = io.read_segmentation(args.segmentation), io.read_volume(args.truth)
    first = first_class(truth) if args.truth_from is None else args.truth_from
    if truth.shape != soft.shape:
        raise file_error(args.truth, "truth", expected=f"the segmentation's shape {soft.shape}", got=truth.shape)
    evaluator = Evaluator(soft.classes, surface_tolerance_nm=args.surface_tolerance)
    with Bars() as bars:
        evaluator.add(soft, truth, truth_from=first, progress=bars)
    scores = evaluator.result()
    if not sum(scores.voxels):
        raise file_error(
            args.truth, "truth", expected="labelled voxels", got="none", fix="--truth-from 0 if 0 is a class there"
        )
    unlabelled = 1 - sum(scores.voxels) / math.prod(truth.shape)
    if first == 1 and not scores.voxels[-1] and unlabelled > 0.5:
        say(
            f"note: {args.truth} has no {scores.classes[-1]}, and {unlabelled:.0%} of it is 0, which counts as "
            "unlabelled: --truth-from 0 if that is the first class"
        )
    print(score_table(scores))
    if output is not None:
        facts = {"segmentation": str(args.segmentation), "truth": str(args.truth), "truth_from": first}
        with io.partial_path(output) as partial:
            text = json.dumps(scores.to_dict() | facts, indent=2, ensure_ascii=False, allow_nan=False)
            Path(partial).write_text(text + "\n", encoding="utf-8")
        say(str(output))


def _is_evaluation(path: Path) -> bool:
    """Whether a file is an older one of this command, which may be replaced."""
    return path.is_file() and b'"kind": "evaluation"' in path.read_bytes()[:200]
