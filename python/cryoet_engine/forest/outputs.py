# SPDX-License-Identifier: MIT
"""Where a prediction goes: probabilities, and maps made of them, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from ..tiling import Block
from ..volume import Region, SoftSegmentation, Volume, quantise
from .uncertainty import map_of

PROBABILITY_TYPES = (np.uint8, np.uint16, np.float32)
Shape = tuple[int, int, int]


class SegmentationOutput(Protocol):
    """Where probabilities may be streamed to: an array (class, z, y, x), or what io.create_segmentation gives."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(class, z, y, x)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, uint16 or float32."""

    def __setitem__(self, region: Any, part: Any) -> None:
        """Store a part, in `dtype`."""


class VolumeOutput(Protocol):
    """Where a map may be streamed to: an array (z, y, x), or what io.create_volume gives."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, uint16 or float32; for labels any integer type that counts to the number of classes."""

    def __setitem__(self, region: Any, part: Any) -> None:
        """Store a part, in `dtype`."""


def probability_type(dtype: npt.DTypeLike, where: str) -> np.dtype[Any]:
    """One of the types in which probabilities are stored."""
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if kind not in PROBABILITY_TYPES:
        raise input_error(where, "dtype", expected="uint8, uint16 or float32", got=dtype)
    return kind


@dataclass(frozen=True)
class Outputs:
    """Probabilities, and for each name of `uncertainty.MAPS` that is wanted, where it goes. Made by `outputs_for`."""

    probabilities: SegmentationOutput
    maps: Mapping[str, VolumeOutput]

    @property
    def block_type(self) -> np.dtype[Any]:
        """In which type blocks are wanted: maps are made of probabilities that have not been rounded yet."""
        return np.dtype(np.float32) if self.maps else np.dtype(self.probabilities.dtype)

    @property
    def in_memory(self) -> int:
        """Bytes that the results themselves will take in memory."""
        outputs = [self.probabilities, *self.maps.values()]
        return sum(one.nbytes for one in outputs if isinstance(one, np.ndarray) and not isinstance(one, np.memmap))

    def store(self, region: Region, block: npt.NDArray[Any]) -> None:
        """A block of probabilities (class, z, y, x) in `block_type`, and what follows from it."""
        kind = np.dtype(self.probabilities.dtype)
        for name, out in self.maps.items():
            values = map_of(name)(block)
            out[region] = values.astype(out.dtype) if name == "labels" else quantise(values, out.dtype)
        if block.dtype == kind:
            self.probabilities[(slice(None), *region)] = block
            return
        for k in range(len(block)):  # class by class: rounding takes copies
            self.probabilities[(slice(k, k + 1), *region)] = quantise(block[k : k + 1], kind)


class Chunks:
    """Blocks of probabilities on their way to the outputs, put together to whole chunks first."""

    def __init__(self, outputs: Outputs, wholes: Iterable[tuple[Region, list[Block]]]) -> None:
        self._outputs = outputs
        self._wholes = [(region, len(parts)) for region, parts in wholes]
        self._at, self._missing = -1, 0
        self._buffer: npt.NDArray[Any] | None = None

    def add(self, part: Block, proba: npt.NDArray[Any]) -> None:
        """The next block, in the order of the chunks' lists."""
        if not self._missing:
            self._at += 1
            self._missing = self._wholes[self._at][1]
            region = self._wholes[self._at][0]
            shape = (len(proba), *(one.stop - one.start for one in region))
            self._buffer = np.empty(shape, proba.dtype) if self._missing > 1 else None
        region = self._wholes[self._at][0]
        self._missing -= 1
        if self._buffer is None:
            self._outputs.store(region, proba)
            return
        z, y, x = (slice(c.start - r.start, c.stop - r.start) for c, r in zip(part.core, region, strict=True))
        self._buffer[:, z, y, x] = proba
        if not self._missing:
            self._outputs.store(region, self._buffer)


def outputs_for(
    shape: Shape,
    n_classes: int,
    *,
    dtype: npt.DTypeLike,
    out: SegmentationOutput | None,
    maps: Mapping[str, VolumeOutput] | None,
) -> Outputs:
    """The outputs of `PixelClassifier.predict_proba`, checked."""
    where, whole = "predict_proba", (n_classes, *shape)
    if out is None:
        try:
            out = np.empty(whole, probability_type(dtype, where))
        except MemoryError:
            fix = "stream the result to a file (out=)"
            raise input_error(where, "out", expected="room for the result", got=f"shape {whole}", fix=fix) from None
    probability_type(out.dtype, where)
    if tuple(out.shape) != whole:
        raise input_error(where, "out", expected=f"shape {whole} (class, z, y, x)", got=tuple(out.shape))
    for name, one in (maps or {}).items():
        map_of(name)
        if tuple(one.shape) != shape:
            raise input_error(where, f"maps[{name!r}]", expected=f"shape {shape} (z, y, x)", got=tuple(one.shape))
        kind = np.dtype(one.dtype)
        if name != "labels":
            probability_type(kind, where)
        elif kind.kind not in "iu" or np.iinfo(kind).max < n_classes:
            expected = f"an integer type that counts to {n_classes}"
            raise input_error(where, "maps['labels']", expected=expected, got=kind)
    return Outputs(out, dict(maps or {}))


def as_segmentation(out: SegmentationOutput, classes: tuple[str, ...], tomogram: Volume) -> SoftSegmentation:
    """What has been written, as a segmentation on the tomogram's grid."""
    written = getattr(out, "segmentation", None)
    if isinstance(written, SoftSegmentation):
        return written
    return SoftSegmentation(out, classes, **tomogram.grid())
