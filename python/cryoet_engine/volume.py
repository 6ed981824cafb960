# SPDX-License-Identifier: MIT
"""The two things that travel through the house: a tomogram and a soft segmentation.

Arrays are (z, y, x), lengths in Å. `data` may be a numpy array or anything that slices to one (a memory map, a
chunked store), so that a volume larger than memory costs nothing until a block of it is read.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ._checks import input_error

Triple: TypeAlias = tuple[float, float, float]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Region: TypeAlias = tuple[slice, slice, slice]
VoxelSizeStatus: TypeAlias = Literal["known", "estimated", "unknown"]

_MAPPED_BYTES = 16 << 20  # of a memory map, read before its pages are given back
_PIECE_VOXELS = 1 << 20  # that statistics convert to float64 at a time
_ONE_SIZE = 1.1  # largest ratio of voxel sizes that a forest or a network takes for one
_BAND_BYTES = 32 << 20  # of chunks, unpacked for them at a time

#: Colours by position in the class list (linear 0..1): background, membrane, spikes, lumen, then spare ones.
DEFAULT_COLORS: tuple[Triple, ...] = (
    (0.17, 0.17, 0.17),
    (0.86, 0.52, 0.13),
    (0.76, 0.05, 0.17),
    (0.06, 0.24, 0.68),
    (0.17, 0.54, 0.13),
    (0.69, 0.64, 0.48),
    (0.32, 0.16, 0.61),
    (0.05, 0.46, 0.43),
    # The same eight, lighter or darker: many classes of a label file stay apart.
    (0.29, 0.29, 0.29),
    (0.26, 0.16, 0.04),
    (0.83, 0.33, 0.42),
    (0.34, 0.47, 0.78),
    (0.05, 0.16, 0.04),
    (0.84, 0.82, 0.74),
    (0.10, 0.05, 0.18),
    (0.01, 0.14, 0.13),
)


def _triple(value: float | Sequence[float], name: str) -> Triple:
    values = (value,) * 3 if isinstance(value, int | float) else tuple(value)
    if len(values) != 3 or not all(math.isfinite(v) for v in values):
        raise input_error("Volume", name, expected="three finite numbers (z, y, x)", got=value)
    return (float(values[0]), float(values[1]), float(values[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Where voxels lie in space.

    voxel_size_A: edge lengths of a voxel, (z, y, x), in Å; a single number means a cube.
    origin_A: position of voxel (0, 0, 0), (z, y, x), in Å.
    start: MRC's nstart, (z, y, x), in voxels, kept for the files that use it.
    voxel_size_status: "known"; "estimated" (scale bars say so); "unknown" (the size then is 1 and scale bars
        count voxels).
    notes: free text that came with the file (an MRC header's labels).
    """

    voxel_size_A: Triple = (1.0, 1.0, 1.0)
    origin_A: Triple = (0.0, 0.0, 0.0)
    start: tuple[int, int, int] = (0, 0, 0)
    voxel_size_status: VoxelSizeStatus = "known"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = _triple(self.voxel_size_A, "voxel_size_A")
        if min(size) <= 0:
            raise input_error("Volume", "voxel_size_A", expected="numbers above 0", got=size)
        object.__setattr__(self, "voxel_size_A", size)
        object.__setattr__(self, "origin_A", _triple(self.origin_A, "origin_A"))

    def grid(self) -> dict[str, Any]:
        """The fields above as keyword arguments, to make another object on the same grid."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Grid)}

    def _grid_from(self, region: Region) -> dict[str, Any]:
        """The grid of a part, whose first voxel is that at which the region starts."""
        first = [part.start or 0 for part in region]
        corner = zip(self.origin_A, first, self.voxel_size_A, strict=True)
        origin = tuple(origin + index * size for origin, index, size in corner)
        start = tuple(a + b for a, b in zip(self.start, first, strict=True))
        return self.grid() | {"origin_A": origin, "start": start}


def one_voxel_size(*sizes_A: Triple) -> bool:
    """Whether these (z, y, x) are within 10 % of each other along every axis."""
    return all(max(edges) <= _ONE_SIZE * min(edges) for edges in zip(*sizes_A, strict=True))


def _check_region(region: Region, shape: tuple[int, int, int]) -> None:
    for part, length in zip(region, shape, strict=True):
        if (
            part.step not in (None, 1)
            or not 0 <= (part.start or 0) < (length if part.stop is None else part.stop) <= length
        ):
            raise input_error(
                "crop",
                "region",
                expected=f"parts of (z, y, x) {shape}, as 10:20",
                got=", ".join(f"{part.start}:{part.stop}" for part in region),
            )


@dataclass(frozen=True, eq=False)
class Volume(Grid):
    """A tomogram, a mask or a label volume: `data` (z, y, x), any real dtype, numpy or lazily sliced."""

    data: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.data, "shape"):
            object.__setattr__(self, "data", np.asarray(self.data))
        if len(self.data.shape) != 3 or 0 in self.data.shape:
            raise input_error(
                "Volume",
                "data",
                expected="a 3D array (z, y, x) with no empty axis",
                got=f"shape {self.data.shape}",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) in voxels."""
        z, y, x = self.data.shape
        return int(z), int(y), int(x)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type of a voxel."""
        return stored_type(self.data)

    def block(self, region: Region) -> Float32Array:
        """Read one region as C-contiguous float32."""
        data = self.data
        if _read_only_map(data) is None:
            return np.ascontiguousarray(data[region], dtype=np.float32)
        bounds = [part.indices(length)[:2] for part, length in zip(region, self.shape, strict=True)]
        out = np.empty([stop - start for start, stop in bounds], np.float32)
        # Along the file's slowest axis, so that few pages are in memory at a time.
        strides = getattr(data, "strides", None)
        axis = int(np.argmax(strides)) if strides else 0
        length = self.shape[axis]
        step = max(1, _MAPPED_BYTES * length // max(math.prod(self.shape) * self.dtype.itemsize, 1))
        first, last = bounds[axis]
        for start in range(first, last, step):
            stop = min(start + step, last)
            part, where = [slice(*one) for one in bounds], [slice(None)] * 3
            part[axis], where[axis] = slice(start, stop), slice(start - first, stop - first)
            out[tuple(where)] = data[tuple(part)]
            drop_pages(data)
        return out

    def numpy(self) -> npt.NDArray[Any]:
        """The whole volume in memory, in its own dtype."""
        return np.asarray(self.data[:])

    def crop(self, region: Region) -> Volume:
        """A part of the volume, in memory, at its place in space."""
        _check_region(region, self.shape)
        return Volume(np.asarray(self.data[region]), **self._grid_from(region))

    def with_data(self, data: Any) -> Volume:
        """Another volume on the same grid."""
        return Volume(data, **self.grid())


@dataclass(frozen=True, eq=False)
class SoftSegmentation(Grid):
    """Class probabilities: `data` (class, z, y, x); stored value = probability * `unit`.

    data: float32 (unit 1), uint8 (unit 255) or uint16 (unit 65535), numpy or lazily sliced.
    classes: one name a class, background first.
    colors: one RGB triple in 0..1 a class; by default `DEFAULT_COLORS`.
    """

    data: Any
    classes: tuple[str, ...]
    colors: tuple[Triple, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.data.shape) != 4 or 0 in self.data.shape:
            raise input_error(
                "SoftSegmentation",
                "data",
                expected="a 4D array (class, z, y, x)",
                got=f"shape {self.data.shape}",
            )
        if len(self.classes) != self.data.shape[0]:
            raise input_error("SoftSegmentation", "classes", expected=f"{self.data.shape[0]} names", got=self.classes)
        if stored_type(self.data) not in (np.uint8, np.uint16, np.float32):
            raise input_error("SoftSegmentation", "data", expected="float32, uint8 or uint16", got=self.data.dtype)
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.colors:
            colors = tuple(DEFAULT_COLORS[i % len(DEFAULT_COLORS)] for i in range(len(self.classes)))
            object.__setattr__(self, "colors", colors)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) in voxels, without the class axis."""
        _, z, y, x = self.data.shape
        return int(z), int(y), int(x)

    @property
    def unit(self) -> float:
        """The stored value that means a probability of one."""
        return probability_unit(stored_type(self.data))

    def block(self, region: Region) -> Float32Array:
        """Read one region of all classes as float32 probabilities, (class, z, y, x)."""
        data = np.asarray(self.data[(slice(None), *region)], dtype=np.float32)
        return np.ascontiguousarray(data / np.float32(self.unit))

    def crop(self, region: Region) -> SoftSegmentation:
        """A part of the segmentation, in memory, at its place in space."""
        _check_region(region, self.shape)
        data = np.asarray(self.data[(slice(None), *region)])
        return SoftSegmentation(data, self.classes, self.colors, **self._grid_from(region))

    def merge(self, groups: Mapping[str, Sequence[str]]) -> SoftSegmentation:
        """Classes put together, such as {"foreground": ["membrane", "spikes", "lumen"]}; probabilities are added.

        groups: new name -> names of classes, none in two groups; a class in no group stays what it is. A group stands
        where its first class stood, in that class's colour. Read lazily, in the same type.

        Paper 1 (section 4.2) keeps the background and makes one foreground of the other three classes. For hard
        labels merge first, then take the most probable class: a voxel of 0.4 background, 0.3 membrane and 0.3 spikes
        is foreground (0.6), though background is its most probable single class.

        Errors: InputError for a name that is no class, is in two groups, or becomes the name of two classes.
        """
        taken: dict[str, str] = {}
        for group, members in groups.items():
            if isinstance(members, str) or not members:
                raise input_error("merge", f"group {group!r}", expected="a list of class names", got=repr(members))
            for name in members:
                if name not in self.classes:
                    raise input_error("merge", f"group {group!r}", expected=", ".join(self.classes), got=repr(name))
                if name in taken:
                    raise input_error("merge", f"class {name!r}", expected="one group", got=f"{taken[name]}, {group}")
                taken[name] = group
        names = [taken.get(name, name) for name in self.classes]
        # A class in no group must not fall together with a group of its name.
        clash = [name for name in self.classes if name not in taken and name in groups]
        if clash:
            fix = "choose another name, or put the class into the group"
            raise input_error("merge", "groups", expected="different names", got=f"{clash[0]!r} twice", fix=fix)
        merged = list(dict.fromkeys(names))
        parts = tuple(tuple(i for i, name in enumerate(names) if name == one) for one in merged)
        colors = tuple(self.colors[part[0]] for part in parts)
        return SoftSegmentation(_Merged(self.data, parts), tuple(merged), colors, **self.grid())

    def class_volume(self, name: str) -> Volume:
        """One class as a Volume of stored values (divide by `unit` for probabilities)."""
        return Volume(np.asarray(self.data[self.classes.index(name)]), **self.grid())


