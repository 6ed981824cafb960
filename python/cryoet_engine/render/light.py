# SPDX-License-Identifier: MIT
"""The cached light: occlusion and shadow at points of the occupied bricks, kept while the camera moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._progress import Progress, silent
from .bricks import BrickMap
from .context import check_allocation, is_software
from .packing import BRICK
from .shaders import Programs, set_uniforms


class LightCache:
    """An atlas of (BRICK / spacing + 1)^3 points a brick, RG8: ambient and shadow (paper 1, section 5.2, 2 and 3)."""

    def __init__(self, context: Any, programs: Programs) -> None:
        self.texture: Any = None
        self.points = BRICK // 2  # a brick and axis, the one on the high face not counted
        self._context = context
        self._programs = programs
        self._key: object = None

    def update(
        self,
        bricks: BrickMap,
        defines: Mapping[str, int],
        uniforms: Mapping[str, Any],
        *,
        spacing: int,
        stop_layer: int,
        progress: Progress = silent,
    ) -> bool:
        """Bring the atlas up to date; whether anything had to be done.

        defines, uniforms: of shaders/matter.glsl and light.glsl, whose textures and map are bound.
        spacing: texels between points. stop_layer: bricks from this layer on have no light (they are of another slab).
        """
        key = (
            tuple(sorted(defines.items())),
            tuple((k, repr(v)) for k, v in sorted(uniforms.items())),
            (spacing, stop_layer),
        )
        if key == self._key:
            return False
        self._key = None
        self.points = BRICK // spacing
        size = tuple((self.points + 1) * n for n in bricks.slots)
        if self.texture is None or self.texture.size != size:
            self.release()
            texture = self._context.texture3d(size, 2)
            check_allocation(self._context, f"the light of {bricks.occupied} bricks")
            self.texture = texture
            self.texture.filter = (self._context.LINEAR, self._context.LINEAR)
            self.texture.repeat_x = self.texture.repeat_y = self.texture.repeat_z = False
        batch = 512 if is_software(self._context) else 4096  # short enough for a watchdog and for Ctrl-C
        for far in (0, 1):
            program = self._programs.get("light.comp", {**defines, "POINTS": self.points, "FAR": far})
            set_uniforms(program, {**uniforms, "lit_stop": stop_layer})
            self.texture.bind_to_image(1, read=True, write=True)
            bricks.list.bind_to_storage_buffer(0)
            a_brick = (self.points + far) ** 3
            for first in range(0, bricks.occupied, batch):
                stop = min(first + batch, bricks.occupied)
                set_uniforms(program, {"first_brick": first, "stop_brick": stop})
                program.run(-(-(stop - first) * a_brick // 64))
                self._context.finish()
                progress("light", far * bricks.occupied + stop, 2 * bricks.occupied)
            self._context.memory_barrier()
        self._key = key
        return True

    def forget(self) -> None:
        """The atlas is of another slab."""
        self._key = None

    def memory(self) -> list[tuple[str, int]]:
        """Bytes on the card."""
        return [("light", 0 if self.texture is None else 2 * int(np.prod(self.texture.size)))]

    def release(self) -> None:
        """Give the texture back."""
        if self.texture is not None:
            self.texture.release()
        self.texture, self._key = None, None
