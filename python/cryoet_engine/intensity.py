# SPDX-License-Identifier: MIT
"""Grey values: histogram, percentiles, normalisation, and contrast-limited adaptive histogram equalisation.

A grey range is found once, by `min_max` or `percentile_range`, and then handed to whatever maps grey values:
`normalise(volume, percentile_range(volume, 1, 99))`. So a part of a volume is mapped as the whole is.

What looks at a whole volume streams: planes of a volume that lies on the disk are read as they are needed. Voxels
that are NaN or infinite do not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _core
from ._checks import input_error
from ._progress import Progress, silent
from .filters import VolumeOrArray
from .io import slabs
from .volume import Float32Array, Volume, statistics

AnyVolume: TypeAlias = Volume | npt.NDArray[Any]
Range: TypeAlias = tuple[float, float]
Shape: TypeAlias = tuple[int, int, int]

_RUN_VOXELS = 4 << 20
_TINY, _HUGE = (float(value) for value in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


def _volume(volume: AnyVolume, where: str) -> Volume:
    data = volume.data if isinstance(volume, Volume) else np.asarray(volume)
    if len(data.shape) != 3 or 0 in data.shape:
        raise input_error(where, "volume", expected="(z, y, x) with no empty axis", got=f"shape {data.shape}")
    if np.dtype(data.dtype).kind not in "fiub":
        raise input_error(where, "volume", expected="real numbers", got=data.dtype)
    return volume if isinstance(volume, Volume) else Volume(data)


def _planes(volume: Volume, stage: str, progress: Progress) -> Iterator[tuple[int, Float32Array]]:
    """The volume in runs of whole planes, each with its first z; read in slabs, float32 a few megabytes at a time."""
    _, y, x = volume.shape
    step = max(_RUN_VOXELS // (y * x), 1)
    for slab in slabs(volume.data):
        part = np.asarray(volume.data[slab])
        for start in range(0, len(part), step):
            yield slab.start + start, np.ascontiguousarray(part[start : start + step], dtype=np.float32)
        progress(stage, slab.stop, volume.shape[0])


def checked_range(value_range: Sequence[float], where: str) -> Range:
    """A grey range as two floats, low < high, or the error that says what is wrong with it."""
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (_TINY <= high - low <= _HUGE and abs(low) <= _HUGE):
        raise input_error(
            where,
            "value_range",
            expected="two finite grey values, low < high",
            got=value_range,
            fix="a volume of one grey value has no range",
        )
    return low, high


def checked_percentiles(low: float, high: float, where: str) -> Range:
    """Two percentiles, 0 <= low < high <= 100."""
    if not 0 <= low < high <= 100:
        raise input_error(where, "low, high", expected="percentiles 0 <= low < high <= 100", got=(low, high))
    return float(low), float(high)


def histogram(
    volume: AnyVolume, bins: int, value_range: Sequence[float], *, progress: Progress = silent
) -> npt.NDArray[np.int64]:
    """Count voxels in `bins` equal bins of a grey range; int64 (bins,), exact.

    Bin i holds floor((v - low) bins / (high - low)) = i, the last one its right edge too. Voxels beyond the range are
    not counted.
    """
    source = _volume(volume, "histogram")
    if not (isinstance(bins, int | np.integer) and 2 <= bins <= 1 << 24):
        raise input_error("histogram", "bins", expected="a whole number from 2 to 16777216", got=bins)
    low_high = checked_range(value_range, "histogram")
    counts = np.zeros(bins, np.int64)
    for _, planes in _planes(source, "histogram", progress):
        _core.add_to_histogram(planes, low_high, counts, 0)
    return counts


def _value_of(key: int) -> float:
    """The float32 value of a key (csrc/voxel/order_key.h)."""
    bits = key ^ (1 << 31) if key >> 31 else key ^ 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


#: Upper halves of the keys of finite values: infinities and NaN lie outside.
_FINITE = slice(0x0080, 0xFF80)


def percentiles(volume: AnyVolume, q: Sequence[float], *, progress: Progress = silent) -> npt.NDArray[np.float64]:
    """Percentiles `q` (0..100) of the finite voxels, linear between neighbours as numpy's; float64 (len(q),).

    Exact, in two passes and a few megabytes whatever the volume: the first counts the upper 16 bits of the float32
    values (in an encoding that keeps their order), which tells the bucket of every voxel looked for; the second counts
    the lower 16 bits within these buckets.

    Errors: InputError for q outside 0..100, and for a volume without a finite voxel.
    """
    source = _volume(volume, "percentiles")
    wanted = np.asarray(q, np.float64).reshape(-1)
    if not (wanted.size and ((wanted >= 0) & (wanted <= 100)).all()):
        raise input_error("percentiles", "q", expected="percentiles from 0 to 100", got=q)
    upper = np.zeros(1 << 16, np.int64)
    for _, planes in _planes(source, "percentiles", progress):
        _core.count_upper_keys(planes, upper, 0)
    finite = np.zeros_like(upper)
    finite[_FINITE] = upper[_FINITE]
    n = int(finite.sum())
    if not n:
        raise input_error("percentiles", "volume", expected="finite voxels", got="none")
    position = wanted / 100 * (n - 1)
    below = np.floor(position).astype(np.int64)
    ranks = np.unique(np.concatenate([below, np.minimum(below + 1, n - 1)]))

    reached = np.cumsum(finite)
    bucket_of_rank = np.searchsorted(reached, ranks, side="right")
    buckets = np.unique(bucket_of_rank)
    row_of = np.full(1 << 16, -1, np.int32)
    row_of[buckets] = np.arange(buckets.size)
    lower = np.zeros((buckets.size, 1 << 16), np.int64)
    for _, planes in _planes(source, "percentiles, again", progress):
        _core.count_lower_keys(planes, row_of, lower, 0)

    value = {}
    for rank, bucket in zip(ranks.tolist(), bucket_of_rank.tolist(), strict=True):
        rest = rank - (reached[bucket] - finite[bucket])
        low_bits = np.searchsorted(np.cumsum(lower[row_of[bucket]]), rest, side="right")
        value[rank] = _value_of(bucket << 16 | int(low_bits))
    first = np.array([value[rank] for rank in below.tolist()])
    second = np.array([value[min(rank + 1, n - 1)] for rank in below.tolist()])
    between: npt.NDArray[np.float64] = first + (position - below) * (second - first)
    return between


def min_max(volume: AnyVolume) -> Range:
    """Smallest and largest finite voxel: the grey range that paper 1 normalises by (section 4.4)."""
    facts = statistics(_volume(volume, "min_max"))
    if math.isnan(facts.min):
        raise input_error("min_max", "volume", expected="finite voxels", got="none")
    return facts.min, facts.max


def percentile_range(volume: AnyVolume, low: float, high: float, *, progress: Progress = silent) -> Range:
    """The grey values at two percentiles: a range that a few outliers (gold, dirt) do not decide."""
    checked_percentiles(low, high, "percentile_range")
    found = percentiles(volume, (low, high), progress=progress)
    return float(found[0]), float(found[1])


def normalise(volume: VolumeOrArray, value_range: Sequence[float], *, clip: bool = True) -> VolumeOrArray:
    """Map a grey range linearly to 0..1, float32; what lies beyond it is clipped, or with clip=False goes on."""
    source = _volume(volume, "normalise")
    low, high = checked_range(value_range, "normalise")
    data = np.array(source.data[:], np.float32)
    data -= np.float32(low)
    data /= np.float32(high - low)
    if clip:
        np.clip(data, 0, 1, out=data)
    made: Any = volume.with_data(data) if isinstance(volume, Volume) else data
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, eq=False)
class TileMaps:
    """How contrast-limited adaptive histogram equalisation maps the grey values of one volume; made by `tile_maps`.

    maps: float32 (tile z, tile y, tile x, bins + 1): a tile's cumulated histogram at the bins' edges, 0 to 1.
    tile_vox: voxels of a tile, (z, y, x). shape: of the volume. value_range: the grey range of the bins.
    """

    maps: Float32Array
    tile_vox: Shape
    shape: Shape
    value_range: Range

    def apply(self, block: Float32Array, start: Shape = (0, 0, 0)) -> Float32Array:
        """Map a block (z, y, x) whose first voxel is `start` of the volume; no halo is needed."""
        block = np.ascontiguousarray(block, np.float32)
        if block.ndim != 3 or any(
            n < 1 or a < 0 or a + n > whole for a, n, whole in zip(start, block.shape, self.shape, strict=True)
        ):
            raise input_error(
                "TileMaps.apply", "block", expected=f"a part of {self.shape}", got=f"{block.shape} at {start}"
            )
        return _core.apply_tile_maps(block, start, self.shape, self.tile_vox, self.value_range, self.maps, 0)


def checked_tile(tile_vox: int | Sequence[int], slice_wise: bool, clip_limit: float, n_bins: int) -> Shape:
    """The tile (z, y, x) that the settings of CLAHE ask for, or the error that says what is wrong with them."""
    given = tuple(tile_vox) if isinstance(tile_vox, Sequence) else (tile_vox,) * 3
    if len(given) != 3 or not all(isinstance(n, int | np.integer) and n >= 1 for n in given):
        raise input_error("clahe", "tile_vox", expected="voxels, 1 or more, one number or (z, y, x)", got=tile_vox)
    if not 0 < clip_limit <= 1:
        raise input_error(
            "clahe", "clip_limit", expected="a fraction of a tile's voxels, above 0 and at most 1", got=clip_limit
        )
    if not (isinstance(n_bins, int | np.integer) and 2 <= n_bins <= 1 << 16):
        raise input_error("clahe", "n_bins", expected="a whole number from 2 to 65536", got=n_bins)
    z, y, x = (int(n) for n in given)
    return (1 if slice_wise else z, y, x)


def tile_maps(
    volume: AnyVolume,
    value_range: Sequence[float],
    *,
    tile_vox: int | Sequence[int] = 64,
    slice_wise: bool = False,
    clip_limit: float = 0.01,
    n_bins: int = 256,
    progress: Progress = silent,
) -> TileMaps:
    """The maps of `clahe`, in one pass over the volume: 8 (n_bins + 1) bytes of memory a tile meanwhile."""
    source = _volume(volume, "clahe")
    low_high = checked_range(value_range, "clahe")
    wanted = checked_tile(tile_vox, slice_wise, clip_limit, n_bins)
    tz, ty, tx = tile = tuple(min(n, length) for n, length in zip(wanted, source.shape, strict=True))
    if tz * ty * tx >= 1 << 31:
        raise input_error("clahe", "tile_vox", expected="tiles of less than 2^31 voxels", got=tile)
    counts = np.zeros((*(-(-n // t) for n, t in zip(source.shape, tile, strict=True)), n_bins), np.int32)
    for z, planes in _planes(source, "tile histograms", progress):
        _core.count_tiles(planes, z, source.shape, (tz, ty, tx), low_high, counts, 0)
    maps = _core.equalise_tiles(counts, source.shape, (tz, ty, tx), clip_limit, 0)
    return TileMaps(maps=maps, tile_vox=(tz, ty, tx), shape=source.shape, value_range=low_high)


def clahe(
    volume: VolumeOrArray,
    value_range: Sequence[float],
    *,
    tile_vox: int | Sequence[int] = 64,
    slice_wise: bool = False,
    clip_limit: float = 0.01,
    n_bins: int = 256,
) -> VolumeOrArray:
    """Contrast-limited adaptive histogram equalisation: float32 in 0..1.

    Zuiderveld, Graphics Gems IV, 1994; the membrane pipeline applies it after the bilateral filter (paper 2, section 3,
    which gives no settings). csrc/ops/clahe.h is the definition, and says where scikit-image's differs.

    value_range: the grey values that become the ends of the histograms; those beyond it are taken for its ends.
    tile_vox: voxels of a tile, one number or (z, y, x): a few times the structures that are to stand out.
    slice_wise: each z slice for itself: tiles are one voxel deep.
    clip_limit: the largest part of a tile's voxels that one bin keeps, 0..1. Contrast grows at most
        clip_limit * n_bins fold (2.6 fold by default); 1 clips nothing, 1 / n_bins or less leaves all as it was.
    """
    source = _volume(volume, "clahe")
    maps = tile_maps(
        source, value_range, tile_vox=tile_vox, slice_wise=slice_wise, clip_limit=clip_limit, n_bins=n_bins
    )
    data = maps.apply(np.ascontiguousarray(source.data[:], np.float32))
    made: Any = volume.with_data(data) if isinstance(volume, Volume) else data
    return made  # type: ignore[no-any-return]
