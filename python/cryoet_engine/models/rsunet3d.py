# SPDX-License-Identifier: MIT
"""The residual symmetric U-Net of Lee et al. 2017 (paper 1, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias, cast

import torch.nn.functional as F
from torch import Tensor, nn

from .network import ModelConfig, SegmentationModel
from .reach import u_shaped_radius
from .registry import register

Triple: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class _Widths:
    """levels: channels of each, from full resolution down. kernel: (z, y, x), of nearly all convolutions."""

    levels: tuple[int, ...]
    kernel: Triple


_PRESETS = {
    # Channels of Lee et al., kernels of paper 1.
    "full": _Widths((28, 36, 48, 64, 80), (5, 7, 7)),
    # For the CPU: less wide and less deep.
    "small": _Widths((8, 12, 16, 24), (3, 5, 5)),
}
_FIRST = (1, 3, 3)
_FACTOR = (1, 2, 2)


def _convolution(channels_in: int, channels: int, kernel: Triple) -> nn.Sequential:
    """Convolution and batch normalisation (whose shift makes a bias of the convolution idle)."""
    return nn.Sequential(nn.Conv3d(channels_in, channels, kernel, padding="same", bias=False), nn.BatchNorm3d(channels))


class _Residual(nn.Module):
    """A residual sub-network: a 1x3x3 convolution, then two anisotropic ones around which its result goes by."""

    def __init__(self, channels_in: int, channels: int, kernel: Triple) -> None:
        super().__init__()
        self.first = _convolution(channels_in, channels, _FIRST)
        self.second = _convolution(channels, channels, kernel)
        self.third = _convolution(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.first(x))
        return F.elu(x + self.third(F.elu(self.second(x))))


@register("rsunet3d")
class RSUNet3D(SegmentationModel):
    """A residual sub-network at every level, pooling by 1x2x2 (never along z), skips by sum.

    Lee et al. have 3x3x3 kernels, 1x3x3 at the beginning of a sub-network, and 1x5x5 at both ends of the network. Paper
    1 says 5x7x7 (z, y, x) and not where: here, for all but 1x3x3. So a voxel costs 1.6 times the 3D U-Net's operations;
    the paper measured 1.3 times its time (table 1). With 5x7x7 at both ends alone it would be 0.4.

    Up-convolutions are learned, 1x2x2 with bias; batch normalisation and ELU are those of Lee et al.
    """

    presets = tuple(_PRESETS)
    source = "Lee et al. 2017; paper 1"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        levels, kernel = _PRESETS[config.preset].levels, _PRESETS[config.preset].kernel
        self.embed = _convolution(config.in_channels, levels[0], kernel)
        self.analysis = nn.ModuleList(
            _Residual(before, here, kernel) for before, here in zip((levels[0], *levels), levels, strict=False)
        )
        self.up, self.synthesis = nn.ModuleList(), nn.ModuleList()
        for here, below in reversed(list(pairwise(levels))):
            self.up.append(nn.ConvTranspose3d(below, here, _FACTOR, stride=_FACTOR))
            self.synthesis.append(_Residual(here, here, kernel))
        self.unembed = _convolution(levels[0], levels[0], kernel)
        self.out = nn.Conv3d(levels[0], config.out_channels, 1)
        depth = len(levels) - 1
        z, y, x = (
            u_shaped_radius(depth, block=first // 2 + 2 * (length // 2), factor=factor, ends=length // 2)
            for first, length, factor in zip(_FIRST, kernel, _FACTOR, strict=True)
        )
        self.divisor = (1, 2**depth, 2**depth)
        self.receptive_radius = (z, y, x)

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs (batch, out_channels, z, y, x) of (batch, in_channels, z, y, x)."""
        self.check_lengths(x)
        x = F.elu(self.embed(x))
        skips = []
        for level, block in enumerate(self.analysis):
            x = block(F.max_pool3d(x, _FACTOR) if level else x)
            skips.append(x)
        skips.pop()  # the deepest level has no skip connection
        for up, block in zip(self.up, self.synthesis, strict=True):
            x = block(up(x) + skips.pop())
        return cast(Tensor, self.out(F.elu(self.unembed(x))))
