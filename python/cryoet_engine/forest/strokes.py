# SPDX-License-Identifier: MIT
"""From drawn strokes to training samples: labelled voxels, class names, features at those voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from .._progress import Progress
from ..features import FeatureSource
from ..tiling import block_around
from ..volume import Float32Array, Volume, drop_pages

MAX_CLASSES = 255


def labelled_voxels(marks: Volume) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Positions (n, 3) and labels (n,) of the labelled voxels in C order, read plane by plane."""
    positions, labels = [], []
    for z in range(marks.shape[0]):
        plane = np.asarray(marks.data[z : z + 1])[0]
        if plane.dtype.kind == "f" and not (np.isfinite(plane).all() and (plane == np.rint(plane)).all()):
            raise input_error("fit", "marks", expected="whole numbers", got=f"fractions or NaN in slice {z}")
        if plane.dtype.kind in "fi" and plane.size and plane.min() < 0:
            raise input_error("fit", "marks", expected="0 (unlabelled) or a class above 0", got=plane.min())
        y, x = np.nonzero(plane)
        if y.size:
            positions.append(np.stack([np.full_like(y, z), y, x], axis=1))
            labels.append(plane[y, x].astype(np.int64))
        drop_pages(marks.data)
    if not labels:
        raise input_error(
            "fit", "marks", expected="some labelled voxels", got="0 everywhere", fix="draw at least one stroke a class"
        )
    return np.concatenate(positions), np.concatenate(labels)


def class_names(labels: npt.NDArray[np.int64], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names, checked against the labels: every class must have strokes."""
    largest = int(labels.max())
    if largest > MAX_CLASSES:
        raise input_error("fit", "marks", expected=f"at most {MAX_CLASSES} classes", got=f"label {largest}")
    if isinstance(classes, str):
        raise input_error("fit", "classes", expected="a list of names", got=repr(classes))
    names = tuple(f"class_{i + 1}" for i in range(largest)) if classes is None else tuple(classes)
    if len(set(names)) != len(names) or not all(isinstance(n, str) and n.strip() for n in names):
        raise input_error("fit", "classes", expected="names, none empty and none twice", got=names)
    if largest > len(names):
        raise input_error("fit", "marks", expected=f"labels 1 to {len(names)} ({', '.join(names)})", got=largest)
    present = set(np.unique(labels).tolist())
    if len(present) == 1:
        raise input_error(
            "fit", "marks", expected="strokes of two classes or more", got=f"only {names[present.pop() - 1]!r}",
            fix="mark at least one more class",
        )  # fmt: skip
    missing = [name for i, name in enumerate(names) if i + 1 not in present]
    if missing and classes is None:
        raise input_error(
            "fit", "marks", expected="labels 1, 2, ... with none left out", got=", ".join(map(str, sorted(present))),
            fix="number the classes from 1 on",
        )  # fmt: skip
    if missing:
        raise input_error(
            "fit", "marks", expected="strokes of every class", got=f"none of {', '.join(missing)}",
            fix="mark some of it, or leave the class out",
        )  # fmt: skip
    return names


def features_at(
    source: FeatureSource, where: npt.NDArray[np.intp], block: tuple[int, int, int], progress: Progress
) -> Float32Array:
    """Channels (n, C), extra ones last, at the positions `where` (n, 3).

    Computed in the boxes that bound the positions within each `block`; its size changes no bit.
    """
    out = np.empty((len(where), source.n_channels), np.float32)
    cells, cell_of = np.unique(where // np.array(block), axis=0, return_inverse=True)
    for i in range(len(cells)):
        progress("features of the strokes", i, len(cells))
        rows = np.nonzero(cell_of.ravel() == i)[0]
        low, high = where[rows].min(axis=0), where[rows].max(axis=0) + 1
        box = (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])), slice(int(low[2]), int(high[2])))
        channels = np.empty((source.n_channels, *(high - low)), np.float32)
        source.compute(block_around(source.volume.shape, box, source.spec.halo), channels[: source.spec.n_channels])
        source.read_extra(box, channels[source.spec.n_channels :])
        z, y, x = (where[rows] - low).T
        out[rows] = channels[:, z, y, x].T
    progress("features of the strokes", len(cells), len(cells))
    return out
