# SPDX-License-Identifier: MIT
"""The only place where blocks, halos, tiles and overlaps are computed.

Blocks (filters, forest): the volume is cut into cores that do not overlap; each is computed from its core plus a
halo, clipped at the volume's border, so that every block equals the same part of the whole.
Tiles (networks): equally sized, overlapping, shifted inwards at the far border, blended by ramps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from ._checks import input_error
from .volume import Float32Array, Region

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Block:
    """`core`: what this block is responsible for; `padded`: what it reads; `inner`: the core within the padded."""

    core: Region
    padded: Region
    inner: Region


def _axis_blocks(length: int, block: int, halo: int) -> list[tuple[slice, slice, slice]]:
    out = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        low, high = max(start - halo, 0), min(stop + halo, length)
        out.append((slice(start, stop), slice(low, high), slice(start - low, stop - low)))
    return out


def blocks(shape: Shape, block: Shape, halo: int) -> Iterator[Block]:
    """Cut `shape` into cores of at most `block` voxels with a clipped halo, in C order."""
    if min(block) < 1 or halo < 0:
        raise input_error("blocks", "block, halo", expected="block >= 1 and halo >= 0", got=(block, halo))
    axes = [_axis_blocks(n, b, halo) for n, b in zip(shape, block, strict=True)]
    for z, y, x in product(*axes):
        yield Block((z[0], y[0], x[0]), (z[1], y[1], x[1]), (z[2], y[2], x[2]))


def block_around(shape: Shape, core: Region, halo: int) -> Block:
    """The one block that is responsible for `core` (slices with bounds), with a halo clipped at the border."""
    low = [max(c.start - halo, 0) for c in core]
    high = [min(c.stop + halo, n) for c, n in zip(core, shape, strict=True)]
    z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
    inner_z, inner_y, inner_x = (slice(c.start - a, c.stop - a) for c, a in zip(core, low, strict=True))
    return Block(core, (z, y, x), (inner_z, inner_y, inner_x))


def blocks_by_chunk(shape: Shape, block: Shape, chunk: Shape, halo: int) -> Iterator[tuple[Region, list[Block]]]:
    """Whole chunks, C order, each with the blocks that make it up: one where `block` is as large, else several.

    So results reach a chunked store a chunk at a time, however small the blocks.
    """
    outer = tuple(max(b, min(c, n)) for b, c, n in zip(block, chunk, shape, strict=True))
    for whole in blocks(shape, (outer[0], outer[1], outer[2]), 0):
        spans = [
            [slice(start, min(start + b, c.stop)) for start in range(c.start, c.stop, b)]
            for c, b in zip(whole.core, block, strict=True)
        ]
        yield whole.core, [block_around(shape, (z, y, x), halo) for z, y, x in product(*spans)]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First voxels of tiles along one axis: stride tile - overlap, the last tile shifted to end at the border.

    A volume shorter than a tile gives one tile at 0 (the caller pads it).
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise input_error(
            "tile_starts", "tile, overlap", expected="tile >= 1 and 0 <= overlap < tile", got=(tile, overlap)
        )
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, tile - overlap))
    return [*starts, length - tile]


def tile_ramp(length: int, starts: list[int], tile: int, overlap: int, index: int, *, trim: int = 0) -> Float32Array:
    """Blending weight along one axis of tile `index`: linear over the overlap (paper 1, section 4.4).

    trim: voxels at each inner end whose weight is zero because the network saw the tile's padding there: at
        least the receptive radius makes blended inference equal to direct inference. No end on the volume's own
        border is trimmed or ramped.
    """
    ramp = np.ones(tile, np.float64)
    width = overlap - 2 * trim
    if width < 0:
        raise input_error(
            "tile_ramp",
            "trim",
            expected=f"at most half the overlap ({overlap // 2})",
            got=trim,
            fix="use a larger overlap",
        )
    # Centred samples of the line from 0 to 1 over `width` voxels: opposite ramps sum to one exactly.
    rise = np.concatenate([np.zeros(trim), (np.arange(width) + 0.5) / max(width, 1), np.ones(tile)])[:tile]
    if starts[index] > 0:
        ramp = np.minimum(ramp, rise)
    if starts[index] + tile < length:
        ramp = np.minimum(ramp, rise[::-1])
    return ramp.astype(np.float32)


def tile_shares(
    length: int, starts: list[int], tile: int, overlap: int, *, trim: int = 0, gaussian: bool = False
) -> list[Float32Array]:
    """What each tile counts for along one axis: weights divided by their sum over all tiles, so that they sum to one.

    Products over the axes then sum to one in every voxel: no map of counts is needed. Only where tiles overlap by more
    than `overlap`, because the last one is shifted inwards, is there anything to divide ramps by.

    gaussian: instead of `tile_ramp` a Gaussian about the tile's middle, sigma an eighth of the tile, as nnU-Net
        (Isensee et al. 2021) weighs its tiles; it falls off everywhere, and trims nothing.
    """
    if gaussian:
        bell = np.exp(-0.5 * ((np.arange(tile) - (tile - 1) / 2) / (tile / 8)) ** 2)
        weights = [bell] * len(starts)
    else:
        weights = [
            tile_ramp(length, starts, tile, overlap, k, trim=trim).astype(np.float64) for k in range(len(starts))
        ]
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return [(w / total[s : s + tile]).astype(np.float32) for s, w in zip(starts, weights, strict=True)]
