# SPDX-License-Identifier: MIT
"""A sheet of slices through a simulated tomogram: as it is, and with the truth laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

    from ..volume import Region, SoftSegmentation, Volume

Axis = Literal["z", "y", "x"]

_LARGEST = 640  # pixels of the longest side of all slices
_GAP, _HEAD = 8, 28
_INK, _PAPER = (30, 33, 40), "white"
_AXES: tuple[Axis, ...] = ("z", "y", "x")
_PLANES = {"z": "xy slice, z", "y": "xz slice, y", "x": "yz slice, x"}


def draw_truth(folder: Path) -> None:
    """Write `slices.png` into a simulated tomogram's folder."""
    from .. import io
    from ..simulate.storage import RECIPE, SLICES, TOMOGRAM, TRUTH, read_plan

    recipe = read_plan((folder / RECIPE).read_text(encoding="utf-8")).recipe
    tomogram, truth = (io.read_volume(folder / name) for name in (TOMOGRAM, TRUTH))
    truth_sheet(tomogram, truth, recipe.classes, stack=recipe.kind == "membranes-2d").save(folder / SLICES)


def truth_sheet(tomogram: Volume, truth: Volume, classes: Sequence[str], *, stack: bool = False) -> Image.Image:
    """Slices one below the other: left as they are, right with the truth's classes in their colours.

    truth: numbers of `classes`, the first being the background. The slice along each axis that shows most; of a
    `stack` of images, which has no depth, the first, the middle one and the last.
    """
    from PIL import Image, ImageDraw, ImageFont

    from ..render import slice_overlay

    depth = tomogram.shape[0]
    places: list[tuple[Axis, int]] = [("z", index) for index in sorted({0, depth // 2, depth - 1})]
    if not stack:
        places = list(zip(_AXES, _fullest(truth, len(classes)), strict=True))
    lengths = [n * edge for n, edge in zip(tomogram.shape, tomogram.voxel_size_A, strict=True)]
    scale = max(lengths[1:] if stack else lengths) / _LARGEST
    rows = []
    for axis, index in places:
        number = _AXES.index(axis)
        parts = [slice(0, n) for n in tomogram.shape]
        parts[number] = slice(index, index + 1)
        region = (parts[0], parts[1], parts[2])
        size = max(16, round(max(n for i, n in enumerate(lengths) if i != number) / scale))
        plane, soft = tomogram.crop(region), _as_soft(truth, region, classes)
        pictures = [
            slice_overlay(plane, None, axis=axis, size=size),
            slice_overlay(plane, soft, axis=axis, size=size, hidden=(classes[0],)),
        ]
        title = f"image {index}" if stack else f"{_PLANES[axis]} = {index}"
        rows.append((title, pictures))
    width = max(picture.width for _, pictures in rows for picture in pictures)
    height = sum(_HEAD + pictures[0].height + _GAP for _, pictures in rows)
    sheet = Image.new("RGB", (2 * width + 3 * _GAP, height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    top = 0
    for title, pictures in rows:
        for column, (text, picture) in enumerate(zip((title, "with the truth laid over it"), pictures, strict=True)):
            left = _GAP + column * (width + _GAP)
            draw.text((left, top + _HEAD / 2), text, font=font, fill=_INK, anchor="lm")
            sheet.paste(picture, (left, top + _HEAD))
        top += _HEAD + pictures[0].height + _GAP
    return sheet


def _fullest(truth: Volume, n_classes: int) -> list[int]:
    """Along each axis the slice with most of the classes, rare ones weighing more; the middle one if none has any."""
    import numpy as np

    counts = [np.zeros((n_classes, n)) for n in truth.shape]
    for z in range(truth.shape[0]):
        plane = np.asarray(truth.data[z])
        for label in range(1, n_classes):
            own = plane == label
            counts[0][label, z] = np.count_nonzero(own)
            counts[1][label] += own.sum(axis=1)
            counts[2][label] += own.sum(axis=0)
    return [
        int(np.argmax(sight)) if sight.any() else len(sight) // 2 for sight in (np.sqrt(c).sum(axis=0) for c in counts)
    ]


def _as_soft(truth: Volume, region: Region, classes: Sequence[str]) -> SoftSegmentation:
    """One class at a voxel, certain."""
    import numpy as np

    from ..volume import SoftSegmentation

    part = truth.crop(region)
    numbers = np.arange(len(classes))[:, None, None, None]
    return SoftSegmentation((part.numpy() == numbers).astype(np.float32), tuple(classes), **part.grid())
