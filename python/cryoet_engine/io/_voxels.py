# SPDX-License-Identifier: MIT
"""Which type voxels are stored as, their conversion without silent loss, and voxel sizes in Å."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from ..volume import Grid, Volume, VoxelSizeStatus
from ._lazy import AnyArray, slabs

_ANGSTROM_PER_UNIT = {
    "angstrom": 1.0,
    "ångström": 1.0,
    "å": 1.0,
    "Å": 1.0,
    "a": 1.0,
    "nm": 10.0,
    "nanometer": 10.0,
    "nanometre": 10.0,
    "um": 1e4,
    "µm": 1e4,
    "μm": 1e4,
    "micron": 1e4,
    "microns": 1e4,
    "micrometer": 1e4,
    "micrometre": 1e4,
    "mm": 1e7,
    "millimeter": 1e7,
    "pm": 0.01,
    "picometer": 0.01,
    "m": 1e10,
    "meter": 1e10,
}


def angstrom_per(unit: object) -> float | None:
    """How many Å a unit of length has, by its name; None for one that is no length (pixel, inch, nothing)."""
    name = str(unit).strip().replace("\\u00B5", "µ").replace("\\u00C5", "Å")
    return _ANGSTROM_PER_UNIT.get(name) or _ANGSTROM_PER_UNIT.get(name.lower())


def status_from_notes(notes: tuple[str, ...]) -> VoxelSizeStatus:
    """What the notes say of the voxel size: "estimated" or "unknown" where a line says so, else "known"."""
    for note in notes:
        if re.search(r"voxel size", note, re.IGNORECASE):
            if re.search(r"estimate|not verified", note, re.IGNORECASE):
                return "estimated"
            if re.search(r"unknown", note, re.IGNORECASE):
                return "unknown"
    return "known"


def sized_grid(sizes: tuple[float, ...], notes: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """Keyword arguments of a Grid, whose size is unknown (and 1) where a size is 0, negative or not finite."""
    status = status_from_notes(notes)
    if status == "unknown" or not all(math.isfinite(size) and size > 0 for size in sizes):
        sizes, status = (1.0, 1.0, 1.0), "unknown"
    return {"voxel_size_A": sizes, "voxel_size_status": status, "notes": notes, **more}


def stored_dtype(
    volume: Volume, wanted: npt.DTypeLike | None, allowed: tuple[npt.DTypeLike, ...], what: str
) -> np.dtype[Any]:
    """The type in which a format stores a volume: the wanted one, its own one, or the smallest that holds it.

    Booleans become 8-bit integers, float64 becomes float32, other integers are scanned for their range.
    """
    types = [np.dtype(one) for one in allowed]
    names = ", ".join(one.name for one in types)
    if wanted is not None:
        try:
            asked = np.dtype(wanted)
        except TypeError:
            asked = None
        if asked is None or asked.newbyteorder("=") not in types:
            raise input_error("write", "dtype", expected=f"one that {what} stores ({names})", got=wanted)
        return asked.newbyteorder("=")
    own = volume.dtype.newbyteorder("=")
    if own in types:
        return own
    if own.kind == "b":
        return next(one for one in types if one.kind in "iu" and one.itemsize == 1)
    if own.kind == "f":
        return np.dtype(np.float32)
    if own.kind not in "iu":
        raise input_error("write", "data", expected=f"voxels that {what} stores ({names})", got=own)
    low, high = value_range(volume)
    for one in sorted((t for t in types if t.kind in "iu"), key=lambda t: t.itemsize):
        if np.iinfo(one).min <= low and high <= np.iinfo(one).max:
            return one
    if max(-low, high) <= 1 << 24:  # float32 counts that far
        return np.dtype(np.float32)
    raise input_error(
        "write",
        "data",
        expected=f"integers that {what} stores ({names})",
        got=f"{own} from {low} to {high}",
        fix="scale them, or write .zarr or .h5",
    )


def value_range(volume: Volume) -> tuple[int, int]:
    """Smallest and largest value of an integer volume, read slab by slab."""
    low, high = [], []
    for slab in slabs(volume.data):
        part = np.asarray(volume.data[slab])
        low.append(int(part.min()))
        high.append(int(part.max()))
    return min(low), max(high)


def converted(part: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    """The voxels as another type, C-contiguous; an error where a value would not survive."""
    with np.errstate(all="ignore"):
        out = np.ascontiguousarray(part, dtype=dtype)
        if part.dtype == dtype or part.dtype.kind == "b":
            return out
        if dtype.kind == "f":
            lost = np.isinf(out) & np.isfinite(part) if part.dtype.kind == "f" else np.isinf(out)
        else:
            lost = out != part
    if lost.any():
        raise input_error(
            "write",
            "dtype",
            expected=f"voxels that {dtype} holds exactly",
            got=f"{part.dtype} with {part[lost].flat[0]}",
            fix="choose another dtype, or scale and round first",
        )
    return out


class RunningStatistics:
    """Range, mean and standard deviation of what passes by, in float64, over finite voxels."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, 0.0, 0.0
        self.min, self.max = math.inf, -math.inf

    def add(self, part: AnyArray) -> None:
        """Take in some voxels (Chan, Golub and LeVeque's pairwise update), plane by plane."""
        for plane in part:
            values = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane.ravel()
            if not values.size:
                continue
            values = values.astype(np.float64)
            n, mean = self.n + values.size, float(values.mean())
            shift = mean - self.mean
            self.squares += float(np.square(values - mean).sum()) + shift * shift * self.n * values.size / n
            self.mean += shift * values.size / n
            self.n = n
            self.min, self.max = min(self.min, float(values.min())), max(self.max, float(values.max()))

    @property
    def rms(self) -> float:
        """Root mean square deviation from the mean."""
        return math.sqrt(self.squares / self.n) if self.n else 0.0


def grid_record(grid: Grid) -> dict[str, Any]:
    """A Grid as plain JSON values, kept in the metadata of formats that have room for it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in grid.grid().items()}


def grid_from_record(record: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a Grid from what `grid_record` made; ValueError, TypeError or KeyError if it is broken."""
    fields = Grid().grid()
    status = record.get("voxel_size_status", "known")
    if status not in ("known", "estimated", "unknown"):
        raise ValueError(f"voxel_size_status {status!r}")
    given = {name: record[name] for name in fields if name in record}
    given["start"] = tuple(int(n) for n in record.get("start", (0, 0, 0)))
    given["notes"] = tuple(str(note) for note in record.get("notes", ()))
    return Grid(**given).grid()
