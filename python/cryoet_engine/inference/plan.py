# SPDX-License-Identifier: MIT
"""Where tiles lie, what they weigh, which of them are needed, and their voxels."""

from __future__ import annotations

import math
from itertools import product
from typing import Literal, TypeAlias

import numpy as np

from .._checks import input_error
from ..blending import TileWeights
from ..models.network import SegmentationModel
from ..models.normalisation import Normalisation
from ..tiling import Shape, tile_shares, tile_starts
from ..volume import Float32Array, Volume

Blend: TypeAlias = Literal["trimmed", "plain", "gaussian"]


def _trim(radius: int, overlap: int) -> int:
    """Voxels at a tile's ends without weight: as many as the network sees far, where that is half the overlap at most.

    Where it sees further, no trimming makes tiles exact, and a ramp is needed for what is left: three eighths of the
    overlap, which leaves a quarter, halves the step between tiles (benchmarks/inference.md).
    """
    return radius if radius <= overlap // 2 else overlap * 3 // 8


class Plan:
    """Tiles of a volume (z, y, x) in layers along z.

    The volume is thought of as extended at its far ends to multiples of the network's divisor, so that every tile lies
    on the grid of its pooling, on which alone the network commutes with a shift.

    wanted: the slices to compute. Tiles lie where they would for all slices; a layer that weighs nothing in any wanted
    slice is left out, so that what is computed keeps every bit. turned: tiles are turned about z, too.
    """

    def __init__(
        self,
        model: SegmentationModel,
        shape: Shape,
        *,
        tile: int,
        overlap: int,
        blend: Blend,
        wanted: slice,
        turned: bool = False,
    ) -> None:
        if not isinstance(tile, int) or not isinstance(overlap, int) or tile < 1 or not 0 <= overlap < tile:
            raise input_error(
                "segment", "tile, overlap", expected="whole numbers, 0 <= overlap < tile", got=(tile, overlap)
            )
        radii, steps = list(model.receptive_radius), list(model.divisor)
        if turned:  # y and x take each other's place
            radii[1:], steps[1:] = [max(radii[1:])] * 2, [math.lcm(*steps[1:])] * 2
        tiles, starts, ramps = [], [], []
        for length, step, radius in zip(shape, steps, radii, strict=True):
            extended = -(-length // step) * step
            edge = min(-(-tile // step) * step, extended)
            common = min(-(-overlap // step) * step, edge - step)
            at = tile_starts(extended, edge, common)
            trim = _trim(radius, common) if blend == "trimmed" else 0
            shares = tile_shares(extended, at, edge, common, trim=trim, gaussian=blend == "gaussian")
            tiles.append(edge)
            starts.append(at)
            ramps.append(shares)
        self.shape, self.wanted = shape, wanted
        self.tile: Shape = (tiles[0], tiles[1], tiles[2])
        self.starts, self._ramps = starts, ramps
        self.within = list(product(range(len(starts[1])), range(len(starts[2]))))
        self.layers = [k for k in range(len(starts[0])) if self._weighs(k)]

    def _weighs(self, layer: int) -> bool:
        first = self.starts[0][layer]
        part = self._ramps[0][layer][max(self.wanted.start - first, 0) : max(self.wanted.stop - first, 0)]
        return bool(part.any())

    def complete(self, layer: int) -> slice:
        """The slices that have all their weight once this layer was added, up to the first of the next one computed.

        Not of the next one there is: a layer that is left out weighs nothing here, and nobody would tell of its slices.
        """
        starts, later = self.starts[0], [k for k in self.layers if k > layer]
        return slice(starts[layer], starts[later[0]] if later else self.shape[0])

    def at(self, k: tuple[int, int, int]) -> Shape:
        """The first voxel of tile k."""
        z, y, x = (starts[i] for starts, i in zip(self.starts, k, strict=True))
        return z, y, x

    def weights(self, k: tuple[int, int, int]) -> TileWeights:
        """Of tile k along z, y and x; a voxel's weight is their product."""
        z, y, x = (ramp[i] for ramp, i in zip(self._ramps, k, strict=True))
        return z, y, x

    def read(self, volume: Volume, normalise: Normalisation, k: tuple[int, int, int]) -> Float32Array:
        """The normalised voxels of tile k; beyond the volume's far ends, their reflection."""
        first = self.at(k)
        region = [slice(s, min(s + n, length)) for s, n, length in zip(first, self.tile, self.shape, strict=True)]
        block = normalise(volume.block((region[0], region[1], region[2])))
        more = [(0, n - have) for n, have in zip(self.tile, block.shape, strict=True)]
        return np.pad(block, more, mode="symmetric") if any(after for _, after in more) else block
