# SPDX-License-Identifier: MIT
"""The report that a run leaves: Markdown with the pictures in it, and the figures of this very run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..semi_supervision import Round
    from ..training.metrics import ConfusionMatrix
    from ..volume import SoftSegmentation, Volume


def evaluate(truth: Volume, segmentation: SoftSegmentation) -> ConfusionMatrix:
    """Compare a segmentation's most probable class with the truth, slab by slab.

    truth: the classes' numbers in the segmentation's order, from 0, as the simulator gives it.
    """
    import numpy as np

    from ..training.metrics import ConfusionMatrix

    matrix = ConfusionMatrix(len(segmentation.classes))
    depth = 16
    for z in range(0, truth.shape[0], depth):
        slab = np.asarray(truth.data[z : z + depth]).astype(np.int64)
        matrix.update(slab, np.asarray(segmentation.data[:, z : z + depth]).argmax(axis=0))
    return matrix


def class_shares(segmentation: SoftSegmentation) -> list[float]:
    """The share of voxels in which each class is the most probable one."""
    import numpy as np

    counts = np.zeros(len(segmentation.classes), np.int64)
    for z in range(segmentation.shape[0]):
        most = np.asarray(segmentation.data[:, z]).argmax(axis=0)
        counts += np.bincount(most.ravel(), minlength=len(counts))
    return [float(count / counts.sum()) for count in counts]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def f1_row(name: str, matrix: ConfusionMatrix) -> list[str]:
    """One row of F1 per class, their mean, and the accuracy."""
    import numpy as np

    f1 = matrix.f1()
    return [name, *(f"{value:.3f}" for value in f1), f"{np.nanmean(f1):.3f}", f"{matrix.accuracy():.3f}"]


def f1_table(classes: Sequence[str], rows: Mapping[str, ConfusionMatrix]) -> str:
    """F1 per class, a row a stage."""
    return table(["F1", *classes, "mean", "accuracy"], [f1_row(name, matrix) for name, matrix in rows.items()])


def rounds_table(classes: Sequence[str], rounds: Sequence[Round]) -> str:
    """F1 of each round of self-training by three yardsticks, none of them the truth."""
    from ..training.metrics import class_mean

    rows = []
    for number, one in enumerate(rounds, start=1):
        for name, scores in (
            ("the strokes", one.strokes.f1()),
            ("the forests' pseudo labels", one.pseudo_labels.f1()),
            ("its held-back labels", one.held_back_f1),
        ):
            cells = ["not met" if math.isnan(score) else f"{score:.3f}" for score in [*scores, class_mean(scores)]]
            rows.append([str(number), name, *cells])
    return table(["round", "F1 against", *classes, "mean"], rows)


def minutes(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def timing(seconds: dict[str, float]) -> str:
    """How long the stages took, as a Markdown table; those of several tomograms ("STAGE: NAME") together."""
    kinds: dict[str, float] = {}
    for name, value in seconds.items():
        kind = name.partition(": ")[0]
        kinds[kind] = kinds.get(kind, 0) + value
    rows = [[name, minutes(value)] for name, value in kinds.items()]
    return table(["stage", "min:s"], [*rows, ["all", minutes(sum(seconds.values()))]])


def write(path: Path, sections: Sequence[str]) -> None:
    """Join the sections; renamed when whole."""
    from .. import io

    with io.partial_path(path) as partial:
        Path(partial).write_text("\n".join(section.strip() + "\n" for section in sections), encoding="utf-8")