class _Merged:
    """Sums of classes of stored probabilities (class, z, y, x), computed as they are sliced."""

    def __init__(self, data: Any, parts: tuple[tuple[int, ...], ...]) -> None:
        self._data, self._parts = data, parts
        self.shape, self.dtype = (len(parts), *data.shape[1:]), np.dtype(data.dtype)
        self.chunks = getattr(data, "chunks", None)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        key = key if isinstance(key, tuple) else (key,)
        first, rest = (slice(None), key) if key and key[0] is Ellipsis else (key[0], key[1:])
        if isinstance(first, slice):
            return np.stack([self._sum(part, rest) for part in self._parts[first]])
        return self._sum(self._parts[first], rest)

    def _sum(self, part: tuple[int, ...], rest: tuple[Any, ...]) -> npt.NDArray[Any]:
        if len(part) == 1:
            return np.asarray(self._data[(part[0], *rest)])
        wide = np.float32 if self.dtype.kind == "f" else np.int64
        total = np.asarray(self._data[(part[0], *rest)], wide)
        for k in part[1:]:
            total = total + np.asarray(self._data[(k, *rest)], wide)
        # Rounded classes may add up to a little more than one.
        return np.asarray(np.minimum(total, wide(probability_unit(self.dtype))).astype(self.dtype))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)


