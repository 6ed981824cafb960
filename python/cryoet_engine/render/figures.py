# SPDX-License-Identifier: MIT
"""The paper's figures of any scene: rivals side by side (9), stages (7), raw volume (10), from raw to classes (1, 8).

All panels of a figure come from one renderer, so with one upload, from one camera. What is beyond the memory allowed
(max_bytes, of the volumes; bits of a value) is binned and not drawn in slabs: path tracing needs the whole.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .._checks import input_error
from .._progress import Progress, silent
from ..transfer import Ramp, TransferFunction, histograms
from ..volume import SoftSegmentation, Volume
from .annotate import display_color, font_for
from .camera import Camera
from .context import opened_context
from .packing import Bits
from .picture import draw
from .renderer import Renderer
from .settings import RenderSettings
from .slices import slice_overlay

#: Shares of the mapped raw volume's voxels that lie above the two iso-values of figure 9.
_ISO_SHARES = (0.06, 0.15)


@dataclass(frozen=True)
class Panel:
    """A picture of a figure and what stands below it."""

    image: Image.Image
    caption: str


def compare(
    volume: Volume | None,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    *,
    settings: RenderSettings,
    size: tuple[int, int] = (2048, 1152),
    bits: Bits = 8,
    max_bytes: int | None = None,
    progress: Progress = silent,
) -> tuple[Image.Image, tuple[str, ...]]:
    """Figure 9: surfaces at two values, DVR, path tracing, MIP, colour DVR of the raw volume; ours; an orthoslice.

    The rivals draw the same inverted, low-passed raw volume that ours multiplies with, from the same camera. size: of
    each panel's drawing, (width, height) in pixels; in the figure panels are half as wide. The two iso-values leave
    6 % and 15 % of the voxels inside. Returns the figure and the renderer's notices.
    """
    raw = _need_raw(volume, transfer)
    assert volume is not None
    transfer = _widened(transfer, above=1.0)
    values = _levels(volume, transfer, _ISO_SHARES)
    lit = replace(_bare(settings), slices=(None, None, None))
    plain = replace(lit, occlusion=0.0, shadow=0.0, bloom=0.0, exposure=1.0, source="raw")
    plain = replace(plain, background="dark")  # pale and see-through, they would drown on a light one
    steps: list[tuple[str, RenderSettings]] = [
        (f"iso-surface at {values[0]:.2f}", replace(plain, mode="iso", iso_value=values[0])),
        (f"iso-surface at {values[1]:.2f}", replace(plain, mode="iso", iso_value=values[1])),
        ("direct volume rendering", replace(plain, mode="dvr", raw_colors=_ramp_between(values, "grey"))),
        ("volumetric path tracing", replace(plain, mode="vpt", shadow=0.6, raw_colors=_ramp_between(values, "grey"))),
        ("maximum intensity projection", replace(plain, mode="mip")),
        ("DVR, colour transfer function", replace(plain, mode="dvr", raw_colors=_ramp_between(values, "spectrum"))),
        ("ours", lit),
    ]
    panels = []
    with opened_context() as context:
        renderer = Renderer(context)
        renderer.load(volume, segmentation, transfer, bits=bits, max_bytes=max_bytes, beyond="bin", progress=progress)
        camera = renderer.fit_camera(lit, size)
        for number, (caption, look) in enumerate(steps):
            progress("figure", number, len(steps))
            panels.append(Panel(draw(renderer, look, size, camera=camera), caption))
        progress("figure", len(steps), len(steps))
        notices = tuple(renderer.notices)
    overlay = slice_overlay(volume, segmentation, size=max(size), hidden=_hidden(transfer))
    panels.append(Panel(_filled(overlay, size), "orthoslice with class overlays"))
    grey = f"rivals draw the raw volume, {'inverted, ' if raw.protein == 'dark' else ''}low-passed"
    return _sheet(panels, columns=4, width=size[0] // 2, note=grey), notices


def stages(
    volume: Volume | None,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    *,
    settings: RenderSettings,
    size: tuple[int, int] = (1280, 960),
    bits: Bits = 8,
    max_bytes: int | None = None,
    progress: Progress = silent,
) -> tuple[Image.Image, tuple[str, ...]]:
    """Figures 7 and 10: colour, + occlusion, + shadow and bloom; for two classes and for all; and without raw data.

    Rows: foreground against background, and all classes. The last column leaves out the multiplication with the raw
    volume (figure 10), which all others have. size: of each panel's drawing, (width, height) in pixels.
    """
    plain = _bare(settings)
    looks: list[tuple[str, RenderSettings]] = [
        ("colour", replace(plain, occlusion=0.0, shadow=0.0, bloom=0.0)),
        ("+ ambient occlusion", replace(plain, shadow=0.0, bloom=0.0)),
        ("+ soft shadows and bloom", plain),
    ]
    if volume is not None and transfer.raw is not None:
        looks.append(("the same, not multiplied by the raw volume", replace(plain, multiply_raw=False)))
    scenes = (("two classes", *foreground(segmentation, transfer)), ("all classes", segmentation, transfer))
    return _grid(volume, scenes, looks, settings, size, bits, max_bytes, progress)


def journey(
    volume: Volume | None,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    *,
    settings: RenderSettings,
    size: tuple[int, int] = (1280, 960),
    bits: Bits = 8,
    max_bytes: int | None = None,
    progress: Progress = silent,
) -> tuple[Image.Image, tuple[str, ...]]:
    """Figures 1 and 8: the tomogram as a solid block, foreground against background, all classes.

    size: of each panel's drawing, (width, height) in pixels.
    """
    _need_raw(volume, transfer)
    plain = _bare(settings)
    z, _, x = segmentation.shape
    faces = (z - 1, 0, x - 1 if np.sin(np.radians(settings.azimuth_deg)) > 0 else 0)
    block = replace(plain, mode="dvr", slices=faces, cuts=(), box=None)
    panels, notices = [], []
    with opened_context() as context:
        renderer = Renderer(context)
        for number, (caption, scene, ramps) in enumerate(
            (
                ("the tomogram", segmentation, _block(transfer)),
                ("foreground and background", *foreground(segmentation, transfer)),
                ("all classes", segmentation, transfer),
            )
        ):
            renderer.load(
                volume,
                scene,
                ramps,
                bits=bits,
                keep_hidden=number == 0,
                max_bytes=max_bytes,
                beyond="bin",
                progress=progress,
            )
            look = block if number == 0 else plain
            camera = _whole(renderer, plain, size)
            panels.append(Panel(draw(renderer, look, size, camera=camera), caption))
            notices += [n for n in renderer.notices if "no class is visible" not in n]
            progress("figure", number + 1, 3)
    return _sheet(panels, columns=3, width=size[0] // 2), tuple(dict.fromkeys(notices))


def thresholds(transfer: TransferFunction, segmentation: SoftSegmentation | None = None) -> Image.Image:
    """How the ramps were found (section 5.1): each class's threshold by slice, and its ramp over the histogram.

    Left: Algorithm 1's threshold of every slice that has one, the quadratic that the paper remarks on, and the mean
    that is used. Right, with a segmentation: how often each probability occurs, and the ramp.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [i for i, ramp in enumerate(transfer.ramps) if ramp.visible] or list(range(len(transfer.classes)))
    if not transfer.thresholds:
        raise input_error(
            "thresholds", "transfer", expected="one that was estimated", got="ramps alone", fix="leave --transfer out"
        )
    counts = None if segmentation is None else histograms(segmentation)
    columns = 1 if counts is None else 2
    figure = Figure(figsize=(5.2 * columns, 2.5 * len(shown)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for row, index in enumerate(shown):
        ramp = transfer.ramps[index]
        color = np.array(display_color(ramp.color)) / 255
        line = 0.75 * color
        left = axes[row, 0]
        values = np.array(transfer.thresholds[index], float)
        slices = np.arange(len(values))
        left.plot(slices, values, ".", ms=3, color=color, label="Algorithm 1, slice by slice")
        if fit := transfer.threshold_fit(transfer.classes[index]):
            curve = np.polyval(fit.coefficients, slices)
            left.plot(slices, curve, "-", lw=1.4, color=line, label=f"quadratic, R² {fit.r_squared:.2f}")
        left.axhline(ramp.left, ls="--", lw=1, color="0.3", label=f"ramp begins at {ramp.left:.2f}")
        left.set(xlabel="slice (z)", ylabel="threshold", title=transfer.classes[index])
        left.set_ylim(0, min(1.0, 1.6 * max(np.nanmax(values), ramp.left)))
        left.legend(fontsize=7, loc="upper right", framealpha=0.8)
        if counts is None:
            continue
        right = axes[row, 1]
        # Coarser than what is stored: forests vote in hundredths, and a comb would say nothing.
        bars, edges = np.histogram(np.linspace(0, 1, 256), 50, (0, 1), weights=counts[index])
        right.stairs(np.maximum(bars, 0.5), edges, fill=True, color=color, alpha=0.6)
        right.set(yscale="log", xlabel="probability", ylabel="voxels", xlim=(0, 1))
        twin = right.twinx()
        p = np.linspace(0, 1, 256)
        twin.plot(p, ramp(p), color="0.15", lw=1.4)
        twin.set(ylabel="opacity", ylim=(0, 1.02))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def foreground(segmentation: SoftSegmentation, transfer: TransferFunction) -> tuple[SoftSegmentation, TransferFunction]:
    """The visible classes as one: its probability is the sum of theirs, its ramp the mean of theirs."""
    shown = [i for i, ramp in enumerate(transfer.ramps) if ramp.visible and ramp.opacity > 0]
    left = float(np.mean([transfer.ramps[i].left for i in shown])) if shown else 0.5
    names = segmentation.classes
    groups = {
        "background": [name for i, name in enumerate(names) if i not in shown],
        "foreground": [names[i] for i in shown],
    }
    merged = segmentation.merge({group: members for group, members in groups.items() if members})
    drawn = Ramp(left=left, color=(0.72, 0.62, 0.46))
    ramps = tuple(drawn if name == "foreground" else Ramp(left=0.5, visible=False) for name in merged.classes)
    return merged, dataclasses.replace(transfer, classes=merged.classes, ramps=ramps, thresholds=())


def _widened(transfer: TransferFunction, *, above: float) -> TransferFunction:
    """The same opacity of every grey value over a wider mapping, by this share of its span.

    Ours saturates where its classes are densest; a projection of that would be one white patch.
    """
    raw = transfer.raw
    assert raw is not None
    wide = replace(
        raw,
        at_one=raw.at_one + above * (raw.at_one - raw.at_zero),
        left=raw.left / (1 + above),
        right=raw.right / (1 + above),
    )
    return dataclasses.replace(transfer, raw=wide)


def _bare(settings: RenderSettings) -> RenderSettings:
    """Without the furniture that captions stand for."""
    return replace(settings, scale_bar=False, legend=False, title="", axes=False)


def _block(transfer: TransferFunction) -> TransferFunction:
    """No class, and a raw ramp so wide that the noise is not cut off at either end."""
    raw = transfer.raw
    assert raw is not None
    span = raw.at_one - raw.at_zero
    wide = replace(raw, at_zero=raw.at_zero - 1.2 * span, at_one=raw.at_one + 0.5 * span)
    ramps = tuple(replace(ramp, visible=False) for ramp in transfer.ramps)
    return dataclasses.replace(transfer, ramps=ramps, raw=wide)


def _whole(renderer: Renderer, settings: RenderSettings, size: tuple[int, int]) -> Camera:
    """A camera that sees the whole box of the volume."""
    half = renderer.half_extent
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T * half
    return renderer.camera_for(corners, settings, size)


def _grid(
    volume: Volume | None,
    scenes: Sequence[tuple[str, SoftSegmentation, TransferFunction]],
    looks: Sequence[tuple[str, RenderSettings]],
    settings: RenderSettings,
    size: tuple[int, int],
    bits: Bits,
    max_bytes: int | None,
    progress: Progress,
) -> tuple[Image.Image, tuple[str, ...]]:
    """Scenes down, looks across; one camera for all."""
    panels: list[Panel] = []
    notices: list[str] = []
    camera: Camera | None = None
    with opened_context() as context:
        renderer = Renderer(context)
        for row, scene, ramps in scenes[::-1]:
            renderer.load(volume, scene, ramps, bits=bits, max_bytes=max_bytes, beyond="bin", progress=progress)
            camera = camera or renderer.fit_camera(settings, size)
            line = []
            for caption, look in looks:
                line.append(Panel(draw(renderer, look, size, camera=camera), f"{row}: {caption}"))
                progress("figure", len(panels) + len(line), len(scenes) * len(looks))
            panels = line + panels
            notices += renderer.notices
    return _sheet(panels, columns=len(looks), width=size[0] // 2), tuple(dict.fromkeys(notices))


def _need_raw(volume: Volume | None, transfer: TransferFunction) -> Any:
    if volume is None or transfer.raw is None:
        raise input_error(
            "figure", "volume", expected="a raw volume and a ramp on it: rivals draw that", got="classes alone"
        )
    return transfer.raw


def _levels(volume: Volume, transfer: TransferFunction, shares: Sequence[float]) -> list[float]:
    """Mapped raw values above which these shares of the voxels lie."""
    raw = transfer.raw
    assert raw is not None
    z = volume.shape[0]
    counts = np.zeros(256, np.int64)
    # Every fourth slab of eight slices: the percentiles of a quarter of the volume are those of the whole.
    for first in range(0, z, 32 if z > 64 else 8):
        around = slice(max(first - raw.halo, 0), min(first + 8 + raw.halo, z))
        block = volume.block((around, slice(0, volume.shape[1]), slice(0, volume.shape[2])))
        mapped = raw.mapped(block)[first - around.start : first - around.start + 8]
        counts += np.bincount(np.rint(255 * mapped).astype(np.intp).ravel(), minlength=256)
    above = np.cumsum(counts[::-1])[::-1] / counts.sum()
    found = [float(np.argmax(above <= share)) / 255 if (above <= share).any() else 0.99 for share in shares]
    return [min(max(value, 0.01), 0.99) for value in found]


def _ramp_between(values: Sequence[float], name: str) -> tuple[tuple[float, float, float, float, float], ...]:
    """Control points that begin below the lower iso-value and are dense at the higher one."""
    high, low = max(values), min(values)
    start = max(low - 0.35 * (high - low) - 0.02, 0.005)
    middle = min(max((low + high) / 2, start + 0.005), 0.985)
    high = min(max(high, middle + 0.005), 0.995)
    if name == "grey":
        grey = ((0.0, 0.2, 0.0), (start, 0.2, 0.0), (middle, 0.35, 0.02), (high, 0.6, 0.12), (1.0, 0.9, 0.5))
        return tuple((value, shade, shade, shade, opacity) for value, shade, opacity in grey)
    return (
        (0.0, 0.05, 0.15, 0.8, 0.0),
        (start, 0.05, 0.15, 0.8, 0.0),
        (middle, 0.1, 0.75, 0.35, 0.05),
        (high, 0.95, 0.65, 0.05, 0.35),
        (1.0, 0.85, 0.05, 0.03, 0.7),
    )


def _hidden(transfer: TransferFunction) -> list[str]:
    return [name for name, ramp in zip(transfer.classes, transfer.ramps, strict=True) if not ramp.visible]


def _filled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture, of this shape."""
    scale = max(size[0] / image.width, size[1] / image.height)
    larger = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    left, top = (larger.width - size[0]) // 2, (larger.height - size[1]) // 2
    return larger.crop((left, top, left + size[0], top + size[1]))


def _sheet(panels: Sequence[Panel], *, columns: int, width: int, note: str = "") -> Image.Image:
    """Panels in rows on white, each with its letter and caption below it."""
    gap = max(8, width // 50)
    letters = max(11.0, width / 36)
    font = font_for([note, *(panel.caption for panel in panels)], letters)
    line = round(1.9 * letters)
    height = round(panels[0].image.height * width / panels[0].image.width)
    rows = -(-len(panels) // columns)
    foot = line if note else 0
    full = (columns * (width + gap) + gap, rows * (height + gap + line) + gap + foot)
    sheet = Image.new("RGB", full, "white")
    pen = ImageDraw.Draw(sheet)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = gap + column * (width + gap), gap + row * (height + gap + line)
        sheet.paste(panel.image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (left, top))
        text = f"({chr(ord('a') + number)}) {panel.caption}"
        pen.text((left, top + height + line // 5), text, font=font, fill=(30, 33, 40))
    if note:
        pen.text((gap, full[1] - foot), note, font=font, fill=(90, 95, 105))
    return sheet
