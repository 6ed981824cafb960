# SPDX-License-Identifier: MIT
"""The map of bricks: which may hold something visible, how far the next such one is, and the list of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .context import check_allocation
from .scene import Scene
from .shaders import Programs, set_uniforms

OCCUPIED, SOLID = np.uint32(0x80000000), np.uint32(0x40000000)


class BrickMap:
    """Rebuilt, in compute shaders, when ramps, visibility or clip planes change; kept while only the camera moves.

    texture: R32UI, read by shaders/bricks.glsl. list: buffer of the occupied bricks' linear indices.
    occupied: how many are on the list (of the slab that is drawn). slots: bricks along the axes of the light's atlas.
    """

    def __init__(self, context: Any, programs: Programs, scene: Scene) -> None:
        self.occupied = 0
        self.slots = (1, 1, 1)
        self.list: Any = None
        self._context = context
        self._programs = programs
        self._scene = scene
        self._key: object = None
        count = scene.bricks_xyz
        self.texture = context.texture3d(count, 1, dtype="u4")
        self.texture.filter = (context.NEAREST, context.NEAREST)
        self._distances = [context.texture3d(count, 1, dtype="u1") for _ in range(2)]
        self._counter = context.buffer(reserve=4)
        check_allocation(context, "the map of bricks")

    def update(
        self,
        defines: Mapping[str, int],
        uniforms: Mapping[str, Any],
        *,
        listed: bool,
        layers: tuple[int, int],
    ) -> bool:
        """Bring the map up to date; whether anything had to be done.

        defines, uniforms: of shaders/matter.glsl and occupancy.comp. listed: number the occupied bricks within
        `layers` (z, in bricks) for the light, instead of storing their bounds.
        """
        key = (tuple(sorted(defines.items())), tuple((k, repr(v)) for k, v in sorted(uniforms.items())), listed, layers)
        if key == self._key:
            return False
        self._key = None
        count = self._scene.bricks_xyz
        groups = [-(-n // 4) for n in count]
        if self.list is None:
            self.list = self._context.buffer(reserve=4 * (int(np.prod(count)) if listed else 1))
            check_allocation(self._context, "the list of bricks")
        elif listed and self.list.size < 4 * int(np.prod(count)):
            self.list.orphan(4 * int(np.prod(count)))
        program = self._programs.get("occupancy.comp", {**defines, "LISTED": int(listed)})
        set_uniforms(program, {**uniforms, "lit_layers": layers, "maxima_a": 6, "maxima_b": 7})
        for unit, maxima in enumerate(self._scene.maxima, 6):
            maxima.use(unit)
        self.texture.bind_to_image(0, read=True, write=True)
        self._counter.write(bytes(4))
        self.list.bind_to_storage_buffer(0)
        self._counter.bind_to_storage_buffer(1)
        program.run(*groups)
        self._context.memory_barrier()
        self.occupied = int(np.frombuffer(self._counter.read(), np.uint32)[0])
        edge = max(1, round(self.occupied ** (1 / 3)))
        self.slots = (edge, edge, max(1, -(-self.occupied // edge**2)))
        for axis in range(3):
            step = self._programs.get("distance.comp", {"AXIS": axis, "LISTED": int(listed)})
            set_uniforms(step, {"atlas_slots": self.slots})
            self.texture.bind_to_image(0, read=True, write=True)
            self._distances[(axis + 1) % 2].bind_to_image(1, read=True, write=False)
            self._distances[axis % 2].bind_to_image(2, read=False, write=True)
            step.run(*groups)
            self._context.memory_barrier()
        self._key = key
        return True

    def solid(self) -> npt.NDArray[np.int64]:
        """Indices (n, 3), (z, y, x), of the bricks that a camera should see: where opacity may exceed 1/4."""
        x, y, z = self._scene.bricks_xyz
        cells = np.frombuffer(self.texture.read(alignment=1), np.uint32).reshape(z, y, x)
        return np.argwhere((cells & OCCUPIED != 0) & (cells & SOLID != 0))

    def memory(self) -> list[tuple[str, int]]:
        """Bytes on the card."""
        bricks = int(np.prod(self._scene.bricks_xyz))
        return [("map of bricks", 6 * bricks), ("list of bricks", self.list.size if self.list is not None else 0)]

    def release(self) -> None:
        """Give textures and buffers back."""
        for thing in (self.texture, *self._distances, self._counter, self.list):
            if thing is not None:
                thing.release()