def _read_only_map(data: Any) -> Any:
    """The memory map behind an array that is read from one and never written to, else None."""
    return getattr(data, "_mmap", None) if getattr(data, "mode", None) == "r" else None


def stored_type(data: Any) -> np.dtype[Any]:
    """The type of an array's elements, as numpy's; torch has types of its own, which numpy does not know."""
    told = getattr(data, "__cuda_array_interface__", None)
    kind: np.dtype[Any] = np.dtype(data.dtype if told is None else told["typestr"])
    return kind


def drop_pages(data: Any) -> None:
    """Give the pages of a memory map back: what was read counts as this process's memory until then.

    They stay in the system's cache, and reading them again brings them back. Other arrays are left alone.
    """
    mapped = _read_only_map(data)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def probability_unit(dtype: np.dtype[Any]) -> float:
    """The stored value that means a probability of one: 255, 65535, or 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def quantise(probability: Float32Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Store float32 probabilities in 0..1 as `dtype` (uint8, uint16 or float32), rounded to nearest."""
    kind = np.dtype(dtype)
    if kind.kind != "u":
        return probability.astype(kind, copy=False)
    unit = np.float32(probability_unit(kind))
    stored: npt.NDArray[Any] = np.clip(np.rint(probability * unit), 0, unit).astype(kind)
    return stored


