# SPDX-License-Identifier: MIT
"""Arrays that are read as they are sliced, and the slabs in which long streams go through memory."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .._checks import CryoETError, file_error, input_error
from ..volume import Volume, drop_pages

AnyArray = npt.NDArray[Any]
Slices = tuple[slice, ...]

_SLAB_BYTES = 64 << 20
_LARGEST_SLAB_BYTES = 1 << 30


class LazyArray:
    """Reads the part that is asked for: integers, slices (any step) and `...` work, and so does `np.asarray`.

    A subclass gives `_read`, which gets one slice an axis, not empty, step 1, within the shape.
    chunks: how the stored data are cut, where that matters to the order in which one reads; else None.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, chunks: tuple[int, ...] | None = None) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.chunks = chunks

    def _read(self, region: Slices) -> AnyArray:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes the whole would take in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        region, within = basic_index(key, self.shape)
        if any(part.start == part.stop for part in region):
            part = np.empty([r.stop - r.start for r in region], self.dtype)
        else:
            part = np.asarray(self._read(region), self.dtype)
        return part[within]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> AnyArray:
        if copy is False:
            raise ValueError("an array that is read from a file cannot be had without a copy")
        return np.asarray(self[...], dtype)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape} {self.dtype}>"


def basic_index(key: Any, shape: tuple[int, ...]) -> tuple[Slices, tuple[Any, ...]]:
    """Split an index into the smallest box that holds it and the index within that box."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [at for at, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1 or len(parts) - len(dots) > len(shape):
        raise IndexError(f"too many indices for an array of {len(shape)} axes: {key!r}")
    at = dots[0] if dots else len(parts)
    parts[at : at + 1] = [slice(None)] * (len(shape) - len(parts) + len(dots))
    box: list[slice] = []
    within: list[Any] = []
    for part, length in zip(parts, shape, strict=True):
        if isinstance(part, slice):
            chosen = range(length)[part]
            if not chosen:
                box.append(slice(0, 0))
                within.append(slice(None))
                continue
            low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
            box.append(slice(low, high + 1))
            within.append(slice(None, None, chosen.step))
            continue
        try:
            index = operator.index(part) if not isinstance(part, bool | np.bool_) else None
        except TypeError:
            index = None
        if index is None:
            raise IndexError(f"data read from a file takes integers and slices, got {part!r}; use np.asarray first")
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of range for an axis of {length}")
        box.append(slice(index % length, index % length + 1))
        within.append(0)
    return tuple(box), tuple(within)


class Source(Protocol):
    """What a StoredArray reads from: one slice or integer an axis gives an array."""

    def __getitem__(self, key: Any) -> Any: ...


class StoredArray(LazyArray):
    """A view of stored data with its axes in our order and its bytes in the machine's order.

    axes: for each of our axes the source's axis, or None for an axis of length one that the source lacks.
    index: for each source axis that we leave out, the position that is read.
    """

    def __init__(
        self,
        path: Path,
        source: Source,
        *,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        axes: tuple[int | None, ...] = (),
        index: dict[int, int] | None = None,
        chunks: tuple[int, ...] | None = None,
    ) -> None:
        axes = axes or tuple(range(len(shape)))
        ours = tuple(1 if axis is None else shape[axis] for axis in axes)
        cut = tuple(1 if axis is None else chunks[axis] for axis in axes) if chunks else None
        super().__init__(ours, np.dtype(dtype).newbyteorder("="), cut)
        self._path, self._source, self._axes = path, source, axes
        self._index = index or {}
        self._mmap, self.mode = getattr(source, "_mmap", None), getattr(source, "mode", None)  # see drop_pages

    def _read(self, region: Slices) -> AnyArray:
        where: dict[int, Any] = dict(self._index)
        where |= {axis: part for axis, part in zip(self._axes, region, strict=True) if axis is not None}
        try:
            part = np.asarray(self._source[tuple(where[axis] for axis in sorted(where))])
        except (CryoETError, MemoryError):
            raise
        except Exception as error:  # each library has its own ways to say that a chunk is broken
            raise file_error(
                self._path,
                "a part of the data cannot be read",
                expected="a whole file",
                got=f"{type(error).__name__}: {error}",
                fix="copy or make the file again",
            ) from error
        present = [axis for axis in self._axes if axis is not None]
        part = part.transpose(np.argsort(np.argsort(present)).tolist() if present else [])
        return part.reshape([r.stop - r.start for r in region])


class _FilledArray(LazyArray):
    def __init__(self, data: Any, value: float) -> None:
        super().__init__(data.shape, data.dtype, getattr(data, "chunks", None))
        self._data, self._value = data, value
        self._mmap, self.mode = getattr(data, "_mmap", None), getattr(data, "mode", None)  # see drop_pages

    def _read(self, region: Slices) -> AnyArray:
        part = np.array(self._data[region])
        part[~np.isfinite(part)] = self._value
        return part


def fill_nonfinite(volume: Volume, value: float) -> Volume:
    """The same volume with every NaN and infinite voxel read as `value`; nothing is read until it is sliced.

    Errors: InputError for a value that is not finite itself.
    """
    if not np.isfinite(value):
        raise input_error("fill_nonfinite", "value", expected="a finite number", got=value)
    if volume.dtype.kind != "f":
        return volume
    return volume.with_data(_FilledArray(volume.data, value))


def slabs(data: Any) -> Iterator[slice]:
    """Cut the first axis into slabs of about 64 MiB, of whole chunks (up to 1 GiB) so that no chunk is read twice."""
    length = data.shape[0]
    chunks = getattr(data, "chunks", None)
    depth = int(chunks[0]) if chunks else 1
    plane = math.prod(data.shape[1:]) * np.dtype(data.dtype).itemsize
    if depth * plane > _LARGEST_SLAB_BYTES:
        depth = 1
    step = max(_SLAB_BYTES // plane // depth, 1) * depth
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
        drop_pages(data)
