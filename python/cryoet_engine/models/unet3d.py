# SPDX-License-Identifier: MIT
"""The 3D U-Net of Cicek et al. 2016 (paper 1, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import ModelConfig, SegmentationModel
from .reach import u_shaped_radius
from .registry import register


@dataclass(frozen=True)
class UNetWidths:
    """Channels. analysis: after the first and the second convolution of each level, from full resolution down.
    up: out of each up-convolution, from full resolution down.
    """

    analysis: tuple[tuple[int, int], ...]
    up: tuple[int, ...]


def _block(channels_in: int, first: int, second: int, kernel: tuple[int, int, int]) -> nn.Sequential:
    """Two convolutions, each followed by batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv3d(channels_in, first, kernel, padding="same"),
        nn.BatchNorm3d(first),
        nn.ReLU(inplace=True),
        nn.Conv3d(first, second, kernel, padding="same"),
        nn.BatchNorm3d(second),
        nn.ReLU(inplace=True),
    )


class UNet(SegmentationModel):
    """Analysis path with max pooling, synthesis path with up-convolutions, skips by concatenation.

    widths: by preset. kernel: of convolutions, (z, y, x). factor: of pooling and up-convolutions, (z, y, x).
    up_bias: whether up-convolutions have a bias.
    """

    widths: ClassVar[Mapping[str, UNetWidths]]
    kernel: ClassVar[tuple[int, int, int]]
    factor: ClassVar[tuple[int, int, int]]
    up_bias: ClassVar[bool]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = self.widths[config.preset]
        self.analysis, self.up, self.synthesis = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels = config.in_channels
        for first, second in widths.analysis:
            self.analysis.append(_block(channels, first, second, self.kernel))
            channels = second
        for (_, skip), up in reversed(list(zip(widths.analysis[:-1], widths.up, strict=True))):
            self.up.append(nn.ConvTranspose3d(channels, up, self.factor, stride=self.factor, bias=self.up_bias))
            self.synthesis.append(_block(up + skip, skip, skip, self.kernel))
            channels = skip
        self.out = nn.Conv3d(channels, config.out_channels, 1)
        depth = len(widths.up)
        z, y, x = (
            (factor**depth, u_shaped_radius(depth, block=2 * (kernel // 2), factor=factor))
            for factor, kernel in zip(self.factor, self.kernel, strict=True)
        )
        self.divisor, self.receptive_radius = (z[0], y[0], x[0]), (z[1], y[1], x[1])

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs (batch, out_channels, z, y, x) of (batch, in_channels, z, y, x)."""
        self.check_lengths(x)
        skips = []
        for level, block in enumerate(self.analysis):
            x = block(F.max_pool3d(x, self.factor) if level else x)
            skips.append(x)
        skips.pop()  # the deepest level has no skip connection
        for up, block in zip(self.up, self.synthesis, strict=True):
            x = block(torch.cat([up(x), skips.pop()], 1))
        out: Tensor = self.out(x)
        return out


@register("unet3d")
class UNet3D(UNet):
    """3x3x3 convolutions, pooling and up-convolutions by 2x2x2.

    The "full" preset with three channels in and out has 19,069,955 weights when batch normalisation's are left out.
    """

    source = "Cicek et al. 2016"
    widths: ClassVar[Mapping[str, UNetWidths]] = {
        # As published: channels double before each pooling, up-convolutions keep them.
        "full": UNetWidths(((32, 64), (64, 128), (128, 256), (256, 512)), (128, 256, 512)),
        # For two CPU cores. Nearly all time goes to full resolution, so it has eight channels (one AVX2 register) and
        # its up-convolution gives no more than the skip connection does; depth, which is almost free, buys the context.
        "small": UNetWidths(((8, 8), (16, 16), (32, 32), (64, 64)), (8, 16, 32)),
    }
    presets = tuple(widths)
    kernel, factor = (3, 3, 3), (2, 2, 2)
    up_bias = False  # the published number of weights leaves none for it
