# SPDX-License-Identifier: MIT
"""The launches that make texels of volumes on a card: csrc/ops/pack.cu.

Coordinates of raw voxels are those of a slab with the voxels around it that its low-pass reaches: the slab begins at
(radius, radius, radius).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .device import Launch, Triple
from .features import Taps, across, convolution
from .structures import Box, Field, RawSpread, TexelPack, triple

#: Types of raw voxels that the kernel reads, in its order (RawType of csrc/ops/pack.cu).
RAW_TYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32")


@dataclass(frozen=True)
class CardSlices:
    """An array (z, y, x) or (channel, z, y, x) on the card.

    address: where slice `first` begins. strides: in elements.
    """

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int = 0

    @classmethod
    def of(cls, array: Any) -> CardSlices:
        """Anything with `__cuda_array_interface__`."""
        told = array.__cuda_array_interface__
        dtype, shape = np.dtype(told["typestr"]), tuple(int(n) for n in told["shape"])
        steps = told.get("strides")
        if steps is None:
            return cls(int(told["data"][0]), dtype, shape, c_strides(shape))
        return cls(int(told["data"][0]), dtype, shape, tuple(int(step) // dtype.itemsize for step in steps))

    def at(self, channel: int, z: int) -> int:
        """The address of a slice of one channel."""
        elements = channel * self.strides[0] + (z - self.first) * self.strides[1]
        return self.address + self.dtype.itemsize * elements


def c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of an array without gaps, in elements."""
    steps = [1]
    for n in reversed(shape[1:]):
        steps.insert(0, steps[0] * n)
    return tuple(steps)


@dataclass(frozen=True)
class LowPass:
    """The raw volume's way to its channel (transfer.RawRamp): a Gaussian, then at_zero -> 0 and at_one -> 1.

    taps: on the card; None for no low-pass. scratch: two addresses, each with room for `scratch_bytes`.
    """

    taps: Taps | None
    at_zero: float
    at_one: float
    scratch: tuple[int, int]

    @staticmethod
    def scratch_bytes(depth: int, height: int, width: int, radius: int) -> int:
        """Of one of the two."""
        return 4 * (depth + 2 * radius) * (height + 2 * radius) * (width + 2 * radius)

    @property
    def radius(self) -> int:
        """Slices that have to be there above and below a slab, as far as the volume goes."""
        return self.taps.radius if self.taps is not None else 0

    def launches(self, raw: CardSlices, length: Triple, first: int, n: int, nonfinite: int) -> Iterator[Launch]:
        """Slices [first, first + n) of a volume of shape `length`, low-passed and less `at_zero`, to `self.result`.

        nonfinite: address of a uint32 to which voxels that are not finite are added.
        """
        _, height, width = length
        r, whole = self.radius, self._box(n, height, width, (0, 0, 0))
        spread = Field(self.scratch[0], whole)
        # The kernel's coordinates are the volume's.
        out = Field(spread.address, Box((first - r, -r, -r), whole.shape))
        job = RawSpread(
            voxels=raw.address, stride=RawSpread.strides(*raw.strides), type=RAW_TYPES.index(raw.dtype.name),
            first=raw.first, length=triple(length), out=out.job, zero=self.at_zero, core_start=first,
            core_stop=first + n, nonfinite=nonfinite,
        )  # fmt: skip
        depth, rows, columns = whole.shape
        yield Launch("pack", "spread_raw", (across(columns, 32), across(rows, 8), depth), (32, 8, 1), job)
        if self.taps is None:
            return
        before = spread
        for axis in range(3):
            start = (r, r if axis > 0 else 0, r if axis > 1 else 0)  # an axis has its margin until it is filtered
            after = Field(self.scratch[(axis + 1) % 2], self._box(n, height, width, start))
            yield convolution(before, axis, self.taps, 0, after, whole.shape)
            before = after

    @property
    def result(self) -> int:
        """Where the last pass leaves the slab, C order."""
        return self.scratch[0] if self.taps is None else self.scratch[1]

    def _box(self, n: int, height: int, width: int, start: Triple) -> Box:
        """The slab and what is around it, without `start` voxels on either side."""
        r = self.radius
        z, y, x = (length + 2 * (r - trimmed) for length, trimmed in zip((n, height, width), start, strict=True))
        return Box(start, (z, y, x))


@dataclass(frozen=True)
class Texels:
    """What a texel of one texture holds: the raw volume first, where `raw`, then classes by their index; of `bits`.

    channels: 1, 2 or 4; those behind the last class are 0.
    """

    channels: int
    bits: int
    raw: bool
    classes: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Of a texel."""
        return self.channels * self.bits // 8

    def launch(
        self, raw: LowPass | None, classes: CardSlices, slab: tuple[int, Triple], texels: int, nonfinite: int
    ) -> Launch:
        """Interleave a slab, (first slice, shape), to the address `texels`; `raw` has been low-passed."""
        first, shape = slab
        addresses = [classes.at(index, first) for index in self.classes]
        channel = [0] * int(self.raw) + addresses
        job = TexelPack(
            raw=raw.result if raw is not None and self.raw else None,
            raw_range=float(np.float32(raw.at_one - raw.at_zero)) if raw is not None else 1.0,
            classes=TexelPack.channel(*channel, *[0] * (4 - len(channel))),
            stride=TexelPack.strides(*classes.strides[1:]), bytes=classes.dtype.itemsize, shape=triple(shape),
            channels=self.channels, bits=self.bits, texels=texels, nonfinite=nonfinite,
        )  # fmt: skip
        depth, height, width = shape
        return Launch("pack", "pack_texels", (across(width, 32), across(height, 8), depth), (32, 8, 1), job)
