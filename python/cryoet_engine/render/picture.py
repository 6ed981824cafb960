# SPDX-License-Identifier: MIT
"""One call from a segmented tomogram to a finished picture."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from PIL import Image

from .._progress import Progress, silent
from ..io import partial_path
from ..transfer import TransferFunction
from ..volume import SoftSegmentation, Volume
from .annotate import Entry, annotate
from .context import opened_context
from .renderer import Renderer
from .settings import RenderSettings


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture: `image` (PIL, RGB or RGBA), `seconds` it took, `notices` the person should read."""

    image: Image.Image
    seconds: float
    notices: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write PNG (or what the file's ending says), whole or not at all."""
        save_image(self.image, path)


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format that its ending names, whole or not at all."""
    Image.init()
    ending = os.path.splitext(os.fspath(path))[1].lower()
    name = Image.EXTENSION.get(ending, "PNG")
    with partial_path(path) as partial, open(partial, "wb") as file:
        image.convert("RGB" if name == "JPEG" else image.mode).save(file, format=name)


def render_image(
    volume: Volume | None,
    segmentation: SoftSegmentation,
    transfer: TransferFunction | None = None,
    *,
    size: tuple[int, int] = (1920, 1080),
    settings: RenderSettings | None = None,
    progress: Progress = silent,
) -> Picture:
    """Draw a segmented tomogram as paper 1, section 5.2, with scale bar and legend.

    volume: the raw tomogram (z, y, x), or None to draw the classes alone.
    segmentation: (class, z, y, x) on the same grid, at most seven classes visible.
    transfer: ramps; None estimates them (for a tomogram in which protein is dark).
    size: (width, height) in pixels.

    Raises InputError for what does not fit together, MissingDependencyError without OpenGL, DeviceError when
    graphics memory runs out. A volume beyond the limits is binned; `Picture.notices` says so.
    """
    started = time.perf_counter()
    chosen = settings if settings is not None else RenderSettings()
    with opened_context() as context:
        renderer = Renderer(context)
        renderer.check_size(size)  # now, not after minutes of reading
        chosen.drawn_slices(segmentation.shape[0])
        tf = transfer
        if tf is None:
            tf = TransferFunction.estimate(segmentation, volume, progress=progress)
        renderer.load(volume, segmentation, tf, progress=progress)
        camera = renderer.fit_camera(chosen, size)
        renderer.accumulate(camera, chosen, size, progress=progress)
        pixels = renderer.present(chosen)
        notices = tuple(renderer.notices)
        unit_per_pixel = camera.height_at_target() / size[1] * renderer.unit_A
    image = Image.fromarray(pixels)
    image = image if chosen.transparent else image.convert("RGB")
    grid = volume if volume is not None else segmentation
    entries = [Entry(name, ramp.color) for name, ramp in zip(tf.classes, tf.ramps, strict=True) if ramp.visible]
    annotate(
        image,
        scale=unit_per_pixel if chosen.scale_bar else None,
        status=grid.voxel_size_status,
        legend=entries if chosen.legend else [],
        title=chosen.title,
    )
    return Picture(image, time.perf_counter() - started, notices)
