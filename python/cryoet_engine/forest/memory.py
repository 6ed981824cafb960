# SPDX-License-Identifier: MIT
"""Blocks that fit a memory limit.

What a block costs is bounded from above: its data as read, the smoothing passes over it, one smoothed field a scale,
a tile of channels a thread, its results. `tests/forest/test_memory.py` measures that the process keeps to it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._checks import input_error
from ..features import FeatureSource

Shape = tuple[int, int, int]

#: Largest first: beyond the first there is little to gain, below the last little is left to save.
BLOCKS: tuple[Shape, ...] = (
    *((64, 128, 128), (64, 64, 128), (64, 64, 64), (32, 64, 64), (32, 32, 64)),
    *((32, 32, 32), (16, 32, 32), (16, 16, 32), (16, 16, 16)),
)
#: Results are stored in such pieces at least, the chunks of io.create_segmentation.
CHUNK: Shape = (64, 64, 64)
_TILE = (32, 16, 128)  # of channels, a thread (csrc/ops/features.h)
_MARGIN = 3  # around the core, of a smoothed field
_PASSES = 3  # the block itself as float32 and two passes of its smoothing
_PASSES_AT_OWN_SCALE = 14  # derivatives and products, all of a block's size at most
_FIXED = 32 << 20  # pages of a memory map, a writer's chunks, threads, what the allocator does not give back
_ROUNDING = 1.1  # arrays come and go, and leave gaps


def bytes_of(memory: float | str) -> int:
    """A memory limit: bytes, or text such as "4G", "500M", "1.5GiB" (powers of 1024)."""
    value: float | None = None
    if isinstance(memory, str):
        if match := re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]?)(?:i?b)?\s*", memory.lower()):
            value = float(match[1]) * 1024 ** " kmgt".index(match[2] or " ")
    elif isinstance(memory, int | float) and not isinstance(memory, bool):
        value = memory
    if value is None or not math.isfinite(value) or value < 1:
        raise input_error("memory", "limit", expected="bytes, or a size such as 4G or 500M", got=repr(memory))
    return int(value)


def resident_bytes() -> int:
    """Memory that this process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # not Linux: the most it ever held is at least as much
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


@dataclass(frozen=True, kw_only=True)
class BlockCost:
    """Bytes that one block takes while it is classified.

    source: what is read and computed. output_bytes: of results, a voxel. keeps_channels: all channels of the core are
    kept, as for training.
    """

    source: FeatureSource
    output_bytes: int
    keeps_channels: bool = False

    def __call__(self, core: Shape) -> int:
        """An upper bound for a block with this core."""
        source, spec = self.source, self.source.spec
        shape = source.volume.shape
        core = _clipped(core, shape)
        padded = math.prod(min(n + 2 * spec.halo, whole) for n, whole in zip(core, shape, strict=True))
        voxels = math.prod(core)
        cost = 4 * padded + _reading_bytes(source, padded)
        if spec.compat == "ilastik":
            scales = len({scale for _, scale in spec.channel_sources})
            cost += 4 * (_PASSES * padded + scales * math.prod(n + 2 * _MARGIN for n in core))
        else:
            cost += 4 * (_PASSES_AT_OWN_SCALE * padded + spec.n_channels * voxels)
        tiles = math.prod(-(-n // tile) for n, tile in zip(core, _TILE, strict=True))
        tile = math.prod(min(-(-n // 16) * 16, side) for n, side in zip(core, _TILE, strict=True))
        cost += 4 * min(_threads(source.n_threads), tiles) * source.n_channels * tile
        stored = math.prod(_clipped(map(max, core, CHUNK), shape))
        cost += 4 * len(source.extra) * voxels + self.output_bytes * stored
        if self.keeps_channels:
            cost += 4 * source.n_channels * voxels
        return int(_ROUNDING * cost) + _FIXED

    def largest_within(self, memory: float | str, in_memory: int = 0, *, where: str = "predict_proba") -> Shape:
        """The largest block with which this process stays under `memory`; `in_memory`: bytes of the result itself.

        Errors: InputError that names the least that works.
        """
        limit, held = bytes_of(memory), resident_bytes() + in_memory
        for block in BLOCKS:
            if held + self(block) <= limit:
                return block
        least = held + self(BLOCKS[-1])
        fix = "stream the result to a file (out=), or give more" if in_memory > least // 2 else "give more"
        raise input_error(
            where, "memory", expected=f"at least {math.ceil(least / 2**20)}M", got=f"{limit / 2**20:.0f}M", fix=fix
        )


def _clipped(core: Iterable[int], shape: Shape) -> Shape:
    z, y, x = (min(n, whole) for n, whole in zip(core, shape, strict=True))
    return z, y, x


def _threads(wanted: int) -> int:
    if wanted:
        return wanted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reading_bytes(source: FeatureSource, padded: int) -> int:
    """Beside the block itself: copies in the stored type, and chunks that are unpacked for it."""
    most = 0
    for volume in (source.volume, *source.extra):
        cost = 0
        if hasattr(volume.data, "chunks"):
            chunk = math.prod(volume.data.chunks or (0,)) * volume.dtype.itemsize
            cost = 12 * chunk + 2 * padded * volume.dtype.itemsize  # zarr unpacks ten chunks at a time
        elif not isinstance(volume.data, np.ndarray):
            cost = 3 * padded * volume.dtype.itemsize
        most = max(most, cost)
    return most + (4 * padded if (source.scale, source.shift) != (1.0, 0.0) else 0)
