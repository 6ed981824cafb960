# SPDX-License-Identifier: MIT
"""From a tomogram and a soft segmentation to what the graphics card holds.

With a raw volume, it and up to three classes share a texture; from four classes on, the first four have a texture of
their own, and the raw volume shares the second with the rest. So the raw volume is fetched only where a class is
visible, and n volumes take n values a voxel (three take four). All is read slab by slab, so that no more than a slab
of the input is in memory at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from ..tiling import block_around, blocks
from ..transfer import TransferFunction
from ..volume import Float32Array, SoftSegmentation, Volume, quantise

Texels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Bits = Literal[8, 16]

CELL = 4  # texels along the edge of what rays leap over: measured best of 4, 8 and 16
BRICK = 8  # texels along the edge of what has a block in the atlas of light: two cells
MAX_CLASSES = 7
_SLAB_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Slab:
    """Slices from `first` on: `textures` holds one (z, y, x, component) array a texture."""

    first: int
    textures: tuple[Texels, ...]
    nonfinite: int


@dataclass(frozen=True, eq=False)
class Packing:
    """How a scene becomes textures.

    drawn: indices of the classes that are packed, in the order of the channels.
    bits: of a value, 8 or 16.
    bin: edge of the cube of voxels that becomes one texel, per axis (z, y, x).
    """

    volume: Volume | None
    segmentation: SoftSegmentation
    transfer: TransferFunction
    drawn: tuple[int, ...]
    bits: Bits = 8
    bin: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def plan(
        cls,
        volume: Volume | None,
        segmentation: SoftSegmentation,
        transfer: TransferFunction,
        *,
        bits: Bits = 8,
        keep_hidden: bool = False,
    ) -> Packing:
        """Choose the channels. InputError when things do not match.

        keep_hidden: pack hidden classes too (but not the first, the background), so that they can be shown later.
        """
        if volume is not None and volume.shape != segmentation.shape:
            raise input_error(
                "render",
                "segmentation",
                expected=f"shape {volume.shape} as the volume",
                got=segmentation.shape,
                fix="render a segmentation with the tomogram it was made from",
            )
        check_transfer(segmentation, transfer)
        if bits not in (8, 16):
            raise input_error("render", "bits", expected="8 or 16", got=repr(bits))
        shown = [index for index, ramp in enumerate(transfer.ramps) if ramp.visible and ramp.opacity > 0]
        drawn = sorted({*shown, *range(1, len(transfer.ramps))}) if keep_hidden else shown
        if len(drawn) > MAX_CLASSES:
            raise input_error(
                "render",
                "transfer",
                expected=f"at most {MAX_CLASSES} classes" + ("" if keep_hidden else " visible"),
                got=len(drawn),
                fix="hide some: TransferFunction.with_ramp(name, visible=False)",
            )
        return cls(volume, segmentation, transfer, tuple(drawn), bits)

    def binned(self, edges: Sequence[int]) -> Packing:
        """The same with boxes of so many voxels (z, y, x) as texels."""
        z, y, x = (min(edge, n) for edge, n in zip(edges, self.segmentation.shape, strict=True))
        return dataclasses.replace(self, bin=(z, y, x))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Texels, (z, y, x). What does not fill a bin at the far end is left out."""
        z, y, x = (n // b for n, b in zip(self.segmentation.shape, self.bin, strict=True))
        return z, y, x

    @property
    def has_raw(self) -> bool:
        """Whether there is a raw volume to multiply with."""
        return self.volume is not None and self.transfer.raw is not None

    @property
    def raw_texture(self) -> int | None:
        """The texture whose first component is the raw volume."""
        return None if not self.has_raw else int(len(self.drawn) > 3)

    @property
    def components(self) -> tuple[int, ...]:
        """Values a texel in each texture: 1, 2 or 4."""
        classes = len(self.drawn)
        if self.has_raw:
            used = (1 + classes,) if classes <= 3 else (4, classes - 3)
        else:
            used = (max(classes, 1),) if classes <= 4 else (4, classes - 4)
        return tuple({1: 1, 2: 2, 3: 4, 4: 4}[n] for n in used)

    @property
    def texel_bytes(self) -> int:
        """Bytes a texel in all textures together."""
        return sum(self.components) * self.bits // 8

    def bytes_of(self, depth: int | None = None) -> int:
        """Bytes of all textures, of `depth` slices of texels (None: all)."""
        z, y, x = self.shape
        return (z if depth is None else depth) * y * x * self.texel_bytes

    def place(self, drawn_index: int) -> tuple[int, int]:
        """(texture, component) of a packed class."""
        if not self.has_raw:
            return divmod(drawn_index, 4)
        if len(self.drawn) <= 3:
            return 0, drawn_index + 1
        return (0, drawn_index) if drawn_index < 4 else (1, drawn_index - 3)

    def slabs(self, first: int = 0, stop: int | None = None) -> Iterator[Slab]:
        """The textures' contents from the bottom up, slices `first` to `stop` of texels."""
        _, y, x = self.segmentation.shape
        low, high = first * self.bin[0], (self.shape[0] if stop is None else stop) * self.bin[0]
        per_slice = y * x * (4 + len(self.segmentation.classes) * self.segmentation.data.dtype.itemsize)
        unit = self.bin[0]  # a slab is a whole number of bins
        thickness = max(unit, _SLAB_BYTES // per_slice // unit * unit)
        raw = self.transfer.raw if self.has_raw else None
        dtype = np.uint8 if self.bits == 8 else np.uint16
        for block in blocks((high - low, y, x), (thickness, y, x), 0):
            start, end = block.core[0].start + low, block.core[0].stop + low
            data = np.asarray(self.segmentation.data[:, start:end])
            textures = [np.zeros((end - start, y, x, n), dtype) for n in self.components]
            nonfinite = 0
            if raw is not None and self.volume is not None and self.raw_texture is not None:
                around = block_around(self.volume.shape, (slice(start, end), *block.core[1:]), raw.halo)
                voxels = self.volume.block(around.padded)
                if self.volume.dtype.kind == "f":
                    nonfinite += int(np.count_nonzero(~np.isfinite(voxels[around.inner])))
                textures[self.raw_texture][..., 0] = quantise(raw.mapped(voxels)[around.inner], dtype)
            for place, index in enumerate(self.drawn):
                texture, component = self.place(place)
                textures[texture][..., component], bad = _quantised(data[index], dtype)
                nonfinite += bad
            binned = tuple(_binned(texture, self.bin) for texture in textures)
            yield Slab(start // self.bin[0], binned, nonfinite)


def check_transfer(segmentation: SoftSegmentation, transfer: TransferFunction) -> None:
    """Raise InputError for a transfer function of other classes."""
    if transfer.classes != segmentation.classes:
        raise input_error(
            "render",
            "transfer",
            expected=f"ramps for the classes {segmentation.classes}",
            got=transfer.classes,
            fix="estimate the transfer function from this segmentation",
        )


def _quantised(probability: npt.NDArray[Any], dtype: type[np.uint8] | type[np.uint16]) -> tuple[Texels, int]:
    """Stored probabilities on the levels of `dtype`, and how many were not finite (they become 0)."""
    if probability.dtype == dtype:
        return probability, 0
    if probability.dtype == np.uint16:
        return ((probability.astype(np.uint32) + 128) // 257).astype(np.uint8), 0
    if probability.dtype == np.uint8:
        return probability.astype(np.uint16) * np.uint16(257), 0
    bad = int(np.count_nonzero(~np.isfinite(probability)))
    return quantise(np.nan_to_num(probability, nan=0.0, posinf=0.0, neginf=0.0), dtype), bad


def _binned(texture: Texels, factors: tuple[int, int, int]) -> Texels:
    if factors == (1, 1, 1):
        return texture
    z, y, x = (n // b for n, b in zip(texture.shape, factors, strict=False))
    bz, by, bx = factors
    cut = texture[: z * bz, : y * by, : x * bx].reshape(z, bz, y, by, x, bx, -1)
    mean: Float32Array = cut.mean(axis=(1, 3, 5), dtype=np.float32)
    rounded = np.rint(mean)
    return rounded.astype(np.uint8) if texture.dtype == np.uint8 else rounded.astype(np.uint16)
