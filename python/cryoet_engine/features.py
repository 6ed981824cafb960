# SPDX-License-Identifier: MIT
"""The feature channels of pixel classification, streamed in blocks.

Paper 1 labels voxels with ilastik and "all 37 available 3D image features": six filters at seven scales (0.3 for
GaussianSmoothing only), 61 channels since two filters give three eigenvalues each. `FeatureSpec` says which; the
arithmetic is in csrc/ops/features.h. The channels of a voxel are the same bits whatever block it was computed in,
and however many threads worked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from . import _core
from ._checks import input_error
from ._progress import Progress, silent
from .cuda import arrays
from .tiling import Block, blocks
from .volume import Float32Array, Region, Volume, statistics

Compat = Literal["ilastik", "scale-true"]

#: ilastik's filter names, in its order.
FILTERS = (
    "GaussianSmoothing",
    "LaplacianOfGaussian",
    "GaussianGradientMagnitude",
    "DifferenceOfGaussians",
    "StructureTensorEigenvalues",
    "HessianOfGaussianEigenvalues",
)
#: ilastik's scales, in voxels.
SCALES = (0.3, 0.7, 1.0, 1.6, 3.5, 5.0, 10.0)
_EIGENVALUES = ("StructureTensorEigenvalues", "HessianOfGaussianEigenvalues")
# Below half a voxel the structure tensor's derivative has no samples left: such scales serve smoothing only.
_SMALLEST_DERIVATIVE_SCALE = 0.5


def _exists(name: str, scale: float) -> bool:
    return scale >= _SMALLEST_DERIVATIVE_SCALE or name == "GaussianSmoothing"


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which channels, in which convention. Channel order: filter, then scale, then eigenvalue (largest first).

    compat: "ilastik" smooths with sqrt(s^2 - 1) and filters at scale 1 (both at s for s <= 1), as ilastik 1.4
        does; "scale-true" runs each filter at its own scale.
    filters: names out of `FILTERS`; always used in that order.
    scales: in voxels, ascending, 0.3 to 100; those under 0.5 are used by GaussianSmoothing only.
    planar: scales that are filtered slice by slice, along y and x alone (ilastik: "compute in 2D"), which gives two
        eigenvalues instead of three; True: all of them (49 channels by default), as slices of one tomogram or as a
        stack of single images want it.
    only: pairs (filter, scale), where not every filter is wanted at every scale; filters and scales are then theirs.
    """

    compat: Compat = "ilastik"
    filters: tuple[str, ...] = FILTERS
    scales: tuple[float, ...] = SCALES
    planar: tuple[float, ...] | bool = ()
    only: tuple[tuple[str, float], ...] | None = None

    def __post_init__(self) -> None:
        if self.only is not None:
            self._choose(self.only)
        if self.compat not in get_args(Compat):
            raise input_error("FeatureSpec", "compat", expected=get_args(Compat), got=self.compat)
        unknown = [name for name in self.filters if name not in FILTERS]
        if unknown or not self.filters:
            raise input_error("FeatureSpec", "filters", expected=f"names out of {FILTERS}", got=self.filters)
        scales = tuple(float(s) for s in self.scales)
        if not scales or not all(math.isfinite(s) and 0.3 <= s <= 100 for s in scales):
            raise input_error("FeatureSpec", "scales", expected="numbers from 0.3 to 100 (voxels)", got=self.scales)
        if list(scales) != sorted(set(scales)):
            raise input_error("FeatureSpec", "scales", expected="ascending, none twice", got=self.scales)
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "filters", tuple(name for name in FILTERS if name in self.filters))
        planar = scales if self.planar is True else tuple(float(s) for s in self.planar or ())
        if not set(planar) <= set(scales):
            raise input_error("FeatureSpec", "planar", expected=f"some of the scales {scales}", got=self.planar)
        object.__setattr__(self, "planar", tuple(sorted(set(planar))))
        if not self._layout:
            raise input_error(
                "FeatureSpec", "scales", expected="one scale of at least 0.5 for these filters", got=self.scales
            )

    def _choose(self, only: Sequence[tuple[str, float]]) -> None:
        try:
            pairs = {(str(name), float(scale)) for name, scale in only}
        except (TypeError, ValueError):
            pairs = set()
        if not pairs:
            raise input_error("FeatureSpec", "only", expected="pairs of a filter and a scale", got=only)
        object.__setattr__(self, "filters", tuple(name for name, _ in pairs))
        object.__setattr__(self, "scales", tuple(sorted({scale for _, scale in pairs})))
        order = {name: i for i, name in enumerate(FILTERS)}
        object.__setattr__(self, "only", tuple(sorted(pairs, key=lambda pair: (order.get(pair[0], 0), pair[1]))))
        missing = [pair for pair in pairs if not _exists(*pair) and pair[0] in FILTERS]
        if missing:
            raise input_error(
                "FeatureSpec", "only", expected="scales of at least 0.5 for all but GaussianSmoothing", got=missing
            )

    @cached_property
    def _layout(self) -> list[tuple[str, float, int]]:
        """(filter, scale, channels) in order."""
        return [
            (name, scale, 1 if name not in _EIGENVALUES else 2 if scale in self.planar_scales else 3)
            for name in self.filters
            for scale in self.scales
            if _exists(name, scale) and (self.only is None or (name, scale) in self.only)
        ]

    @property
    def planar_scales(self) -> tuple[float, ...]:
        """Scales that are filtered slice by slice."""
        return self.planar if isinstance(self.planar, tuple) else ()

    @cached_property
    def channel_names(self) -> tuple[str, ...]:
        """Such as "HessianOfGaussianEigenvalues 1.6 [0]"."""
        return tuple(
            f"{name} {scale:g}" + (f" [{i}]" if channels > 1 else "")
            for name, scale, channels in self._layout
            for i in range(channels)
        )

    @cached_property
    def channel_sources(self) -> tuple[tuple[str, float], ...]:
        """The filter and the scale behind each channel."""
        return tuple((name, scale) for name, scale, channels in self._layout for _ in range(channels))

    @property
    def n_channels(self) -> int:
        """61 by default."""
        return len(self.channel_names)

    @cached_property
    def halo(self) -> int:
        """Voxels around a block that its channels depend on: 38 by default."""
        return self._plan(0.0).halo

    def _plan(self, offset: float) -> _core.FeaturePlan:
        scales = sorted({scale for _, scale, _ in self._layout})
        channels = [[-1] * len(FILTERS) for _ in scales]
        first = 0
        for name, scale, width in self._layout:
            channels[scales.index(scale)][FILTERS.index(name)] = first
            first += width
        return _core.FeaturePlan(
            two_stage=self.compat == "ilastik", offset=offset, sigmas=scales, channels=channels,
            planar=[scale in self.planar_scales for scale in scales], n_channels=first,
        )  # fmt: skip


