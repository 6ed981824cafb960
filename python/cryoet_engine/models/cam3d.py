# SPDX-License-Identifier: MIT
"""The 3D classifier behind Grad-CAM and Respond-CAM (Zhao et al. 2018; paper 5, section 4.2)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .network import ClassificationModel, ModelConfig, initialise_for_relu
from .reach import Span, radius
from .registry import register
from .ssn3d import DROPOUT, VGG_PRESETS, convolution_pair


@register("cam3d")
class CAM3D(ClassificationModel):
    """Three pairs of 3x3x3 convolutions with 2x2x2 max pooling after each; two layers of 1024 with dropout 0.7; scores.

    The layers are those of the subtomogram classifier of which paper 4's encoder was made. Where that flattens the
    last features, which ties it to one size of subtomogram, they are averaged over the volume here: any size will do.

    `features` is what heat maps are made of: after the last convolution, before its pooling, at 1/4 of the resolution.
    """

    presets = tuple(VGG_PRESETS)
    source = "Zhao et al. 2018; paper 5"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = VGG_PRESETS[config.preset]
        self.blocks = nn.ModuleList()
        channels = config.in_channels
        for width in widths.blocks:
            self.blocks.append(convolution_pair(channels, width))
            channels = width
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Linear(channels, widths.dense), nn.ReLU(inplace=True), nn.Dropout(DROPOUT)]
            channels = widths.dense
        self.dense = nn.Sequential(*layers, nn.Linear(channels, config.out_channels))
        initialise_for_relu(self, [self.dense[-1]])

        def behind(span: Span) -> Span:
            span = span.up(4).convolution(5)
            for _ in range(2):
                span = span.pooling(2).convolution(5)
            return span

        self.divisor = (8, 8, 8)
        self.receptive_radius = (radius(behind, 4),) * 3

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, (batch, channels, z / 4, y / 4, x / 4), of (batch, in_channels, z, y, x)."""
        self.check_lengths(x)
        for number, block in enumerate(self.blocks):
            x = block(F.max_pool3d(x, 2) if number else x)
        return x

    def classify(self, features: Tensor) -> Tensor:
        """Raw scores (batch, classes) of what `features` gives."""
        return cast(Tensor, self.dense(F.max_pool3d(features, 2).mean((2, 3, 4))))
