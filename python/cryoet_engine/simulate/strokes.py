# SPDX-License-Identifier: MIT
"""A scripted annotator: sparse strokes as a person would draw them in half an hour, from the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import ndimage

from .._checks import input_error
from ..volume import Volume
from ._ranges import number
from .recipe import CLASSES

_SHARE_OF_FIRST = 0.5  # of the painted voxels: most of a tomogram is background, and it varies most
_SURE_VOX = 3.0  # this far from a border a person no longer minds it
_LONGEST_STROKE, _DAB = 40, 4  # steps of a pixel
_NEAR_VOX = 12  # of a structure: where its neighbourhood has to be told from it


def draw_strokes(
    truth: Volume,
    *,
    tomogram: Volume | None = None,
    slices: int = 3,
    classes: Sequence[str] = CLASSES,
    brush_vox: float = 2.5,
    fraction: float = 0.002,
    error_rate: float = 0.0,
    seed: int = 0,
) -> Volume:
    """Draw strokes on a few xy slices: along the middle of what is thin, as squiggles through what is wide.

    truth: class numbers (z, y, x), 0..K-1 for `classes` in their order; the first class is the background. Part of
    its strokes run around the structures and along their outlines. tomogram: where given (protein dark), some go as
    dabs on the background's darkest spots: free protein and gold, which a person marks once they are mistaken.
    slices: how many to draw on, spread over the volume where most is to see. brush_vox: diameter of the brush.
    fraction: of all voxels to paint, 0.001 to 0.003 for half an hour of work. error_rate: share of the painted
    voxels that carry a neighbouring class's label: slips across a border. The same seed gives the same strokes.

    Returns uint8 labels: 0 where nothing was painted, else the class's number and one. A class that has no voxel in the
    truth gets no stroke; small classes may give less than their share. InputError: numbers outside 0..K-1, another
    shape, a number out of range.
    """
    where = "draw_strokes"
    slices = number(where, "slices", slices, 1, truth.shape[0], whole=True)
    brush_vox = number(where, "brush_vox", brush_vox, 1, 50)
    fraction = number(where, "fraction", fraction, 1e-7, 0.5)
    error_rate = number(where, "error_rate", error_rate, 0, 0.5)
    seed = number(where, "seed", seed, 0, 2**63 - 1, whole=True)
    if not 1 <= len(classes) <= 255:
        raise input_error(where, "classes", expected="1 to 255 names", got=f"{len(classes)}")
    labels = truth.numpy()
    if labels.dtype.kind not in "iu":
        raise input_error(where, "truth", expected="whole numbers", got=labels.dtype)
    if labels.min() < 0 or labels.max() >= len(classes):
        expected = f"numbers 0..{len(classes) - 1}, one for each of {', '.join(classes)}"
        raise input_error(where, "truth", expected=expected, got=f"{labels.min()}..{labels.max()}")
    labels = labels.astype(np.uint8) + np.uint8(1)  # as they will be painted
    if tomogram is not None and tomogram.shape != truth.shape:
        raise input_error(where, "tomogram", expected=f"shape {truth.shape}", got=tomogram.shape)
    rng = np.random.default_rng([seed, 2])
    chosen = _choose_slices(labels, slices, len(classes))
    marks = np.zeros(labels.shape, np.uint8)
    present = [c for c in range(1, len(classes) + 1) if np.any(labels[chosen] == c)]
    for z in chosen:
        dark = None if tomogram is None else ndimage.gaussian_filter(tomogram.block(_plane(z))[0], 1.5)
        for label in present:
            share = _SHARE_OF_FIRST if label == 1 else (1 - _SHARE_OF_FIRST) / max(len(present) - 1, 1)
            wanted = round(fraction * labels.size * share / len(chosen))
            starts = _starts(labels[z], label, dark, rng)
            _draw_class(marks[z], labels[z], label, starts, wanted, brush_vox, rng)
        if error_rate:
            _slip(marks[z], labels[z], error_rate, rng)
    return truth.with_data(marks)


def _plane(z: int) -> tuple[slice, slice, slice]:
    return slice(z, z + 1), slice(None), slice(None)


def _choose_slices(labels: npt.NDArray[Any], n: int, n_classes: int) -> list[int]:
    """From each of n equal parts of the volume the slice that shows most, the rarest classes weighing most."""
    counts = np.stack([np.bincount(plane.ravel(), minlength=n_classes + 1)[1:] for plane in labels]).astype(float)
    totals = counts.sum(axis=0)
    # A logarithm: a slice with some of every class is worth more than one with much of one.
    sight = np.sum(np.log1p(counts / np.maximum(totals, 1) * len(labels)), axis=1)
    parts = np.array_split(np.arange(len(labels)), n)
    return [int(part[np.argmax(sight[part])]) for part in parts]


class _Start(NamedTuple):
    """Where a stroke may begin, (y, x), how many steps it may take, and how far it shies from borders."""

    point: npt.NDArray[np.intp]
    longest: int
    berth: float


def _starts(labels: npt.NDArray[Any], label: int, dark: npt.NDArray[Any] | None, rng: Generator) -> list[_Start]:
    """Where strokes of a class may begin, in the order to take them."""
    own = labels == label
    depth = _depth(own)
    # Local maxima of the depth: the middle of a thin structure, the whole inside of a wide one.
    sure = np.minimum(depth, _SURE_VOX)
    middle = rng.permutation(np.argwhere(own & (sure >= ndimage.maximum_filter(sure, 3) - 1e-6)))
    kinds = [[_Start(point, _LONGEST_STROKE, _SURE_VOX) for point in middle]]
    if label == 1:
        distance = ndimage.distance_transform_edt(own)
        for low, high, berth in ((2.5, _NEAR_VOX, _SURE_VOX), (1.0, 2.5, 1.0)):
            # Around the structures and along their outlines: there the two have to be told apart.
            points = rng.permutation(np.argwhere((distance >= low) & (distance <= high) & np.any(~own)))
            kinds.append([_Start(point, _LONGEST_STROKE // 2, berth) for point in points])
        if dark is not None:
            darkest = middle[np.argsort(dark[tuple(middle.T)], kind="stable")[: len(middle) // 100 + 1]]
            dabs = [_Start(point, _DAB, 1.0) for point in rng.permutation(darkest)]
            kinds += [dabs[i::3] for i in range(3)]  # three a turn: they are short
    return [start for turn in itertools.zip_longest(*kinds) for start in turn if start is not None]


def _depth(own: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Distance of each pixel of a class from its border; the slice's own edge counts as a border."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1])


def _draw_class(
    marks: npt.NDArray[np.uint8],
    labels: npt.NDArray[Any],
    label: int,
    starts: list[_Start],
    wanted: int,
    brush_vox: float,
    rng: Generator,
) -> None:
    own = labels == label
    depth = _depth(own)
    offsets = _brush(brush_vox)
    painted = 0
    for start in starts:
        if painted >= wanted:
            return
        if marks[tuple(start.point)]:
            continue
        path = _walk(np.minimum(depth, start.berth), start, rng)
        pixels = (path[:, None] + offsets[None]).reshape(-1, 2)
        pixels = pixels[np.all((pixels >= 0) & (pixels < labels.shape), axis=1)]
        # A careful person stays within the lines.
        pixels = np.unique(pixels[own[tuple(pixels.T)]], axis=0)
        painted += int(np.count_nonzero(marks[tuple(pixels.T)] == 0))
        marks[tuple(pixels.T)] = label


def _brush(diameter: float) -> npt.NDArray[np.intp]:
    """Offsets (n, 2) of the pixels that a round brush covers."""
    r = int(diameter // 2)
    grid = np.stack(np.meshgrid(*[np.arange(-r, r + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(grid[np.hypot(*grid.T) <= diameter / 2])


def _walk(depth: npt.NDArray[np.float64], start: _Start, rng: Generator) -> npt.NDArray[np.intp]:
    """A hand's path of one-pixel steps: it keeps its heading, drifts, and bends away from borders.

    In a thin structure this follows the middle line; in a wide one it is a squiggle. It ends where it would leave.
    """
    turns = np.radians([-50.0, -25.0, 0.0, 25.0, 50.0])
    position, heading = start.point.astype(float), rng.uniform(0, 2 * math.pi)
    if depth[tuple(start.point)] < _SURE_VOX:
        # Set out along the structure, not across it.
        turns_out = heading + np.radians(np.arange(0, 360, 30))
        heading = turns_out[np.argmax([_look(depth, position, t, 4) for t in turns_out])]
    path = [start.point]
    drift = 0.0
    for _ in range(int(rng.integers(start.longest // 4, start.longest + 1))):
        drift = 0.8 * drift + rng.normal(0, 0.12)
        options = heading + drift + turns
        views = [_look(depth, position, t, 3) - 0.15 * abs(turn) for t, turn in zip(options, turns, strict=True)]
        heading = float(options[int(np.argmax(views))])
        position = position + np.array([math.sin(heading), math.cos(heading)])
        pixel = np.rint(position).astype(np.intp)
        if np.any(pixel < 0) or np.any(pixel >= depth.shape) or depth[tuple(pixel)] == 0:
            break
        path.append(pixel)
    return np.array(path)


def _look(depth: npt.NDArray[np.float64], position: npt.NDArray[np.float64], heading: float, reach: int) -> float:
    """How deep inside its class the way ahead lies, on average."""
    ahead = position + np.outer(np.arange(1, reach + 1), (math.sin(heading), math.cos(heading)))
    pixels = np.rint(ahead).astype(np.intp)
    within = np.all((pixels >= 0) & (pixels < depth.shape), axis=1)
    return float(depth[tuple(pixels[within].T)].sum()) / reach


def _slip(marks: npt.NDArray[np.uint8], labels: npt.NDArray[Any], error_rate: float, rng: Generator) -> None:
    """Let strokes spill over borders until `error_rate` of the painted pixels is wrong."""
    wanted = round(error_rate / (1 - error_rate) * np.count_nonzero(marks))
    for _ in range(8):
        # The nearest painted pixel's label, where that is wrong and nothing has been painted yet.
        distance, nearest = ndimage.distance_transform_edt(marks == 0, return_indices=True)
        spilled = marks[tuple(nearest)]
        pixels = np.argwhere((marks == 0) & (distance < 1.5) & (spilled != labels) & (labels > 0))
        pixels = rng.permutation(pixels)[:wanted]
        marks[tuple(pixels.T)] = spilled[tuple(pixels.T)]
        wanted -= len(pixels)
        if wanted <= 0 or not len(pixels):
            return
