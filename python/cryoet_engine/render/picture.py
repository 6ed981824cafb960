# SPDX-License-Identifier: MIT
"""One call from a segmented tomogram to a finished picture."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .._progress import Progress, silent
from ..io import partial_path
from ..transfer import TransferFunction
from ..volume import Float32Array, SoftSegmentation, Volume
from .annotate import Axes, Entry, annotate
from .camera import Camera
from .context import opened_context
from .interop import egl_device, on_host
from .packing import BRICK, CELL, Bits, Packing
from .renderer import SOFTWARE_BYTES, Renderer, wants_float32
from .session import draws_raw_alone
from .settings import RenderSettings


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture: `image` (PIL, RGB or RGBA), `seconds` it took, `notices` the person should read.

    depth_A, class_ids: where asked for, what `Renderer.probe` gives, (height, width).
    """

    image: Image.Image
    seconds: float
    notices: tuple[str, ...] = ()
    depth_A: Float32Array | None = None
    class_ids: npt.NDArray[np.uint8] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size

    def save(self, path: str | os.PathLike[str], *, text: dict[str, str] | None = None) -> None:
        """Write PNG (or what the file's ending says), whole or not at all; `text` goes into a PNG by keyword."""
        save_image(self.image, path, text=text)


def save_image(image: Image.Image, path: str | os.PathLike[str], *, text: dict[str, str] | None = None) -> None:
    """Write a picture in the format that its ending names, whole or not at all; `text` goes into a PNG by keyword."""
    Image.init()
    ending = os.path.splitext(os.fspath(path))[1].lower()
    name = Image.EXTENSION.get(ending, "PNG")
    options = {}
    if text and name == "PNG":
        options["pnginfo"] = info = PngInfo()
        for keyword, value in text.items():
            info.add_itxt(keyword, value, zip=True)
    with partial_path(path) as partial, open(partial, "wb") as file:
        image.convert("RGB" if name == "JPEG" else image.mode).save(file, format=name, **options)


def render_image(
    volume: Volume | None,
    segmentation: SoftSegmentation,
    transfer: TransferFunction | None = None,
    *,
    size: tuple[int, int] = (1920, 1080),
    settings: RenderSettings | None = None,
    bits: Bits = 8,
    max_bytes: int | None = None,
    probed: bool = False,
    progress: Progress = silent,
) -> Picture:
    """Draw a segmented tomogram as paper 1, section 5.2, with scale bar, legend and orientation axes.

    volume: the raw tomogram (z, y, x), or None to draw the classes alone.
    segmentation: (class, z, y, x) on the same grid, at most seven classes visible. Either may lie on an NVIDIA card.
    transfer: ramps; None estimates them (for a tomogram in which protein is dark).
    size: (width, height) in pixels. bits: of a value on the card, 8 or 16.
    max_bytes: of the volumes on the card; None: what it holds. probed: give depth and class of every pixel too.

    Raises InputError for what does not fit together, MissingDependencyError without OpenGL, DeviceError when
    graphics memory runs out. A volume beyond the limits goes in slabs or is binned; `Picture.notices` says so.
    """
    started = time.perf_counter()
    chosen = settings if settings is not None else RenderSettings()
    with opened_context(egl_device(volume, segmentation)) as context:
        renderer = Renderer(context)
        renderer.check_size(drawn_size(size, chosen))  # now, not after minutes of reading
        chosen.drawn_slices(segmentation.shape[0])
        tf = transfer
        if tf is None:
            raw = None if volume is None else on_host(volume)
            tf = TransferFunction.estimate(on_host(segmentation), raw, progress=progress)
        beyond: Literal["bin"] | None = "bin" if chosen.mode == "vpt" else None  # paths wander through all of it
        renderer.load(volume, segmentation, tf, bits=bits, max_bytes=max_bytes, beyond=beyond, progress=progress)
        camera = renderer.fit_camera(chosen, size)
        image = draw(renderer, chosen, size, camera=camera, progress=progress)
        depth, ids = renderer.probe(camera, chosen, size) if probed else (None, None)
        notices = notices_of(renderer.notices, chosen)
    return Picture(image, time.perf_counter() - started, notices, depth, ids)


def notices_of(notices: Sequence[str], *looks: RenderSettings) -> tuple[str, ...]:
    """What a person should read, of what the renderer says, which does not know what a picture shows beside classes."""
    filled = any(draws_raw_alone(look) for look in looks)
    return tuple(notice for notice in notices if not (filled and "no class is visible" in notice))


def background_of(volume: Volume) -> SoftSegmentation:
    """A segmentation that is background everywhere and takes no memory: with it a raw volume is drawn alone."""
    certain = np.broadcast_to(np.uint8(255), (1, *volume.shape))
    return SoftSegmentation(certain, ("background",), **volume.grid())


