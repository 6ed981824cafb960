# SPDX-License-Identifier: MIT
"""A packed scene on the card: its textures, whole or a slab at a time, and the largest values of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._progress import Progress, silent
from .camera import Vector
from .context import check_allocation
from .interop import NoInterop, notice, open_upload
from .packing import BRICK, CELL, Packing, Slab
from .shaders import Programs, set_uniforms

_DTYPES = {8: "f1", 16: "nu2"}


class Scene:
    """The textures that shaders/matter.glsl reads.

    depth: slices of texels that the textures hold at a time: all of them, or a slab.
    ahead: the packing's slabs, where they are made already.
    nonfinite: voxels that were not finite and count as background (in slabs, those that two of them hold, twice).
    voxel, half_extent: edges of a texel and half the volume's extent, (x, y, z), in units of a voxel's shortest edge.
    """

    def __init__(self, context: Any, programs: Programs, packing: Packing, depth: int) -> None:
        # What lies on a card already goes by CUDA; `packing` reads on the host what has to go through it.
        self._upload, packing, refused = open_upload(context, packing)
        self.notices = [refused] if refused else []
        self.packing = packing
        self.depth = depth
        self.ahead: Sequence[Slab] = ()
        self.nonfinite = 0
        grid = packing.volume if packing.volume is not None else packing.segmentation
        edges = np.array(grid.voxel_size_A[::-1])
        self.unit_A = float(edges.min())
        self.voxel: Vector = edges / self.unit_A
        self.texel: Vector = self.voxel * packing.bin[::-1]
        self.half_extent: Vector = np.array(packing.shape[::-1]) * self.texel / 2
        self._context = context
        self._programs = programs
        self._resident: int | None = None
        self.textures: list[Any] = []
        self.maxima: list[Any] = []
        _, y, x = packing.shape
        try:
            for n in packing.components:
                texture = context.texture3d((x, y, depth), n, dtype=_DTYPES[packing.bits])
                self.textures.append(texture)
                check_allocation(context, f"a texture of {depth} x {y} x {x} voxels")
                texture.filter = (context.LINEAR, context.LINEAR)
                texture.repeat_x = texture.repeat_y = texture.repeat_z = False
                maxima = context.texture3d(self.cells_xyz, n, bytes(n * int(np.prod(self.cells_xyz))), alignment=1)
                self.maxima.append(maxima)
                check_allocation(context, "the cells' largest values")
        except BaseException:
            self.release()
            raise

    @property
    def whole(self) -> bool:
        """Whether all of the volume is on the card at once."""
        return self.depth == self.packing.shape[0]

    @property
    def cells_xyz(self) -> tuple[int, int, int]:
        """Cells along x, y and z."""
        z, y, x = (-(-n // CELL) for n in self.packing.shape)
        return x, y, z

    @property
    def bricks_xyz(self) -> tuple[int, int, int]:
        """Bricks along x, y and z."""
        z, y, x = (-(-n // BRICK) for n in self.packing.shape)
        return x, y, z

    @property
    def slabs(self) -> list[tuple[int, int]]:
        """(first, stop) slices of texels of each slab's own part, whole bricks; the rest of a texture is halo."""
        n = self.packing.shape[0]
        if self.whole:
            return [(0, n)]
        own = max((self.depth - 2 * self.halo) // BRICK * BRICK, BRICK)
        return [(first, min(first + own, n)) for first in range(0, n, own)]

    #: Slices beyond a slab's own part that its light would like to see; less where the textures are thin.
    wanted_halo = 1

    @property
    def halo(self) -> int:
        """Slices beyond a slab's own part, on either side."""
        return max(1, min(self.wanted_halo, (self.depth - BRICK) // 2))

    def first_of(self, slab: tuple[int, int]) -> int:
        """First slice that the textures hold while a slab is drawn."""
        return max(0, min(slab[0] - self.halo, self.packing.shape[0] - self.depth))

    def make_resident(self, slab: tuple[int, int], progress: Progress = silent) -> None:
        """Bring a slab and its halo to the card, unless it is there."""
        first = self.first_of(slab)
        if self._resident == first:
            return
        self._resident = None
        if self._upload_by_cuda(first):
            progress("upload", self.depth, self.depth)
            self._resident = first
            return
        _, y, x = self.packing.shape
        for part in self.ahead or self.packing.slabs(first, first + self.depth):
            thickness = part.textures[0].shape[0]
            for texture, content in zip(self.textures, part.textures, strict=True):
                view = (0, 0, part.first - first, x, y, thickness)
                texture.write(np.ascontiguousarray(content), viewport=view, alignment=1)
            self.nonfinite += part.nonfinite
            progress("upload", part.first - first + thickness, self.depth)
        check_allocation(self._context, "the upload of the volume")
        self._resident, self.ahead = first, ()

    def _upload_by_cuda(self, first: int) -> bool:
        """Fill the textures from arrays on the card; False where there are none or where that is refused."""
        if self._upload is None:
            return False
        try:
            for which, texture in enumerate(self.textures):
                self.nonfinite += self._upload.write(texture, which, first, self.depth)
        except NoInterop as reason:
            self._upload, self.nonfinite = None, 0
            self.notices.append(notice(reason))
            return False
        check_allocation(self._context, "the upload of the volume")
        return True

    def _close_upload(self) -> None:
        if self._upload is not None:
            self._upload.close()
            self._upload = None

    def find_maxima(self, progress: Progress = silent) -> None:
        """Largest values of all cells; goes through all slabs once."""
        counted = 0
        for slab in self.slabs:
            self.nonfinite = 0
            self.make_resident(slab, progress)
            counted += self.nonfinite
            first = self.first_of(slab)
            for n, texture, maxima in zip(self.packing.components, self.textures, self.maxima, strict=True):
                program = self._programs.get("cell_max.comp", {"CELL": CELL, "COMPONENTS": n})
                texture.use(0)
                maxima.bind_to_image(0, read=True, write=True)
                set_uniforms(program, {"matter": 0, "texture_first": first})
                program.run(*(-(-n // 4) for n in self.cells_xyz))
                self._context.memory_barrier()
        self.nonfinite = counted
        self._context.finish()
        if self.whole:  # nothing is brought up again: the buffer and its scratch are given back
            self._close_upload()

    def matter_uniforms(self, slab: tuple[int, int]) -> dict[str, Any]:
        """Where the textures lie, and the grid of bricks."""
        _, y, x = self.packing.shape
        low = -self.half_extent
        texture_low = low + np.array([0, 0, self.first_of(slab) * self.texel[2]])
        extent = np.array([x, y, self.depth]) * self.texel
        return {
            "texture_low": tuple(texture_low),
            "texture_scale": tuple(1 / extent),
            "volume_low": tuple(low),
            "brick_edge": tuple(BRICK * self.texel),
            "brick_count": self.bricks_xyz,
            "cell_edge": tuple(CELL * self.texel),
            "cell_count": self.cells_xyz,
            "matter_a": 0,
            "matter_b": 1,
        }

    def heights(self, slab: tuple[int, int]) -> tuple[float, float]:
        """z of a slab's own part, from the volume's middle."""
        return tuple(float(n * self.texel[2] - self.half_extent[2]) for n in slab)  # type: ignore[return-value]

    def use(self) -> None:
        """Bind the textures to units 0 and 1."""
        for unit, texture in enumerate(self.textures):
            texture.use(unit)

    def from_voxel(self, point_zyx: npt.ArrayLike) -> Vector:
        """Position (x, y, z) of a point in voxels (z, y, x), whose whole numbers are the middles of voxels."""
        return np.asarray((np.asarray(point_zyx, float)[::-1] + 0.5) * self.voxel - self.half_extent)

    def memory(self) -> list[tuple[str, int]]:
        """Bytes on the card."""
        _, y, x = self.packing.shape
        cells = int(np.prod(self.cells_xyz))
        return [
            ("volumes", self.depth * y * x * self.packing.texel_bytes),
            ("cells' largest values", cells * sum(self.packing.components)),
        ]

    def release(self) -> None:
        """Give the textures back."""
        self._close_upload()
        for texture in (*self.textures, *self.maxima):
            texture.release()
        self.textures, self.maxima = [], []
