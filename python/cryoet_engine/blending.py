# SPDX-License-Identifier: MIT
"""Overlapping tiles (class, z, y, x) blended into whole slices, a slab at a time, in memory or on an NVIDIA card.

Neither holds the stitched volume: a slab is as many slices as a tile, and what the next tiles reach stays in it.
Weights are those of `tiling.tile_shares`, which sum to one, so nothing counts how often a voxel was covered
(csrc/ops/blend.h). On the CPU `OMP_NUM_THREADS` sets the threads; their number changes no bit.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._checks import input_error
from .cuda.device import Device, Launch, allocated
from .cuda.features import across, aligned
from .cuda.structures import BlendFinish, TileBlend, triple
from .tiling import Shape
from .volume import Float32Array, probability_unit

STORED = ("uint8", "uint16", "float32")
_TILES = {"float32": "blend_float32", "float16": "blend_float16", "uint16": "blend_bfloat16"}
_MOST_CLASSES = 255
_PART = 16  # slices that are finished on the card and downloaded at a time

TileWeights = tuple[Float32Array, Float32Array, Float32Array]


class SlabBlender:
    """Adds tiles up, and gives slices back when they are complete.

    n_classes: 1 to 255. slab: (z, y, x), as many slices as a tile has, each the whole volume's (y, x). device: a card,
    to which tiles then come as arrays that lie there; None: the CPU. Memory: 4 bytes a class and voxel of the slab; on
    the card the results of 16 slices beside.

    A context manager: at its end the card's memory is given back.
    """

    def __init__(self, n_classes: int, slab: Shape, *, device: Device | None = None) -> None:
        if not 1 <= n_classes <= _MOST_CLASSES or min(slab) < 1:
            expected = f"1 to {_MOST_CLASSES} classes and a slab with no empty axis"
            raise input_error("SlabBlender", "n_classes, slab", expected=expected, got=(n_classes, slab))
        self.n_classes, self.slab = n_classes, slab
        self.first = 0  # slice of the volume that is finished next
        self._held = ExitStack()
        self._sums: _Memory = _HostSums(n_classes, slab) if device is None else _CardSums(device, n_classes, slab)
        self._held.callback(self._sums.close)

    def __enter__(self) -> SlabBlender:
        """As it is."""
        return self

    def __exit__(self, *error: object) -> None:
        """Give memory back."""
        self._held.close()

    def add(self, tile: Any, weights: TileWeights, at: Shape, *, written: bool = False) -> None:
        """Add one tile.

        tile: (class, z, y, x) float32, float16, or bfloat16 by its bits as uint16 (torch: `tensor.view(torch.uint16)`);
            any strides, so that channels-last tensors cost no copy. What reaches beyond the slab's far ends is left
            out.
        weights: along z, y and x, float32, each as long as the tile.
        at: where in the volume the tile's first voxel lies; z at least `first`.
        written: the caller knows that a tile on the card is; else all work on the card is waited for.

        Errors: InputError for another shape, type or place; voxels are not looked at.
        """
        where, kind = "SlabBlender.add", _kind(tile)
        shape = tuple(int(n) for n in tile.shape)
        if len(shape) != 4 or shape[0] != self.n_classes or 0 in shape:
            expected = f"({self.n_classes}, z, y, x) with no empty axis"
            raise input_error(where, "tile", expected=expected, got=f"shape {shape}")
        if kind not in _TILES:
            raise input_error(where, "tile", expected="float32, float16 or uint16 (bfloat16's bits)", got=kind)
        if [np.shape(one) for one in weights] != [(n,) for n in shape[1:]]:
            got = [np.shape(one) for one in weights]
            raise input_error(where, "weights", expected=f"rows of {shape[1:]}", got=got)
        depth, height, width = self.slab
        ends = (self.first + depth, height, width)
        begins = (self.first, 0, 0)
        if not all(low <= a < high for a, low, high in zip(at, begins, ends, strict=True)):
            expected = f"a voxel of the slab, {begins} to {ends}"
            raise input_error(where, "at", expected=expected, got=at, fix="finish the slices above first")
        counts = [min(n, end - a) for n, end, a in zip(shape[1:], ends, at, strict=True)]
        z, y, x = (np.ascontiguousarray(w[:n], np.float32) for w, n in zip(weights, counts, strict=True))
        self._sums.add(tile, kind, (z, y, x), at, written)

    def finish(
        self,
        until: int,
        *,
        dtype: str = "float32",
        softmax: bool = False,
        labels: bool = False,
        out: npt.NDArray[Any] | None = None,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
        """The slices from `first` to `until`, which no later tile reaches.

        dtype: of the probabilities: "uint8", "uint16" (as `volume.quantise` stores them) or "float32". softmax: over
        the classes, after blending, where tiles were raw outputs; else values are clamped to 0..1. labels: the class of
        the largest sum as well, the first one where several are. out: an array (class, z, y, x) of that type to write
        to, each class contiguous, such as slices of a whole volume's; by default a new one.

        Returns: probabilities (class, z, y, x), and labels (z, y, x) or None.

        Errors: InputError for other slices than those of the slab, or another type.
        """
        where = "SlabBlender.finish"
        n = until - self.first
        if not 1 <= n <= self.slab[0]:
            expected = f"{self.first + 1} to {self.first + self.slab[0]}"
            raise input_error(where, "until", expected=expected, got=until)
        if dtype not in STORED:
            raise input_error(where, "dtype", expected=", ".join(STORED), got=dtype)
        _, height, width = self.slab
        shape = (self.n_classes, n, height, width)
        stored = np.empty(shape, dtype) if out is None else out
        if stored.shape != shape or stored.dtype != dtype or not stored[0].flags.c_contiguous:
            expected = f"{dtype} {shape}, each class contiguous"
            raise input_error(where, "out", expected=expected, got=f"{stored.dtype} {stored.shape}")
        found = np.empty((n, height, width), np.uint8) if labels else None
        self._sums.finish(self.first, n, softmax, stored, found)
        self.first = until
        return stored, found


def _kind(tile: Any) -> str:
    told = getattr(tile, "__cuda_array_interface__", None)
    return str(np.dtype(told["typestr"] if told is not None else tile.dtype))


class _HostSums:
    def __init__(self, n_classes: int, slab: Shape) -> None:
        self._sums = np.zeros((n_classes, *slab), np.float32)

    def close(self) -> None:
        pass

    def add(self, tile: Any, kind: str, weights: TileWeights, at: Shape, written: bool) -> None:
        z, y, x = (len(one) for one in weights)
        if hasattr(tile, "__cuda_array_interface__"):
            raise input_error("SlabBlender.add", "tile", expected="a numpy array", got="one that lies on a card")
        _core.blend_tile(np.asarray(tile)[:, :z, :y, :x], weights, self._sums, at, 0)

    def finish(
        self,
        first: int,
        n: int,
        softmax: bool,
        stored: npt.NDArray[Any],
        labels: npt.NDArray[np.uint8] | None,
    ) -> None:
        _core.finish_blend(self._sums, first, n, softmax, stored, labels, 0)


class _CardSums:
    def __init__(self, device: Device, n_classes: int, slab: Shape) -> None:
        self._device, self._n_classes, self._slab = device, n_classes, slab
        self._stream = device.stream()
        self._held = ExitStack()
        depth, height, width = slab
        plane, part = height * width, min(_PART, depth)
        self._table = np.zeros(sum(slab), np.float32)
        try:
            self._sums = self._held.enter_context(allocated(device, aligned(4 * n_classes * depth * plane)))
            self._out = self._held.enter_context(allocated(device, aligned(4 * n_classes * part * plane)))
            self._labels = self._held.enter_context(allocated(device, aligned(part * plane)))
            self._weights = self._held.enter_context(allocated(device, aligned(self._table.nbytes)))
            self._finish(0, depth, False, 0, None, None)  # with nothing to write it clears
            self._wait()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._device.synchronise()
        self._held.close()

    def add(self, tile: Any, kind: str, weights: TileWeights, at: Shape, written: bool) -> None:
        told = getattr(tile, "__cuda_array_interface__", None)
        if told is None:
            raise input_error("SlabBlender.add", "tile", expected="an array on the card", got=type(tile).__name__)
        depth, height, width = self._slab
        nz, ny, nx = (len(one) for one in weights)
        table = np.concatenate(weights)
        if not written:  # whoever made the tile may still be writing to it in a stream of theirs
            self._device.synchronise()
        self._device.upload(table, self._weights, self._stream)
        rows = (self._weights, self._weights + 4 * nz, self._weights + 4 * (nz + ny))
        job = TileBlend(
            tile=int(told["data"][0]), stride=TileBlend.strides(*_strides(told)), shape=triple((nz, ny, nx)),
            n_classes=self._n_classes, weights=TileBlend.rows(*rows), sums=self._sums,
            at=triple((at[0] % depth, at[1], at[2])), depth=depth, height=height, width=width,
        )  # fmt: skip
        grid = (across(nx, 32), across(ny, 8), nz)
        self._device.launch(Launch("blend", _TILES[kind], grid, (32, 8, 1), job), self._stream)
        self._wait()  # the caller takes the tile's memory back after this

    def finish(
        self,
        first: int,
        n: int,
        softmax: bool,
        stored: npt.NDArray[Any],
        labels: npt.NDArray[np.uint8] | None,
    ) -> None:
        plane = self._slab[1] * self._slab[2]
        most = None if labels is None else self._labels
        unit = 0 if stored.dtype.kind == "f" else int(probability_unit(stored.dtype))
        one = plane * stored.dtype.itemsize
        for begin in range(0, n, _PART):
            count = min(_PART, n - begin)
            self._finish(first + begin, count, softmax, unit, self._out, most)
            for c in range(self._n_classes):
                self._device.download(self._out + c * count * one, stored[c, begin : begin + count], self._stream)
            if labels is not None:
                self._device.download(self._labels, labels[begin : begin + count], self._stream)
            self._wait()

    def _finish(self, first: int, n: int, softmax: bool, unit: int, out: int | None, labels: int | None) -> None:
        depth, height, width = self._slab
        job = BlendFinish(
            sums=self._sums, n_classes=self._n_classes, depth=depth, height=height, width=width, first=first % depth,
            n=n, softmax=int(softmax), out_unit=unit, out=out, labels=labels,
        )  # fmt: skip
        grid = (across(width, 32), across(height, 8), n)
        self._device.launch(Launch("blend", "finish_blend", grid, (32, 8, 1), job), self._stream)

    def _wait(self) -> None:
        self._device.finish(self._device.mark(self._stream))


_Memory = _HostSums | _CardSums


def _strides(told: dict[str, Any]) -> tuple[int, int, int, int]:
    """Of a (class, z, y, x) array on the card, in elements."""
    if told.get("strides") is not None:
        size = np.dtype(told["typestr"]).itemsize
        c, z, y, x = (int(step) // size for step in told["strides"])
        return c, z, y, x
    _, nz, ny, nx = told["shape"]
    return nz * ny * nx, ny * nx, nx, 1
