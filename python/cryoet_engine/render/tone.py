# SPDX-License-Identifier: MIT
"""From the mean of the frames to display values: bloom (paper 1, section 5.2, stage 4) and tone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..volume import Triple
from .context import check_allocation
from .settings import RenderSettings
from .shaders import Programs, set_uniforms

_BLOOM_SCALE = 4


def srgb(linear: npt.ArrayLike) -> npt.NDArray[Any]:
    """Display values 0..1 of linear light, any shape, cut off at 0 and 1; as shaders/tone.glsl has it."""
    light = np.clip(linear, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


class Display:
    """Textures for bloom and for the finished picture, kept while the size stays."""

    def __init__(self, context: Any, programs: Programs) -> None:
        self._context = context
        self._programs = programs
        self._glow: list[Any] = []
        self._texture: Any = None

    def draw(self, picture: Any, settings: RenderSettings) -> Any:
        """The texture (RGBA8, sRGB, straight alpha) that shows `picture`, the frames' mean."""
        width, height = picture.size
        self._allocate(width, height, bloom=settings.bloom > 0)
        wide = int(picture.dtype == "f4")
        if settings.bloom > 0:
            small = self._glow[0].size
            picture.bind_to_image(0, read=True, write=False)
            self._glow[0].bind_to_image(1, read=False, write=True)
            self._run("bright.comp", small, {"WIDE": wide}, gain=settings.exposure)
            sigma = max(0.012 * height / _BLOOM_SCALE, 0.5)
            for source, target, along in ((0, 1, (1, 0)), (1, 0, (0, 1))):
                self._glow[source].bind_to_image(0, read=True, write=False)
                self._glow[target].bind_to_image(1, read=False, write=True)
                self._run("blur.comp", small, {}, along=along, sigma=sigma)
            self._glow[0].use(5)
        picture.bind_to_image(0, read=True, write=False)
        self._texture.bind_to_image(1, read=False, write=True)
        centre, edge = settings.backdrop()
        self._run(
            "present.comp",
            (width, height),
            {"WIDE": wide, "BLOOM": int(settings.bloom > 0)},
            gain=settings.exposure,
            strength_bloom=settings.bloom,
            background_centre=_linear(centre),
            background_edge=_linear(edge),
            opaque=float(not settings.transparent),
            bloom=5,
        )
        return self._texture

    def _run(self, name: str, size: tuple[int, int], defines: dict[str, int], **uniforms: Any) -> None:
        program = self._programs.get(name, defines)
        set_uniforms(program, uniforms)
        program.run(-(-size[0] // 8), -(-size[1] // 8))
        self._context.memory_barrier()

    def _allocate(self, width: int, height: int, *, bloom: bool) -> None:
        if self._texture is not None and self._texture.size != (width, height):
            self.release()
        if self._texture is None:
            texture = self._context.texture((width, height), 4)
            check_allocation(self._context, f"a picture of {width} x {height}")
            self._texture = texture
        if bloom and not self._glow:
            small = (-(-width // _BLOOM_SCALE), -(-height // _BLOOM_SCALE))
            glow = [self._context.texture(small, 4, dtype="f2") for _ in range(2)]
            check_allocation(self._context, "the bloom")
            for texture in glow:
                texture.repeat_x = texture.repeat_y = False
            self._glow = glow

    def memory(self) -> list[tuple[str, int]]:
        """Bytes on the card."""
        pixels = 0 if self._texture is None else self._texture.size[0] * self._texture.size[1]
        return [("display", 4 * pixels), ("bloom", sum(8 * t.size[0] * t.size[1] for t in self._glow))]

    def release(self) -> None:
        """Give the textures back."""
        for texture in (*self._glow, self._texture):
            if texture is not None:
                texture.release()
        self._glow, self._texture = [], None


def _linear(display: Triple) -> Triple:
    """sRGB display values to linear light."""
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in display)
    return red, green, blue
