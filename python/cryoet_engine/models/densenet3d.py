# SPDX-License-Identifier: MIT
"""The skip-connected 3D DenseNet of Bui et al. 2017, 2019 (paper 1, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .network import ModelConfig, SegmentationModel
from .reach import Span, radius
from .registry import register

_BLOCKS = 4
#: Maps that each block sends to full resolution; as published, where they are as many as classes.
_MAPS = 4


@dataclass(frozen=True)
class _Widths:
    """stem: channels of the first convolutions. growth: new channels a layer. layers: of each block."""

    stem: int
    growth: int
    layers: int


_PRESETS = {"full": _Widths(32, 16, 4), "small": _Widths(16, 8, 2)}


def _layer(channels_in: int, channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Batch normalisation, ReLU, convolution. Not in place: other layers read the same input."""
    padding = 0 if kernel == stride else kernel // 2
    return [
        nn.BatchNorm3d(channels_in),
        nn.ReLU(),
        nn.Conv3d(channels_in, channels, kernel, stride=stride, padding=padding, bias=False),
    ]


class _DenseBlock(nn.Module):
    """Layers each of which sees all before it: 1x1x1 to four times the growth, 3x3x3 to the growth, dropout 0.2."""

    def __init__(self, channels_in: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                *_layer(channels_in + k * growth, 4 * growth, 1), *_layer(4 * growth, growth, 3), nn.Dropout(0.2)
            )
            for k in range(layers)
        )
        self.channels = channels_in + layers * growth

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


@register("densenet3d")
class DenseNet3D(SegmentationModel):
    """Four dense blocks of four layers, growth 16, at 1/2 to 1/16 of the resolution, each brought to full resolution
    by one up-convolution of its own; concatenated, and a last 1x1x1.

    With two channels in and four out, as published (two MRI contrasts, four tissues), the "full" preset has 1,546,308
    weights in 47 layers, batch normalisation's left out; published are 47 layers and about 1.55 million. To get there
    paper 1's text is not enough, Bui et al. have more: bottlenecks of 1x1x1, transitions that halve the channels
    (1x1x1, then 2x2x2 with stride 2 instead of pooling), and up-convolutions by f with kernels of f + 2 in four
    groups, which alone take 873,504 weights. Theirs give one map a class; here each gives four maps whatever the
    number of classes, so that any number will do and the count hardly depends on it.
    """

    presets = tuple(_PRESETS)
    source = "Bui et al. 2019; paper 1"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = _PRESETS[config.preset]
        stem = widths.stem
        self.stem = nn.Sequential(
            nn.Conv3d(config.in_channels, stem, 3, padding=1, bias=False),
            *_layer(stem, stem, 3),
            *_layer(stem, stem, 3),
        )
        self.down, self.blocks, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels = stem
        for number in range(_BLOCKS):
            narrow = channels // 2 if number else channels
            before = _layer(channels, narrow, 1) if number else []
            self.down.append(nn.Sequential(*before, *_layer(narrow, narrow, 2, stride=2)))
            block = _DenseBlock(narrow, widths.growth, widths.layers)
            self.blocks.append(block)
            channels, factor = block.channels, 2 ** (number + 1)
            self.up.append(
                nn.ConvTranspose3d(channels, _MAPS, factor + 2, stride=factor, padding=1, groups=_MAPS, bias=False)
            )
        self.out = nn.Conv3d(_BLOCKS * _MAPS, config.out_channels, 1)

        def behind(span: Span) -> Span:
            reached = span
            for number in range(_BLOCKS):
                deep = span.up_overlapping(2 ** (number + 1))
                for _ in range(number + 1):
                    deep = deep.convolution(2 * widths.layers + 1).pooling(2)
                reached = reached.union(deep)
            return reached.convolution(7)

        self.divisor = (2**_BLOCKS,) * 3
        self.receptive_radius = (radius(behind, 2**_BLOCKS),) * 3

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs (batch, out_channels, z, y, x) of (batch, in_channels, z, y, x)."""
        self.check_lengths(x)
        x = self.stem(x)
        maps = []
        for down, block, up in zip(self.down, self.blocks, self.up, strict=True):
            x = block(down(x))
            maps.append(up(x))
        out: Tensor = self.out(torch.cat(maps, 1))
        return out
