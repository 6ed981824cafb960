# SPDX-License-Identifier: MIT
"""Where something may be visible: distances to it, by which rays leap, and the bricks that want light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .context import check_allocation
from .packing import BRICK, CELL
from .scene import Scene
from .shaders import Programs, set_uniforms

SOLID = np.uint32(0x40000000)  # of shaders/occupancy.comp


class BrickMap:
    """Rebuilt, in compute shaders, when ramps, visibility or clip planes change; kept while only the camera moves.

    distances: R8UI, a cell a texel; texture: R32UI, a brick a texel: see shaders/bricks.glsl.
    list: buffer of the occupied bricks' linear indices, `occupied` of them (in the slab that is drawn).
    slots: bricks along the axes of the atlas of light.
    """

    def __init__(self, context: Any, programs: Programs, scene: Scene) -> None:
        self.occupied = 0
        self.slots = (1, 1, 1)
        self._context = context
        self._programs = programs
        self._scene = scene
        self._key: object = None
        self.texture = context.texture3d(scene.bricks_xyz, 1, dtype="u4")
        self.distances, self._other = (context.texture3d(scene.cells_xyz, 1, alignment=1, dtype="u1") for _ in range(2))
        self.list = context.buffer(reserve=4096)
        self._counter = context.buffer(reserve=4)
        try:
            check_allocation(context, "the map of bricks")
        except BaseException:
            self.release()
            raise
        for texture in (self.texture, self.distances, self._other):
            texture.filter = (context.NEAREST, context.NEAREST)

    def update(
        self,
        defines: Mapping[str, int],
        uniforms: Mapping[str, Any],
        *,
        listed: bool,
        layers: tuple[int, int],
    ) -> bool:
        """Bring the maps up to date; whether anything had to be done.

        defines, uniforms: of shaders/matter.glsl and occupancy.comp. listed: number the occupied bricks within
        `layers` (z, in bricks) for the light, instead of storing their bounds.
        """
        key = (tuple(sorted(defines.items())), tuple((k, repr(v)) for k, v in sorted(uniforms.items())), listed, layers)
        if key == self._key:
            return False
        self._key = None
        program = self._programs.get("occupancy.comp", {**defines, "LISTED": int(listed)})
        set_uniforms(program, {**uniforms, "lit_layers": layers, "maxima_a": 6, "maxima_b": 7})
        groups = [-(-n // 4) for n in self._scene.bricks_xyz]
        for unit, maxima in enumerate(self._scene.maxima, 6):
            maxima.use(unit)
        while True:
            set_uniforms(program, {"capacity": self.list.size // 4})
            self.texture.bind_to_image(0, read=False, write=True)
            self.distances.bind_to_image(1, read=False, write=True)
            self._counter.write(bytes(4))
            self.list.bind_to_storage_buffer(0)
            self._counter.bind_to_storage_buffer(1)
            program.run(*groups)
            self._context.memory_barrier()
            self.occupied = int(np.frombuffer(self._counter.read(), np.uint32)[0])
            if 4 * self.occupied <= self.list.size:
                break
            self.list.orphan(4 * (self.occupied + self.occupied // 8))
            check_allocation(self._context, "the list of bricks")
        for axis in range(3):
            step = self._programs.get("distance.comp", {"AXIS": axis})
            self.distances.bind_to_image(0, read=True, write=False)
            self._other.bind_to_image(1, read=False, write=True)
            step.run(*(-(-n // 4) for n in self._scene.cells_xyz))
            self._context.memory_barrier()
            self.distances, self._other = self._other, self.distances
        if listed and self.occupied:
            # Threads come in any order: sorted, the same scene has the same atlas, to the bit.
            found = np.sort(np.frombuffer(self.list.read(size=4 * self.occupied), np.uint32))
            self.list.write(found.tobytes())
            # Nearly a cube: no axis of the atlas meets the limit of a texture before memory does.
            edge = max(1, round(self.occupied ** (1 / 3)))
            self.slots = (edge, edge, max(1, -(-self.occupied // edge**2)))
            step = self._programs.get("slots.comp")
            set_uniforms(step, {"listed": self.occupied, "atlas_slots": self.slots})
            self.texture.bind_to_image(0, read=True, write=True)
            self.list.bind_to_storage_buffer(0)
            step.run(-(-self.occupied // 64))
            self._context.memory_barrier()
        self._key = key
        return True

    def use(self) -> None:
        """Bind the maps to units 2 and 8."""
        self.texture.use(2)
        self.distances.use(8)

    def solid(self) -> npt.NDArray[np.int64]:
        """Cells that a camera should see: occupied, in bricks that exceed 1/4; of a row along x the first and the last.

        Indices (n, 3), (z, y, x). What lies between the two is seen with them.
        """
        x, y, z = self._scene.bricks_xyz
        data = np.frombuffer(self.texture.read(alignment=1), np.uint32).reshape(z, y, x)
        x, y, z = self._scene.cells_xyz
        cells = np.frombuffer(self.distances.read(alignment=1), np.uint8).reshape(z, y, x)
        solid = (data & SOLID) != 0
        for axis, length in enumerate((z, y, x)):
            solid = np.repeat(solid, BRICK // CELL, axis=axis).take(np.arange(length), axis=axis)
        solid &= cells == 0
        rows = np.argwhere(solid.any(axis=2))
        of_row = solid[tuple(rows.T)]
        first, last = of_row.argmax(axis=1), x - 1 - of_row[:, ::-1].argmax(axis=1)
        return np.concatenate([np.column_stack([rows, end]) for end in (first, last)])

    def memory(self) -> list[tuple[str, int]]:
        """Bytes on the card."""
        bricks, cells = (int(np.prod(n)) for n in (self._scene.bricks_xyz, self._scene.cells_xyz))
        return [("distances", 2 * cells), ("map of bricks", 4 * bricks), ("list of bricks", self.list.size)]

    def release(self) -> None:
        """Give textures and buffers back."""
        for thing in (self.texture, self.distances, self._other, self._counter, self.list):
            thing.release()
