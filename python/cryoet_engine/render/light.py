# SPDX-License-Identifier: MIT
"""The cached light: occlusion and shadow at points of the occupied bricks, kept while the camera moves."""

from __future__ import annotations

import math
import time
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
        self._done = 0  # batches of the light that `_key` tells; of so many
        self._batches = 0
        self._batch = 512  # bricks in each

    @property
    def complete(self) -> bool:
        """Whether no point of the light is left to do."""
        return self._key is not None and self._done == self._batches

    def update(
        self,
        bricks: BrickMap,
        defines: Mapping[str, int],
        uniforms: Mapping[str, Any],
        *,
        spacing: int,
        stop_layer: int,
        until: float = math.inf,
        progress: Progress = silent,
    ) -> bool:
        """Bring the atlas up to date; whether anything had to be done.

        defines, uniforms: of shaders/matter.glsl and light.glsl, whose textures and map are bound.
        spacing: texels between points. stop_layer: bricks from this layer on have no light (they are of another slab).
        until: time (perf_counter) to stop at; the next call goes on, and `complete` says whether it has to.
        """
        key = _key(defines, uniforms, spacing, stop_layer)
        if key != self._key:
            self._begin(bricks, spacing)
            self._key = key
            # Short enough for a watchdog and for Ctrl-C, and shorter where there is a time to keep to.
            self._batch = 4096 if not is_software(self._context) else 512 if until == math.inf else 64
        elif self.complete:
            return False
        batch = self._batch
        a_pass = -(-bricks.occupied // batch)
        self._batches = 2 * a_pass
        bricks.list.bind_to_storage_buffer(0)
        self.texture.bind_to_image(1, read=True, write=True)
        program: Any = None
        while self._done < self._batches and time.perf_counter() < until:
            far, part = divmod(self._done, a_pass)
            if program is None or part == 0:
                self._context.memory_barrier()
                program = self._programs.get("light.comp", {**defines, "POINTS": self.points, "FAR": far})
                set_uniforms(program, {**uniforms, "lit_stop": stop_layer})
            first, stop = part * batch, min((part + 1) * batch, bricks.occupied)
            set_uniforms(program, {"first_brick": first, "stop_brick": stop})
            program.run(-(-(stop - first) * (self.points + far) ** 3 // 64))
            self._context.finish()
            self._done += 1
            progress("light", self._done, self._batches)
        self._context.memory_barrier()
        return True

    def holds(self, defines: Mapping[str, int], uniforms: Mapping[str, Any], *, spacing: int, stop_layer: int) -> bool:
        """Whether `update` with these would have nothing to do."""
        return self.complete and self._key == _key(defines, uniforms, spacing, stop_layer)

    def _begin(self, bricks: BrickMap, spacing: int) -> None:
        """An atlas of the size that is wanted, nothing done yet."""
        self._key, self._done = None, 0
        self.points = BRICK // spacing
        size = tuple((self.points + 1) * n for n in bricks.slots)
        if self.texture is None or self.texture.size != size:
            self.release()
            texture = self._context.texture3d(size, 2)
            check_allocation(self._context, f"the light of {bricks.occupied} bricks")
            self.texture = texture
            self.texture.filter = (self._context.LINEAR, self._context.LINEAR)
            self.texture.repeat_x = self.texture.repeat_y = self.texture.repeat_z = False

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


def _key(defines: Mapping[str, int], uniforms: Mapping[str, Any], spacing: int, stop_layer: int) -> object:
    """What the light depends on."""
    told = tuple((k, repr(v)) for k, v in sorted(uniforms.items()))
    return tuple(sorted(defines.items())), told, spacing, stop_layer