@dataclass(frozen=True)
class Statistics:
    """Of a whole volume, over its finite voxels. `nonfinite` counts NaN and infinite ones."""

    mean: float
    std: float
    min: float
    max: float
    nonfinite: int


def statistics(volume: Volume) -> Statistics:
    """Mean, standard deviation and range in float64, in pieces of at most a million voxels of one slice."""
    n, total, square, nonfinite = 0, 0.0, 0.0, 0
    low, high = math.inf, -math.inf
    shift: float | None = None  # the first piece's mean: keeps the sum of squares well conditioned
    for piece in pieces(volume):
        values = piece.astype(np.float64).ravel()
        finite = values[np.isfinite(values)] if volume.dtype.kind == "f" else values
        nonfinite += values.size - finite.size
        if not finite.size:
            continue
        if shift is None:
            shift = float(finite.mean())
        low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        moved = finite - shift
        n += finite.size
        total += float(moved.sum())
        square += float(np.sum(moved * moved))  # not np.dot, whose last bit hangs on the number of threads
    if shift is None:
        return Statistics(math.nan, math.nan, math.nan, math.nan, nonfinite)
    mean = total / n
    return Statistics(mean + shift, math.sqrt(max(square / n - mean * mean, 0.0)), low, high, nonfinite)


def pieces(volume: Volume) -> Iterator[npt.NDArray[Any]]:
    """The volume slice by slice, and where a slice is large, some rows of it at a time.

    A chunked store is unpacked once: as many slices are read at a time as a chunk has, and where these are large, rows
    of whole chunks of them.
    """
    depth, rows, columns = volume.shape
    some = max(1, _PIECE_VOXELS // columns)
    chunks = chunk_shape(volume)
    high = min(chunks[0], depth) if chunks else 1
    step = rows
    if chunks:
        band = chunks[1] * max(1, _BAND_BYTES // (high * chunks[1] * columns * volume.dtype.itemsize))
        step = min(band, rows)
    elif _read_only_map(volume.data) is not None:
        step = some
    for z in range(0, depth, high):
        for y in range(0, rows, step):
            read = np.asarray(volume.data[z : z + high, y : y + step])
            for plane in read:
                for start in range(0, len(plane), some):
                    yield plane[start : start + some]
            drop_pages(volume.data)


def chunk_shape(volume: Volume) -> tuple[int, int, int] | None:
    """(z, y, x) of the chunks of a store that is cut into equal ones; else None."""
    found = getattr(volume.data, "chunks", None)
    if not isinstance(found, tuple) or len(found) != 3 or not all(isinstance(n, int) and n > 0 for n in found):
        return None
    return found
