# SPDX-License-Identifier: MIT
"""Scale bar, legend and title, drawn onto a picture at sizes that stay legible in print."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..volume import Triple, VoxelSizeStatus
from .tone import srgb


class Entry(NamedTuple):
    """A line of the legend: a class and its linear RGB colour."""

    name: str
    color: Triple


class Axes(NamedTuple):
    """Unit vectors (x, y, z) of the picture's right, its up, and towards the eye."""

    right: Sequence[float]
    up: Sequence[float]
    back: Sequence[float]


def display_color(color: Triple) -> tuple[int, int, int]:
    """Linear RGB 0..1 as 8-bit sRGB."""
    red, green, blue = (round(255 * float(value)) for value in srgb(color))
    return red, green, blue


def nice_length(at_most: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `at_most` (> 0)."""
    power = 10.0 ** math.floor(math.log10(at_most))
    return max((m * power for m in (1, 2, 5) if m * power <= at_most * (1 + 1e-9)), default=power)


def scale_label(length: float, status: VoxelSizeStatus) -> str:
    """`length` in Å, or in voxels where the voxel size is unknown, as text."""
    if status == "unknown":
        return f"{length:g} voxel" + ("" if length == 1 else "s")
    if length >= 10000:
        text = f"{length / 10000:g} µm"
    elif length >= 10:
        text = f"{length / 10:g} nm"
    else:
        text = f"{length:g} Å"
    return text + (" (voxel size estimated)" if status == "estimated" else "")


def font_for(words: Iterable[str], size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of so many pixels that has every letter of these words, or as many as the fonts at hand have.

    Pillow's own font knows little beyond ASCII: no Å, no µ. Where it falls short, all words are set in the one that
    matplotlib brings.
    """
    font = ImageFont.load_default(size)
    unknown = bytes(font.getmask("\uffff"))
    letters = {letter for word in words for letter in word if not letter.isspace()}
    if not isinstance(font, ImageFont.FreeTypeFont) or all(bytes(font.getmask(one)) != unknown for one in letters):
        return font
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def annotate(
    image: Image.Image,
    *,
    scale: float | None,
    status: VoxelSizeStatus = "known",
    legend: Sequence[Entry] = (),
    title: str = "",
    axes: Axes | None = None,
    plate: bool = False,
) -> None:
    """Draw onto `image` in place: scale bar lower right, legend upper left, title above it, axes lower left.

    A picture of less than 64 pixels either way stays bare: no letter would be legible.

    scale: Å a pixel (voxels a pixel where `status` is "unknown"); None leaves the bar out.
    axes: how x, y and z run in the picture; None leaves them out.
    plate: lay a pale ground under bar and legend, for pictures in whose noise they would drown.
    """
    width, height = image.size
    if min(width, height) < 64:
        return
    size = max(9.0, 0.026 * min(height, 0.75 * width))
    margin = round(1.5 * size)
    draw = ImageDraw.Draw(image)
    words = [title, *(entry.name for entry in legend)]
    bar = scale if scale is not None and math.isfinite(scale) and scale > 0 else None
    length = 0.0 if bar is None else nice_length(0.22 * width * bar)
    if bar is not None:
        words.append(scale_label(length, status))
    font = font_for(words, size)

    def ink(box: tuple[float, float, float, float]) -> tuple[int, ...]:
        """Dark on light, light on dark, by what lies under the text."""
        left, right = (min(max(round(v), 0), width - 1) for v in box[::2])
        top, bottom = (min(max(round(v), 0), height - 1) for v in box[1::2])
        part = image.crop((left, top, right + 1, bottom + 1))
        pixels = np.asarray(part.convert("RGBA"), np.float32)
        clear = pixels[..., 3].mean() < 128  # on a transparent background: it will lie on a page
        shade = (30, 33, 40) if clear or pixels[..., :3].mean() > 110 else (236, 238, 242)
        return (*shade, 255) if image.mode == "RGBA" else shade

    def ground(left: float, top: float, right: float, bottom: float) -> None:
        if not plate:
            return
        part = (max(round(left), 0), max(round(top), 0), min(round(right), width), min(round(bottom), height))
        if part[0] >= part[2] or part[1] >= part[3]:
            return
        under = image.crop(part)
        image.paste(Image.blend(under, Image.new(image.mode, under.size, "white"), 0.8), part[:2])

    top = float(margin)
    if title:
        large = font_for(words, 1.35 * size)
        draw.text((margin, top), title, font=large, fill=ink((margin, top, width / 2, top + 2 * size)), anchor="lt")
        top += 2.2 * size
    if legend:
        longest = max(draw.textlength(entry.name, font=font) for entry in legend)
        ground(margin - size / 2, top - size / 2, margin + 2 * size + longest, top + 1.55 * size * len(legend))
    for entry in legend:
        text_ink = ink((margin, top, margin + 10 * size, top + size))
        draw.rounded_rectangle(
            (margin, top, margin + size, top + size),
            0.2 * size,
            fill=display_color(entry.color),
            outline=text_ink,
            width=max(1, round(size / 18)),
        )
        draw.text((margin + 1.5 * size, top + size / 2), entry.name, font=font, fill=text_ink, anchor="lm")
        top += 1.55 * size
    if axes is not None and min(width, height) >= 160:  # on less they would stand in the picture
        _draw_axes(draw, axes, (margin + 2.6 * size, height - margin - 2.6 * size), size, ink)
    if bar is not None:
        pixels = length / bar
        thickness = max(2, round(size / 4.5))
        text = words[-1]
        text_width = draw.textlength(text, font=font)
        right, bottom = width - margin, height - margin
        left = min(right - pixels, right - text_width)
        ground(left - size / 2, bottom - 2 * size, right + size / 2, bottom + size / 2)
        fill = ink((left, bottom - 2 * size, right, bottom))
        draw.rectangle((round(right - pixels), bottom - thickness + 1, right - 1, bottom), fill=fill)
        middle = min(right - pixels / 2, right - text_width / 2)
        draw.text((middle, bottom - thickness - 0.45 * size), text, font=font, fill=fill, anchor="mb")


def _draw_axes(
    draw: ImageDraw.ImageDraw,
    axes: Axes,
    centre: tuple[float, float],
    size: float,
    ink: Callable[[tuple[float, float, float, float]], tuple[int, ...]],
) -> None:
    """x, y and z as they run in the picture: lines of one length in space, the one that points away drawn first."""
    length, (left, top) = 2.1 * size, centre
    shade = ink((left - length, top - length, left + length, top + length))
    dark = shade[0] < 128
    colors = (
        ((178, 44, 44), (38, 126, 60), (46, 92, 190)) if dark else ((255, 118, 110), (116, 220, 130), (130, 170, 255))
    )
    font = ImageFont.load_default(0.95 * size)
    for axis in sorted(range(3), key=lambda axis: axes.back[axis]):
        x, y = axes.right[axis], -axes.up[axis]
        end = (left + length * x, top + length * y)
        color = (*colors[axis], *shade[3:])
        draw.line((left, top, *end), fill=color, width=max(2, round(size / 7)))
        long = math.hypot(x, y)
        # A line towards the eye is a point; its letter stands beside it.
        away = (x / long, y / long) if long > 0.25 else (0.7, 0.7)
        place = (end[0] + 0.75 * size * away[0], end[1] + 0.75 * size * away[1])
        draw.text(place, "xyz"[axis], font=font, fill=color, anchor="mm")
    dot = max(1.5, size / 9)
    draw.ellipse((left - dot, top - dot, left + dot, top + dot), fill=shade)