@dataclass(frozen=True)
class FeatureSource:
    """A volume, what to compute from it, and the constant that keeps float32 well conditioned.

    volume: any real dtype, read block by block.
    offset: subtracted from the volume first and added back to the GaussianSmoothing channels. It belongs to the
        computation, not to the block: use one value for a whole volume, normally `conditioning_offset`.
    scale, shift: the volume is read as `scale * v + shift` (see `PixelClassifier.predict_proba`, match_intensity).
    n_threads: 0 uses every core.
    extra: the user's own channels, of the volume's shape, behind those of the spec; read as they are.
    """

    volume: Volume
    spec: FeatureSpec
    offset: float
    scale: float = 1.0
    shift: float = 0.0
    n_threads: int = 0
    extra: tuple[Volume, ...] = ()

    @property
    def n_channels(self) -> int:
        """Of the spec and extra."""
        return self.spec.n_channels + len(self.extra)

    def read(self, region: Region) -> Float32Array:
        """A region as the filters will see it, checked to be finite."""
        data = _finite(self.volume, region, "volume")
        if (self.scale, self.shift) != (1.0, 0.0):
            data = np.float32(self.scale) * data  # not in place: it may be a view of the user's array
            data += np.float32(self.shift)
        return data

    def read_extra(self, region: Region, out: Float32Array | None = None) -> Float32Array:
        """The extra channels (E, z, y, x) of a region, into `out` if given, checked to be finite."""
        if out is None:
            out = np.empty((len(self.extra), *(part.stop - part.start for part in region)), np.float32)
        for i, volume in enumerate(self.extra):
            out[i] = _finite(volume, region, f"extra channel {i + 1}")
        return out

    @cached_property
    def plan(self) -> _core.FeaturePlan:
        """The native module's view of the specification."""
        return self.spec._plan(self.offset)

    def compute(self, block: Block, out: Float32Array | None = None) -> Float32Array:
        """Channels (C, z, y, x) of a block's core, into `out` if given (x contiguous)."""
        start, shape = core_of(block)
        if out is None:
            out = np.empty((self.spec.n_channels, *shape), np.float32)
        _core.features(self.plan, self.read(block.padded), start, shape, self.n_threads, out)
        return out


