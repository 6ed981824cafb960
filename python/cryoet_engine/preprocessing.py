# SPDX-License-Identifier: MIT
"""What is done to a tomogram before it is segmented or shown, as a chain of steps on volumes of any size.

    steps = [Bilateral(sigma_vox=1.5, sigma_range=20), Clahe(tile_vox=64)]
    io.write("enhanced.mrc", preprocess(io.read_volume("tomogram.mrc"), steps))

A step is a frozen description; applied to a volume it gives another one whose voxels are computed when they are
sliced, each block with the halo that its filter needs, so memory does not grow with the volume. A step that has to
look at its whole input first (a percentile, the histograms of tiles) does so once, when it is applied; what was
computed so far then goes to a nameless temporary file, so that nothing is filtered twice.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import numpy.typing as npt

from . import _core, filters, intensity
from ._checks import input_error
from ._progress import Progress, silent
from .io import LazyArray, slabs
from .tiling import Block, block_around
from .volume import Float32Array, Region, Volume

_SLAB_BYTES = 128 << 20  # of float32: deep enough that a halo of a few planes costs little


class Step(Protocol):
    """Something done to a volume."""

    @property
    def measures(self) -> bool:
        """Whether applying it reads the whole volume."""

    def __call__(self, volume: Volume, progress: Progress = silent) -> Volume:
        """The volume that comes out, computed as it is sliced."""


class _Computed(LazyArray):
    """float32 voxels that `compute` makes of a block of the source and the halo around it."""

    def __init__(self, source: Volume, halo: int, compute: Callable[[Float32Array, Block], Float32Array]) -> None:
        z, y, x = source.shape
        depth = min(max(_SLAB_BYTES // (4 * y * x), 1), z)
        super().__init__(source.shape, np.float32, (depth, y, x))
        self._source, self._halo, self._compute = source, halo, compute

    def _read(self, region: tuple[slice, ...]) -> npt.NDArray[Any]:
        block = block_around(self._source.shape, cast(Region, region), self._halo)
        with np.errstate(over="ignore"):  # refused below
            data = self._source.block(block.padded)
        if not np.isfinite(data).all():
            raise input_error(
                "preprocess", "volume", expected="finite voxels that fit float32", got="others",
                fix="replace them first, for example by the mean (--fill mean)",
            )  # fmt: skip
        return self._compute(data, block)


def _extent(region: Region) -> tuple[int, int, int]:
    z, y, x = (part.stop - part.start for part in region)
    return z, y, x


def _first(region: Region) -> tuple[int, int, int]:
    z, y, x = (part.start for part in region)
    return z, y, x


@dataclass(frozen=True, kw_only=True)
class Bilateral:
    """`filters.bilateral`."""

    sigma_vox: float
    sigma_range: float
    window: float = 2.0
    measures: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._radius()

    def _radius(self) -> int:
        return filters.bilateral_radius(sigma_vox=self.sigma_vox, sigma_range=self.sigma_range, window=self.window)

    def __call__(self, volume: Volume, progress: Progress = silent) -> Volume:
        """See Step."""

        def compute(data: Float32Array, block: Block) -> Float32Array:
            core = _first(block.inner), _extent(block.inner)
            return _core.bilateral(data, self.sigma_vox, self.sigma_range, self.window, *core, 0)

        return volume.with_data(_Computed(volume, self._radius(), compute))


@dataclass(frozen=True, kw_only=True)
class LowPass:
    """`filters.low_pass`, by sigma_vox or by resolution_A."""

    sigma_vox: float | None = None
    resolution_A: float | None = None
    measures: ClassVar[bool] = False

    def __post_init__(self) -> None:
        given = [value for value in (self.sigma_vox, self.resolution_A) if value is not None]
        if len(given) != 1 or not 0 < given[0] < math.inf:
            raise input_error(
                "LowPass",
                "arguments",
                expected="sigma_vox or resolution_A, a finite number above 0",
                got=(self.sigma_vox, self.resolution_A),
            )

    def __call__(self, volume: Volume, progress: Progress = silent) -> Volume:
        """See Step."""
        sigma = self.sigma_vox
        if self.resolution_A is not None:
            sigma = filters.low_pass_sigma_vox(self.resolution_A, volume)
        if sigma is None or sigma > _LARGEST_LOW_PASS:
            raise input_error("LowPass", "sigma_vox", expected=f"at most {_LARGEST_LOW_PASS} voxels", got=sigma)
        halo = math.floor(3.5 * sigma + 0.5)

        def compute(data: Float32Array, block: Block) -> Float32Array:
            return filters.low_pass(data, sigma)[block.inner]

        return volume.with_data(_Computed(volume, halo, compute))


#: Voxels: its halo, three and a half times as much on each side, has to fit into memory with every block.
_LARGEST_LOW_PASS = 20.0


@dataclass(frozen=True)
class Invert:
    """`filters.invert`."""

    measures: ClassVar[bool] = False

    def __call__(self, volume: Volume, progress: Progress = silent) -> Volume:
        """See Step."""
        return volume.with_data(_Computed(volume, 0, lambda data, _: filters.invert(data)))


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """`intensity.normalise` from the grey values at two percentiles to 0..1; by default the smallest and largest."""

    low: float = 0.0
    high: float = 100.0
    measures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        intensity.checked_percentiles(self.low, self.high, "Normalise")

    def __call__(self, volume: Volume, progress: Progress = silent) -> Volume:
        """See Step."""
        found = intensity.percentile_range(volume, self.low, self.high, progress=progress)
        low_high = intensity.checked_range(found, "Normalise")
        return volume.with_data(_Computed(volume, 0, lambda data, _: intensity.normalise(data, low_high)))


@dataclass(frozen=True, kw_only=True)
class Clahe:
    """`intensity.clahe` in the grey range between two percentiles."""

    tile_vox: int | tuple[int, int, int] = 64
    slice_wise: bool = False
    clip_limit: float = 0.01
    n_bins: int = 256
    percentiles: tuple[float, float] = (0.1, 99.9)
    measures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        intensity.checked_tile(self.tile_vox, self.slice_wise, self.clip_limit, self.n_bins)
        intensity.checked_percentiles(*self.percentiles, "Clahe")

    def __call__(self, volume: Volume, progress: Progress = silent) -> Volume:
        """See Step."""
        maps = intensity.tile_maps(
            volume,
            intensity.percentile_range(volume, *self.percentiles, progress=progress),
            tile_vox=self.tile_vox,
            slice_wise=self.slice_wise,
            clip_limit=self.clip_limit,
            n_bins=self.n_bins,
            progress=progress,
        )
        return volume.with_data(_Computed(volume, 0, lambda data, block: maps.apply(data, _first(block.core))))


def preprocess(
    volume: Volume, steps: Sequence[Step], *, scratch: Path | None = None, progress: Progress = silent
) -> Volume:
    """Apply steps in their order; the result's voxels are computed as they are sliced (`io.write` streams them).

    scratch: a folder with room for float32 copies of the volume, one for each step that measures what steps before it
        computed (by default the system's folder for temporary files). The copies have no name and go with the result.

    Errors: InputError from any step, before a voxel of the result is computed.
    """
    for step in steps:
        if step.measures and isinstance(volume.data, _Computed):
            volume = _spooled(volume, scratch, progress)
        volume = step(volume, progress)
    return volume


def _spooled(volume: Volume, folder: Path | None, progress: Progress) -> Volume:
    """The volume with its voxels computed, in a temporary file."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for slab in slabs(volume.data):
            file.write(volume.block((slab, slice(None), slice(None))).data)
            progress("filter", slab.stop, volume.shape[0])
        file.flush()
        return volume.with_data(np.memmap(cast(Any, file), np.float32, "r", 0, volume.shape))
