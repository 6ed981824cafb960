# SPDX-License-Identifier: MIT
"""Orthoslices with class overlays. No OpenGL.

Turned as 3dmod and ChimeraX show them: z slices have x to the right and y up, y slices x and z, x slices y and z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from .._checks import input_error
from ..volume import Float32Array, SoftSegmentation, Volume
from .annotate import Entry, annotate, display_color

Axis = Literal["z", "y", "x"]

_AXES = {"z": 0, "y": 1, "x": 2}
_SMALLEST = 640  # pixels of the longer side, so that scale bar and legend stay legible
_LARGEST = 16384


def slice_overlay(
    volume: Volume | None,
    segmentation: SoftSegmentation | None,
    *,
    axis: Axis = "z",
    index: int | None = None,
    alpha: float = 0.5,
    size: int | None = None,
    truth: Volume | None = None,
    hidden: Sequence[str] = ("background",),
) -> Image.Image:
    """One slice of the tomogram, the classes' colours laid over it by probability, with scale bar and legend.

    volume: (z, y, x) or None for a black ground; segmentation: same grid, or None for the slice alone.
    axis, index: which slice; None: the middle one.
    alpha: how much of the colour shows where a class is certain, 0..1.
    size: pixels of the longer side; None: one a voxel, 640 at least.
    truth: labels (0 unlabelled, 1.. classes in the segmentation's order), drawn as outlines.
    hidden: classes left out of overlay, outlines and legend.

    Raises InputError for a slice that is not there or shapes that differ.
    """
    grid = volume if volume is not None else segmentation
    if grid is None:
        raise input_error("slice_overlay", "volume, segmentation", expected="one of them at least", got=None)
    if axis not in _AXES:
        raise input_error("slice_overlay", "axis", expected='"z", "y" or "x"', got=repr(axis))
    for name, other in (("segmentation", segmentation), ("truth", truth)):
        if other is not None and other.shape != grid.shape:
            raise input_error("slice_overlay", name, expected=f"shape {grid.shape} as the volume", got=other.shape)
    if not 0 <= alpha <= 1:
        raise input_error("slice_overlay", "alpha", expected="a number from 0 to 1", got=alpha)
    if size is not None and not 16 <= size <= _LARGEST:
        raise input_error("slice_overlay", "size", expected=f"a whole number from 16 to {_LARGEST}", got=size)
    number = _AXES[axis]
    length = grid.shape[number]
    at = length // 2 if index is None else index
    if not 0 <= at < length:
        raise input_error("slice_overlay", "index", expected=f"0 to {length - 1} along {axis}", got=at)
    spacing = [edge for a, edge in enumerate(grid.voxel_size_A) if a != number]
    rows, columns = (n for a, n in enumerate(grid.shape) if a != number)
    physical = (columns * spacing[1], rows * spacing[0])
    longer = size or max(rows, columns, _SMALLEST)
    scale = max(physical) / longer
    pixels = (max(1, round(physical[0] / scale)), max(1, round(physical[1] / scale)))

    shade = np.zeros((pixels[1], pixels[0]), np.float32)
    if volume is not None:
        shade = _resized(_contrast(_plane(volume.data, number, at)), pixels)
    picture: npt.NDArray[Any] = np.repeat(shade[..., None], 3, axis=-1)
    entries = []
    if segmentation is not None:
        names = {name.lower() for name in hidden}
        shown = [i for i, name in enumerate(segmentation.classes) if name.lower() not in names]
        entries = [Entry(segmentation.classes[i], segmentation.colors[i]) for i in shown]
        cover = np.zeros_like(shade)
        color = np.zeros_like(picture)
        probabilities = [
            _resized(_plane(segmentation.data, number, at, channel=i) / np.float32(segmentation.unit), pixels)
            for i in shown
        ]
        for probability, entry in zip(probabilities, entries, strict=True):
            cover += probability
            color += probability[..., None] * np.array(display_color(entry.color), np.float32) / 255
        # Independent masks may sum to more than one: then they share the pixel.
        excess = np.maximum(cover, 1)
        picture = picture * (1 - alpha * np.minimum(cover, 1))[..., None] + alpha * color / excess[..., None]
        if truth is not None:
            labels = _plane(truth.data, number, at)
            for i, entry in zip(shown, entries, strict=True):
                picture[_outline(labels == i + 1, pixels)] = np.array(display_color(entry.color)) / 255
    image = Image.fromarray(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8))
    annotate(image, scale=scale, status=grid.voxel_size_status, legend=entries, plate=True)
    return image


def thumbnail(volume: Volume, *, size: int = 768) -> Image.Image:
    """The three middle slices, joined as an unfolded box: z slice, y slice below it, x slice at its right.

    size: pixels of the longer side.
    """
    if not 64 <= size <= _LARGEST:
        raise input_error("thumbnail", "size", expected=f"a whole number from 64 to {_LARGEST}", got=size)
    depth, height, width = (n * edge for n, edge in zip(volume.shape, volume.voxel_size_A, strict=True))
    gap = 4
    scale = max(width + depth, height + depth) / (size - gap)
    w, h, d = (max(1, round(length / scale)) for length in (width, height, depth))
    planes = [_contrast(_plane(volume.data, a, volume.shape[a] // 2)) for a in range(3)]
    sheet = Image.new("RGB", (w + gap + d, h + gap + d), "white")
    # The x slice is turned so that it shares the y axis with the z slice.
    for plane, place, pixels in (
        (planes[0], (0, 0), (w, h)),
        (planes[1], (0, h + gap), (w, d)),
        (planes[2].T[::-1, ::-1], (w + gap, 0), (d, h)),
    ):
        grey = np.rint(255 * _resized(np.ascontiguousarray(plane), pixels)).astype(np.uint8)
        sheet.paste(Image.fromarray(grey), place)
    annotate(sheet, scale=scale, status=volume.voxel_size_status, plate=True)
    return sheet


def _plane(data: Any, axis: int, index: int, *, channel: int | None = None) -> Float32Array:
    """A slice as float32, first row on top of the picture; what is not finite becomes the median."""
    place: list[Any] = [slice(None)] * 3
    place[axis] = index
    region = tuple(place) if channel is None else (channel, *place)
    plane = np.asarray(data[region], dtype=np.float32)[::-1]
    finite = np.isfinite(plane)
    if not finite.all():
        plane = np.where(finite, plane, np.median(plane[finite]) if finite.any() else 0)
    return np.ascontiguousarray(plane, np.float32)


def _contrast(plane: Float32Array) -> Float32Array:
    """Stretched to 0..1 between the 1st and the 99th percentile; a constant slice is mid-grey."""
    low, high = np.percentile(plane, (1, 99))
    if not high > low:
        return np.full_like(plane, 0.5)
    stretched: Float32Array = (plane - np.float32(low)) / np.float32(high - low)
    return np.clip(stretched, 0, 1)


def _resized(plane: Float32Array, pixels: tuple[int, int]) -> Float32Array:
    resized = Image.fromarray(plane).resize(pixels, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized, np.float32), 0, 1)


def _outline(mask: npt.NDArray[np.bool_], pixels: tuple[int, int]) -> npt.NDArray[np.bool_]:
    large = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(pixels, Image.Resampling.NEAREST)) > 0
    return np.asarray(large & ~ndimage.binary_erosion(large, border_value=1))