def _finite(volume: Volume, region: Region, what: str) -> Float32Array:
    """A region as float32, or an error if it has NaN or infinite voxels."""
    with np.errstate(over="ignore"):  # too large for float32 is refused below
        data = volume.block(region)
    with np.errstate(invalid="ignore"):
        if np.isfinite(data.sum(dtype=np.float64)):  # which no sum of finite float32 can leave, and takes no memory
            return data
    bad = int(data.size - np.count_nonzero(np.isfinite(data)))
    where = ", ".join(f"{s.start}:{s.stop}" for s in region)
    raise input_error(
        "features", what, expected="finite voxels", got=f"{bad} NaN or infinite in [{where}]",
        fix="replace them first, for example by the mean (--fill)",
    )  # fmt: skip


def core_of(block: Block) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Where a block's core begins within what the block reads, and its shape."""
    z, y, x = block.inner
    return (z.start, y.start, x.start), (z.stop - z.start, y.stop - y.start, x.stop - x.start)


def conditioning_offset(volume: Volume) -> float:
    """The volume's mean as float32: in float32 an offset costs the fine channels their digits."""
    mean = statistics(volume).mean
    return float(np.float32(mean)) if math.isfinite(mean) else 0.0


def as_volume(volume: Volume | npt.NDArray[Any], where: str) -> Volume:
    """An array becomes a volume of unit voxels; anything but real numbers is refused."""
    if not isinstance(volume, Volume):
        volume = np.asarray(volume)
        if volume.ndim == 2:
            raise input_error(
                where, "volume", expected="(z, y, x)", got=f"an image {volume.shape}",
                fix="give image[None] and FeatureSpec(planar=True)",
            )  # fmt: skip
        volume = Volume(volume, voxel_size_status="unknown")
    if volume.dtype.kind not in "fiub":
        raise input_error(where, "volume", expected="real numbers", got=volume.dtype)
    return volume


def block_shape(block: int | Sequence[int] | None, spec: FeatureSpec, where: str) -> tuple[int, int, int]:
    """A block as (z, y, x). By default 128 voxels a side; 96 for "scale-true", which holds all its channels at once."""
    if block is None:
        block = 128 if spec.compat == "ilastik" else 96
    sides = tuple(block) if isinstance(block, Sequence | np.ndarray) else (block,) * 3
    if len(sides) != 3 or not all(isinstance(n, int | np.integer) and n >= 1 for n in sides):
        raise input_error(where, "block", expected="one or three whole numbers of voxels above 0", got=block)
    return (int(sides[0]), int(sides[1]), int(sides[2]))


def feature_stack(
    volume: Volume | npt.NDArray[Any],
    spec: FeatureSpec | None = None,
    *,
    offset: float | None = None,
    block: int | Sequence[int] | None = None,
    out: Float32Array | None = None,
    n_threads: int = 0,
    progress: Progress = silent,
) -> Float32Array:
    """All channels of a (small) volume, float32 (channels, z, y, x) in the order of `spec.channel_names`.

    offset: see `FeatureSource`; by default the volume's mean. out: where to put them; with several volumes of one
    shape that saves the system the clearing of memory, which can take as long as the filters. 61 channels take 244
    bytes a voxel: for whole tomograms let `PixelClassifier` stream them. A volume on an NVIDIA card (CuPy's, torch's)
    is computed there, and the answer is a CuPy array.
    """
    spec = FeatureSpec() if spec is None else spec
    if offset is not None and not math.isfinite(offset):
        raise input_error("feature_stack", "offset", expected="a finite number", got=offset)
    on_card = arrays.card_array(volume)
    if on_card is not None:
        found: Float32Array = arrays.feature_stack(on_card, spec._plan, offset)
        return found
    source_volume = as_volume(volume, "feature_stack")
    if offset is None:
        offset = conditioning_offset(source_volume)
    source = FeatureSource(source_volume, spec, offset, n_threads=n_threads)
    shape = (spec.n_channels, *source_volume.shape)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or out.strides[3] != 4 or not out.flags.writeable:
        raise input_error(
            "feature_stack",
            "out",
            expected=f"writable float32 {shape}, contiguous along x",
            got=f"{out.dtype} {out.shape}",
        )
    parts = list(blocks(source_volume.shape, block_shape(block, spec, "feature_stack"), spec.halo))
    for i, part in enumerate(parts):
        progress("features", i, len(parts))
        source.compute(part, out[(slice(None), *part.core)])
    progress("features", len(parts), len(parts))
    return out
