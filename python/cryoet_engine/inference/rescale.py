# SPDX-License-Identifier: MIT
"""A tomogram on the grid of a network's voxel size, and its results back on the tomogram's own.

Kernels are as wide as the coarser voxel: going coarser they average, so that nothing folds back (anti-aliasing). Grey
values take the cubic one (Keys 1981, a = -1/2), which keeps contrast up to near the limit of the coarser grid;
probabilities the linear one, whose weights are positive and sum to one, so that they stay probabilities. Per axis a
sparse matrix; rows are applied to blocks, so nothing holds a whole volume.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from .._checks import input_error
from ..blending import SlabBlender
from ..models.checkpoint import ModelInfo
from ..volume import Float32Array, Volume, chunk_shape, quantise
from .sinks import PIECE, Blocks, Store


def resampling_matrix(n_from: int, n_to: int, step: float, *, cubic: bool = False) -> sparse.csr_array:
    """Weights (n_to, n_from) that resample along one axis; rows sum to one.

    Both grids begin at the same edge. step: length of a voxel of the new grid in voxels of the old one.
    """
    width = max(1.0, step)
    reach = width * (2 if cubic else 1)
    centre = (np.arange(n_to) + 0.5) * step - 0.5
    offsets = np.arange(math.ceil(2 * reach) + 1)
    columns = np.floor(centre - reach).astype(np.int64)[:, None] + offsets
    distance = np.abs(columns - centre[:, None]) / width
    weights = _cubic(distance) if cubic else np.clip(1 - distance, 0, None)
    rows = np.broadcast_to(np.arange(n_to)[:, None], columns.shape)
    # Beyond the border the outermost voxel goes on.
    inside = np.clip(columns, 0, n_from - 1)
    weights /= weights.sum(axis=1, keepdims=True)
    kept = weights != 0
    matrix = sparse.coo_array((weights[kept], (rows[kept], inside[kept])), shape=(n_to, n_from))
    return matrix.tocsr().astype(np.float32)


def _cubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys 1981, eq. (15)."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def needed(matrix: sparse.csr_array, part: slice) -> slice:
    """What of the old axis a part of the new one is computed from."""
    columns = matrix[part].indices
    return slice(int(columns.min()), int(columns.max()) + 1)


def along(matrix: sparse.csr_array, data: npt.NDArray[Any], axis: int) -> Float32Array:
    """Apply a matrix along one axis."""
    ahead = np.moveaxis(data, axis, 0)
    flat = np.ascontiguousarray(ahead, np.float32).reshape(len(ahead), -1)
    out: Float32Array = np.asarray(matrix @ flat, np.float32)
    return np.moveaxis(out.reshape(matrix.shape[0], *ahead.shape[1:]), 0, axis)


class _Resampled:
    """Computed as it is sliced, (z, y, x)."""

    def __init__(self, volume: Volume, shape: tuple[int, ...], steps: tuple[float, ...]) -> None:
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self._volume = volume
        if chunks := chunk_shape(volume):  # who reads all of it does so by what is about a chunk
            self.chunks = tuple(max(1, round(n / step)) for n, step in zip(chunks, steps, strict=True))
        self._matrices = [
            resampling_matrix(n_from, n_to, step, cubic=True)
            for n_from, n_to, step in zip(volume.shape, shape, steps, strict=True)
        ]

    def __getitem__(self, key: Any) -> Float32Array:
        given = key if isinstance(key, tuple) else (key,)
        parts = [slice(*part.indices(n)) for part, n in zip((*given, *[slice(None)] * 3), self.shape, strict=False)]
        z, y, x = (needed(matrix, part) for matrix, part in zip(self._matrices, parts, strict=True))
        out = self._volume.block((z, y, x))
        for axis, (matrix, part, read) in enumerate(zip(self._matrices, parts, (z, y, x), strict=True)):
            out = along(matrix[part][:, read], out, axis)
        return out


class Rescaling:
    """Between a tomogram's grid and that of a network.

    volume: the tomogram, resampled as it is read.

    Errors: InputError where the voxel size of either is not known.
    """

    def __init__(self, info: ModelInfo, volume: Volume) -> None:
        for whose, status in (("tomogram", volume.voxel_size_status), ("network", info.voxel_size_status)):
            if status == "unknown":
                fix = "say it (--voxel-size)" if whose == "tomogram" else "train with it, or leave rescale out"
                expected = f"a {whose} whose voxel size is known"
                raise input_error("segment", "rescale", expected=expected, got="an unknown one", fix=fix)
        steps = tuple(net / own for net, own in zip(info.voxel_size_A, volume.voxel_size_A, strict=True))
        self.alike = bool(np.allclose(steps, 1, rtol=0, atol=0.01))  # then there is nothing to rescale
        # Cells that cover the volume; a sliver under a hundredth of one is no reason for another.
        shape = tuple(max(1, math.ceil(n / step - 0.01)) for n, step in zip(volume.shape, steps, strict=True))
        grid = volume.grid() | {"voxel_size_A": info.voxel_size_A}
        self.volume = Volume(_Resampled(volume, shape, steps), **grid)
        self._back = [
            resampling_matrix(n_net, n_own, 1 / step)
            for n_net, n_own, step in zip(shape, volume.shape, steps, strict=True)
        ]

    def wanted(self, slices: slice) -> slice:
        """The network's slices from which these of the tomogram are computed."""
        return needed(self._back[0], slices) if slices.stop > slices.start else slice(0, 0)

    def sink(self, store: Store, *, last: int) -> Resampling:
        """What brings results back to the tomogram's grid, up to its slice `last`."""
        return Resampling(store, self._back, last=last)


class Resampling:
    """Slices on the network's grid, resampled to the tomogram's as soon as those are there that they lie between.

    back: matrices along z, y and x, see `Rescaling`.
    """

    def __init__(self, store: Store, back: list[sparse.csr_array], *, last: int) -> None:
        self._store, self._back, self._last = store, back, last
        self._held: Float32Array | None = None
        self._first = 0  # the network's slice at which `held` begins

    def take(self, blender: SlabBlender, variance: SlabBlender | None, z: slice) -> None:
        """The slices z of the network's grid, which are the next ones of the blenders."""
        for stop in [*range(z.start + PIECE, z.stop, PIECE), z.stop]:
            start = blender.first
            found = blender.finish(stop)[0]
            if variance is not None:
                found = np.concatenate([found, variance.finish(stop)[0]])
            found = along(self._back[2], along(self._back[1], found, 2), 3)
            if self._held is None:
                self._held, self._first = found, start
            else:
                self._held = np.concatenate([self._held, found], axis=1)
            self._emit(stop, variance is not None)

    def _emit(self, there: int, has_variance: bool) -> None:
        matrix, first = self._back[0], self._store.next
        ready = first
        while ready < self._last and needed(matrix, slice(ready, ready + 1)).stop <= there:
            ready += 1
        if ready == first or self._held is None:
            return
        part = slice(first, ready)
        within = slice(self._first, self._first + self._held.shape[1])
        found = along(matrix[part][:, within], self._held, 1)
        probabilities = found[:-1] if has_variance else found
        blocks: Blocks = {"probabilities": quantise(probabilities, self._store.kind)}
        if self._store.labels:
            blocks["labels"] = (probabilities.argmax(0) + 1).astype(np.uint8)
        if has_variance:
            blocks["variance"] = found[-1]
        self._store.put(blocks)
        if ready < self._last:
            keep = needed(matrix, slice(ready, ready + 1)).start
            self._held, self._first = self._held[:, max(keep - self._first, 0) :].copy(), max(keep, self._first)
