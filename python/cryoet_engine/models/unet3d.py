# SPDX-License-Identifier: MIT
"""The 3D U-Net of Cicek et al. 2016 (paper 1, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import ModelConfig, SegmentationModel
from .registry import register


@dataclass(frozen=True)
class _Widths:
    """Channels. analysis: after the first and the second convolution of each level, from full resolution down.
    up: out of each up-convolution, from full resolution down.
    """

    analysis: tuple[tuple[int, int], ...]
    up: tuple[int, ...]


_PRESETS = {
    # As published: channels double before each pooling, up-convolutions keep them.
    "full": _Widths(((32, 64), (64, 128), (128, 256), (256, 512)), (128, 256, 512)),
    # For two CPU cores. Nearly all time goes to full resolution, so it has eight channels (one AVX2 register) and
    # its up-convolution gives no more than the skip connection does; depth, which is almost free, buys the context.
    "small": _Widths(((8, 8), (16, 16), (32, 32), (64, 64)), (8, 16, 32)),
}


def _block(channels_in: int, first: int, second: int) -> nn.Sequential:
    """Two 3x3x3 convolutions, each followed by batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv3d(channels_in, first, 3, padding=1),
        nn.BatchNorm3d(first),
        nn.ReLU(inplace=True),
        nn.Conv3d(first, second, 3, padding=1),
        nn.BatchNorm3d(second),
        nn.ReLU(inplace=True),
    )


@register("unet3d")
class UNet3D(SegmentationModel):
    """Analysis path with 2x2x2 max pooling, synthesis path with 2x2x2 up-convolutions, skips by concatenation.

    The "full" preset with three channels in and out has 19,069,955 weights when batch normalisation's are left out.
    """

    presets = tuple(_PRESETS)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = _PRESETS[config.preset]
        self.analysis, self.up, self.synthesis = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels = config.in_channels
        for first, second in widths.analysis:
            self.analysis.append(_block(channels, first, second))
            channels = second
        for (_, skip), up in reversed(list(zip(widths.analysis[:-1], widths.up, strict=True))):
            # Without bias: the published number of weights leaves none for it.
            self.up.append(nn.ConvTranspose3d(channels, up, 2, stride=2, bias=False))
            self.synthesis.append(_block(up + skip, skip, skip))
            channels = skip
        self.out = nn.Conv3d(channels, config.out_channels, 1)
        depth = len(widths.up)
        self.divisor = (2**depth,) * 3
        self.receptive_radius = (_receptive_radius(depth),) * 3

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs (batch, out_channels, z, y, x) of (batch, in_channels, z, y, x)."""
        self.check_lengths(x)
        skips = []
        for level, block in enumerate(self.analysis):
            x = block(F.max_pool3d(x, 2) if level else x)
            skips.append(x)
        skips.pop()  # the deepest level has no skip connection
        for up, block in zip(self.up, self.synthesis, strict=True):
            x = block(torch.cat([up(x), skips.pop()], 1))
        out: Tensor = self.out(x)
        return out


def _receptive_radius(depth: int) -> int:
    """How far a voxel of a U-Net with `depth` poolings sees: exact, over all positions on the pooling grid."""
    block = 2  # reach of two 3x3x3 convolutions

    def input_of_analysis(level: int, low: int, high: int) -> tuple[int, int]:
        """The input voxels behind the analysis path's features low..high of a level."""
        low, high = low - block, high + block
        return (low, high) if level == 0 else input_of_analysis(level - 1, 2 * low, 2 * high + 1)

    def input_of_synthesis(level: int, low: int, high: int) -> tuple[int, int]:
        """The same for the synthesis path's features, through the skip connection and from below."""
        if level == depth:
            return input_of_analysis(level, low, high)
        low, high = low - block, high + block
        skip = input_of_analysis(level, low, high)
        below = input_of_synthesis(level + 1, low // 2, high // 2)
        return min(skip[0], below[0]), max(skip[1], below[1])

    ends = [(voxel, input_of_synthesis(0, voxel, voxel)) for voxel in range(2**depth)]
    return max(max(voxel - low, high - voxel) for voxel, (low, high) in ends)
