# SPDX-License-Identifier: MIT
"""VoxResNet of Chen et al. 2016, with the fusion of paper 5 (section 4.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import ModelConfig, SegmentationModel
from .reach import Span, radius
from .registry import register


@dataclass(frozen=True)
class _Widths:
    """stem: channels at full resolution. trunk: at 1/2, 1/4 and 1/8. side: of each side output."""

    stem: int
    trunk: int
    side: int


_PRESETS = {"full": _Widths(32, 64, 32), "small": _Widths(8, 16, 8)}


def _activated(channels: int) -> list[nn.Module]:
    """Batch normalisation and ReLU. Not in place: the residual connection and side output read the same input."""
    return [nn.BatchNorm3d(channels), nn.ReLU()]


class _VoxRes(nn.Module):
    """Twice batch normalisation, ReLU and 3x3x3, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_activated(channels),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            *_activated(channels),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.layers(x))


@register("voxresnet")
class VoxResNet(SegmentationModel):
    """Two 3x3x3 at full resolution; three times a 3x3x3 with stride 2 and two residual blocks; four side outputs.

    25 layers as published: 17 convolutions in the trunk, and a 1x1x1 and an up-sampling for each side output. Where
    Chen et al. add up class scores, paper 5 resizes the side outputs, concatenates them and applies a last 1x1x1: so
    here, with 32 channels a side output, ReLU (without which the two 1x1x1 would be one) and linear interpolation,
    none of which it tells. Chen et al.'s auxiliary losses on each side output have no place in it.
    """

    presets = tuple(_PRESETS)
    source = "Chen et al. 2016; paper 5"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = _PRESETS[config.preset]
        stem, trunk = widths.stem, widths.trunk
        self.stem = nn.Sequential(
            nn.Conv3d(config.in_channels, stem, 3, padding=1, bias=False),
            *_activated(stem),
            nn.Conv3d(stem, stem, 3, padding=1, bias=False),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *_activated(channels),
                nn.Conv3d(channels, trunk, 3, stride=2, padding=1, bias=False),
                _VoxRes(trunk),
                _VoxRes(trunk),
            )
            for channels in (stem, trunk, trunk)
        )
        self.sides = nn.ModuleList(
            nn.Sequential(*_activated(channels), nn.Conv3d(channels, widths.side, 1), nn.ReLU())
            for channels in (stem, trunk, trunk, trunk)
        )
        self.out = nn.Conv3d(4 * widths.side, config.out_channels, 1)

        def behind(span: Span) -> Span:
            reached = span
            for level in range(1, 4):
                deep = span.up_linear(2**level)
                for _ in range(level):
                    deep = deep.convolution(9).convolution(3, stride=2)
                reached = reached.union(deep)
            return reached.convolution(5)

        self.divisor = (8, 8, 8)
        self.receptive_radius = (radius(behind, 8),) * 3

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs (batch, out_channels, z, y, x) of (batch, in_channels, z, y, x)."""
        self.check_lengths(x)
        x = self.stem(x)
        size = x.shape[2:]
        outputs = [self.sides[0](x)]
        for stage, side in zip(self.stages, self.sides[1:], strict=True):
            x = stage(x)
            outputs.append(F.interpolate(side(x), size=size, mode="trilinear", align_corners=False))
        return cast(Tensor, self.out(torch.cat(outputs, 1)))