def drawn_size(size: tuple[int, int], settings: RenderSettings) -> tuple[int, int]:
    """Pixels that are drawn for a picture of this size."""
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(n, int) for n in size):
        return size  # the renderer says what is wrong with it
    return size[0] * settings.supersampling, size[1] * settings.supersampling


def draw(
    renderer: Renderer,
    settings: RenderSettings,
    size: tuple[int, int],
    *,
    camera: Camera | None = None,
    progress: Progress = silent,
) -> Image.Image:
    """A finished picture of the renderer's scene, from `camera` (None: one that sees all), RGB or, transparent, RGBA.

    size: (width, height) in pixels.
    """
    large = renderer.check_size(drawn_size(size, settings))
    view = renderer.fit_camera(settings, large) if camera is None else camera
    renderer.accumulate(view, settings, large, progress=progress)
    image = Image.fromarray(renderer.present(settings))
    image = image if settings.transparent else image.convert("RGB")
    if settings.supersampling > 1:
        image = image.resize(size, Image.Resampling.BOX)
    furnish(image, renderer, settings, view)
    return image


def furnish(image: Image.Image, renderer: Renderer, settings: RenderSettings, camera: Camera) -> None:
    """Draw scale bar, legend, orientation axes and title onto a picture, as the settings ask for."""
    shows_classes = settings.mode in ("cached", "reference") or settings.source == "classes"
    annotate(
        image,
        scale=camera.height_at_target() / image.height * renderer.unit_A if settings.scale_bar else None,
        status=renderer.voxel_size_status,
        legend=[Entry(*entry) for entry in renderer.shown_classes] if settings.legend and shows_classes else [],
        title=settings.title,
        axes=Axes(camera.right.tolist(), camera.up.tolist(), (-camera.forward).tolist()) if settings.axes else None,
    )


def memory_plan(
    volume: Volume | None,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    *,
    size: tuple[int, int],
    settings: RenderSettings,
    bits: Bits = 8,
    max_bytes: int | None = None,
    whole: bool = False,
) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """What a picture takes on the card, by name, bytes, without OpenGL; the light at most (every brick occupied).

    max_bytes: of the volumes, as for `render_image`. whole: never in slabs, as figures are drawn.
    Returns the list, and what a person should read: that it goes in slabs, or is binned.
    """
    packing, depth, notices = _fitted(
        Packing.plan(volume, segmentation, transfer, bits=bits), max_bytes, whole=whole or settings.mode == "vpt"
    )
    cells, bricks = (
        (-(-packing.shape[0] // n)) * (-(-packing.shape[1] // n)) * (-(-packing.shape[2] // n)) for n in (CELL, BRICK)
    )
    width, height = drawn_size(size, settings)
    lit = settings.mode == "cached" and (settings.occlusion > 0 or settings.shadow > 0)
    points = BRICK // settings.light_spacing + 1
    plan = [
        ("volumes", packing.bytes_of(depth)),
        ("cells' largest values", cells * sum(packing.components)),
        ("distances", 2 * cells),
        ("map of bricks", 4 * bricks),
        ("list of bricks, at most", 4 * bricks if lit else 0),
        ("light, at most", 2 * bricks * points**3 if lit else 0),
        ("picture", (16 if wants_float32(settings, settings.frames) else 8) * width * height),
        ("display", 4 * width * height),
        ("bloom", 16 * (-(-width // 4)) * (-(-height // 4)) if settings.bloom > 0 else 0),
    ]
    return plan, notices


def _fitted(packing: Packing, max_bytes: int | None, *, whole: bool) -> tuple[Packing, int, tuple[str, ...]]:
    """The packing, and the slices of texels at a time, that `Renderer.load` chooses; and what there is to say of it."""
    slices = packing.shape[0]
    if max_bytes is None:
        if packing.bytes_of() <= SOFTWARE_BYTES:
            return packing, slices, ()
        small = _binned_to(packing, SOFTWARE_BYTES)
        z, y, x = small.shape
        note = f"without a graphics card it is binned by {max(small.bin)} to {z} x {y} x {x} voxels"
        return packing, slices, (f"{note}; a card that has no room for the volumes takes them in slabs",)
    if packing.bytes_of() <= max_bytes:
        return packing, slices, ()
    depth = max_bytes // packing.bytes_of(1)
    if not whole and depth >= BRICK + 2:
        return packing, depth, (f"drawn in slabs: at most {depth} of the {slices} slices are on the card at a time",)
    small = _binned_to(packing, max_bytes)
    z, y, x = small.shape
    return small, z, (f"binned by {max(small.bin)} to {z} x {y} x {x} voxels for drawing, for the memory allowed",)


def _binned_to(packing: Packing, max_bytes: int) -> Packing:
    while packing.bytes_of() > max_bytes and max(packing.shape) > 1:
        packing = packing.binned([2 * edge for edge in packing.bin])
    return packing
