# SPDX-License-Identifier: MIT
"""From a tomogram and a soft segmentation to what the graphics card holds: 8-bit channels and brick maxima.

Channels: the raw volume, mapped to 0..1, and classes 1 to 3 share a texture; classes 4 to 7 have another. All is
read slab by slab, so that no more than a slab of the input is in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .._checks import input_error
from ..tiling import blocks
from ..transfer import TransferFunction
from ..volume import Float32Array, SoftSegmentation, Volume, quantise

Bytes = npt.NDArray[np.uint8]

BRICK = 4  # voxels along a brick's edge: fewer leap better, more cost less to make
MAX_CLASSES = 7
_SLAB_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Slab:
    """Slices from `first` on: `textures` holds one (z, y, x, 4) array a texture."""

    first: int
    textures: tuple[Bytes, ...]
    nonfinite: int


@dataclass(frozen=True, eq=False)
class Packing:
    """How a scene becomes textures.

    drawn: indices of the visible classes, in the order of the channels.
    bin: edge of the cube of voxels that becomes one texel, per axis (z, y, x).
    """

    volume: Volume | None
    segmentation: SoftSegmentation
    transfer: TransferFunction
    drawn: tuple[int, ...]
    bin: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def plan(
        cls,
        volume: Volume | None,
        segmentation: SoftSegmentation,
        transfer: TransferFunction,
        *,
        max_edge: int,
        max_bytes: int,
    ) -> Packing:
        """Choose the channels, and the binning that fits both limits. InputError when things do not match."""
        if volume is not None and volume.shape != segmentation.shape:
            raise input_error(
                "render",
                "segmentation",
                expected=f"shape {volume.shape} as the volume",
                got=segmentation.shape,
                fix="render a segmentation with the tomogram it was made from",
            )
        if transfer.classes != segmentation.classes:
            raise input_error(
                "render",
                "transfer",
                expected=f"ramps for the classes {segmentation.classes}",
                got=transfer.classes,
                fix="estimate the transfer function from this segmentation",
            )
        drawn = tuple(index for index, ramp in enumerate(transfer.ramps) if ramp.visible and ramp.opacity > 0)
        if len(drawn) > MAX_CLASSES:
            raise input_error(
                "render",
                "transfer",
                expected=f"at most {MAX_CLASSES} visible classes",
                got=len(drawn),
                fix="hide some: TransferFunction.with_ramp(name, visible=False)",
            )
        edge = 1
        while True:
            packing = cls(
                volume,
                segmentation,
                transfer,
                drawn,
                tuple(min(edge, n) for n in segmentation.shape),  # type: ignore[arg-type]
            )
            if max(packing.shape) <= max_edge and 4 * int(np.prod(packing.shape)) <= max_bytes:
                return packing
            edge *= 2

    @property
    def shape(self) -> tuple[int, int, int]:
        """Texels, (z, y, x). What does not fill a bin at the far end is left out."""
        z, y, x = (n // b for n, b in zip(self.segmentation.shape, self.bin, strict=True))
        return z, y, x

    @property
    def n_textures(self) -> int:
        """One for up to three classes, two for up to seven."""
        return 1 if len(self.drawn) <= 3 else 2

    @property
    def has_raw(self) -> bool:
        """Whether there is a raw volume to multiply with."""
        return self.volume is not None and self.transfer.raw is not None

    def slabs(self) -> Iterator[Slab]:
        """The textures' contents from the bottom up."""
        _, y, x = self.segmentation.shape
        per_slice = 4 * y * x * (2 + len(self.segmentation.classes))
        # Whole bricks, so that a slab is a whole number of bins too.
        unit = max(BRICK, self.bin[0])
        thickness = max(unit, _SLAB_BYTES // per_slice // unit * unit)
        raw = self.transfer.raw if self.has_raw else None
        for block in blocks(self.segmentation.shape, (thickness, y, x), raw.halo if raw is not None else 0):
            data = np.asarray(self.segmentation.data[(slice(None), *block.core)])
            core_shape = data.shape[1:]
            textures = [np.zeros((*core_shape, 4), np.uint8) for _ in range(self.n_textures)]
            nonfinite = 0
            if raw is not None and self.volume is not None:
                voxels = self.volume.block(block.padded)
                if self.volume.dtype.kind == "f":
                    nonfinite += int(np.count_nonzero(~np.isfinite(voxels[block.inner])))
                textures[0][..., 0] = quantise(raw.mapped(voxels)[block.inner], np.uint8)
            for place, index in enumerate(self.drawn):
                texture, channel = divmod(place + 1, 4) if place < 3 else (1, place - 3)
                textures[texture][..., channel], bad = _as_bytes(data[index])
                nonfinite += bad
            if core_shape[0] >= self.bin[0]:
                binned = tuple(_binned(texture, self.bin) for texture in textures)
                yield Slab(block.core[0].start // self.bin[0], binned, nonfinite)


def _as_bytes(probability: npt.NDArray[Any]) -> tuple[Bytes, int]:
    """Stored probabilities as bytes, and how many were not finite (they become 0)."""
    if probability.dtype == np.uint8:
        return np.asarray(probability, np.uint8), 0
    if probability.dtype == np.uint16:
        return ((probability.astype(np.uint32) + 128) // 257).astype(np.uint8), 0
    bad = int(np.count_nonzero(~np.isfinite(probability)))
    return quantise(np.nan_to_num(probability, nan=0.0, posinf=0.0, neginf=0.0), np.uint8), bad


def _binned(texture: Bytes, factors: tuple[int, int, int]) -> Bytes:
    if factors == (1, 1, 1):
        return texture
    z, y, x = (n // b for n, b in zip(texture.shape, factors, strict=False))
    bz, by, bx = factors
    cut = texture[: z * bz, : y * by, : x * bx].reshape(z, bz, y, by, x, bx, 4)
    mean: Float32Array = cut.mean(axis=(1, 3, 5), dtype=np.float32)
    return np.rint(mean).astype(np.uint8)


def brick_maxima(texture: Bytes, axis: int) -> Bytes:
    """Largest value along one axis in every brick and its apron of one voxel.

    With the apron no trilinear sample inside a brick exceeds the brick's value.
    """
    starts = np.arange(0, texture.shape[axis], BRICK)
    largest = np.moveaxis(np.maximum.reduceat(texture, starts, axis=axis), axis, 0)
    planes = np.moveaxis(texture, axis, 0)
    largest[1:] = np.maximum(largest[1:], planes[starts[1:] - 1])
    largest[:-1] = np.maximum(largest[:-1], planes[starts[1:]])
    return np.moveaxis(largest, 0, axis)


def brick_opacity(maxima: Bytes, packing: Packing, *, multiply_raw: bool) -> Float32Array:
    """Upper bound of the joint opacity in every brick, (z, y, x), from maxima (z, y, x, channel)."""
    largest = maxima.astype(np.float32) / 255
    raw = packing.transfer.raw
    factor = np.ones(maxima.shape[:3], np.float32)
    if multiply_raw and packing.has_raw and raw is not None:
        factor = np.clip((largest[..., 0] - raw.left) / (raw.right - raw.left), 0, 1).astype(np.float32)
    clear = np.ones_like(factor)
    for place, index in enumerate(packing.drawn):
        clear *= 1 - packing.transfer.ramps[index](largest[..., place + 1]) * factor
    return (1 - clear).astype(np.float32)


def brick_distance(occupied: npt.NDArray[np.bool_]) -> Bytes:
    """Chebyshev distance, in bricks, from every brick to the nearest occupied one (at most 255)."""
    if not occupied.any():
        return np.full(occupied.shape, 255, np.uint8)
    distance = ndimage.distance_transform_cdt(~occupied, metric="chessboard")
    return np.asarray(np.minimum(distance, 255), np.uint8)
