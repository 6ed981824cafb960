# SPDX-License-Identifier: MIT
"""The subtomogram segmentation networks SSN3D of Liu et al. (paper 4, section 2): v1, v2 and encoder-decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .network import ModelConfig, SegmentationModel, initialise_for_relu
from .reach import Span, radius
from .registry import register


@dataclass(frozen=True)
class VGGWidths:
    """blocks: channels of the three pairs of convolutions. dense: of the two layers after them."""

    blocks: tuple[int, int, int]
    dense: int


VGG_PRESETS = {"full": VGGWidths((32, 64, 128), 1024), "small": VGGWidths((8, 16, 32), 256)}
#: Published for both 1024-wide layers: the share of outputs that training sets to zero.
DROPOUT = 0.7


def convolution_pair(channels_in: int, channels: int) -> nn.Sequential:
    """Two 3x3x3 convolutions, each followed by ReLU."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class _SSN3D(SegmentationModel):
    """The encoder that the three share: three times two 3x3x3 convolutions and 2x2x2 max pooling.

    `_score` makes full-resolution outputs of what the three poolings give, finest first.
    """

    presets = tuple(VGG_PRESETS)
    source = "paper 4"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = nn.ModuleList()
        channels = config.in_channels
        for width in VGG_PRESETS[config.preset].blocks:
            self.encoder.append(convolution_pair(channels, width))
            channels = width

        def behind(span: Span) -> Span:
            span = span.up(8)
            for _ in self.encoder:
                span = span.pooling(2).convolution(5)
            return span

        self.divisor = (8, 8, 8)
        self.receptive_radius = (radius(behind, 8),) * 3

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs (batch, out_channels, z, y, x) of (batch, in_channels, z, y, x)."""
        self.check_lengths(x)
        pooled = []
        for block in self.encoder:
            x = F.max_pool3d(block(x), 2)
            pooled.append(x)
        return self._score(*pooled)

    def _score(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        raise NotImplementedError


class _Scored(_SSN3D):
    """Two 1x1x1 layers of 1024 with dropout on the coarsest features, then 1x1x1 to the classes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = VGG_PRESETS[config.preset]
        layers: list[nn.Module] = []
        channels = widths.blocks[-1]
        for _ in range(2):
            layers += [nn.Conv3d(channels, widths.dense, 1), nn.ReLU(inplace=True), nn.Dropout(DROPOUT)]
            channels = widths.dense
        self.score = nn.Sequential(*layers, nn.Conv3d(channels, config.out_channels, 1))


@register("ssn3d_v1")
class SSN3DV1(_Scored):
    """Scores are doubled three times, with a 1x1x1 layer after the first two.

    One channel in and two out: 2,042,158 weights, as published; they fit 1x1x1 after the encoder, where the text
    speaks of 3x3x3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        n = config.out_channels
        self.between = nn.ModuleList(nn.Conv3d(n, n, 1) for _ in range(2))
        initialise_for_relu(self, [self.score[-1]])
        for layer in self.between:  # scores go through unchanged at first: a random mixture of classes may lose one
            nn.init.dirac_(cast(nn.Conv3d, layer).weight)

    def _score(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        x = self.score(eighth)
        for layer in self.between:
            x = layer(_twice(x))
        return _twice(x)


@register("ssn3d_v2")
class SSN3DV2(_Scored):
    """As v1, but to the doubled scores those of finer poolings (1x1x1) are added.

    One channel in and two out: 2,042,342 weights, as published.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        half, quarter, _ = VGG_PRESETS[config.preset].blocks
        self.skips = nn.ModuleList(nn.Conv3d(width, config.out_channels, 1) for width in (quarter, half))
        initialise_for_relu(self, [self.score[-1]])

    def _score(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        x = self.score(eighth)
        for skip, finer in zip(self.skips, (quarter, half), strict=True):
            x = _twice(x) + skip(finer)
        return _twice(x)


def _dense(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(channels_in, channels, 1), nn.ReLU(inplace=True))


@register("ssn3d_ed")
class SSN3DED(_SSN3D):
    """A decoder of 1x1x1 layers with ReLU instead of the wide ones, with skips by sum from finer poolings.

    One channel in and two out: 895,746 weights, as published. The text leaves the decoder's layers open; these, of
    the encoder's widths, give the count: 128>128 | 128>64, 64>64, skip 64>64 | 64>32, 32>32, skip 32>32 | 32>2, the
    bars being where resolution doubles.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        half, quarter, eighth = VGG_PRESETS[config.preset].blocks
        self.deepest = _dense(eighth, eighth)
        self.decoder, self.skips = nn.ModuleList(), nn.ModuleList()
        for coarser, width in ((eighth, quarter), (quarter, half)):
            self.decoder.append(nn.Sequential(_dense(coarser, width), _dense(width, width)))
            self.skips.append(_dense(width, width))
        self.out = nn.Conv3d(half, config.out_channels, 1)
        initialise_for_relu(self)

    def _score(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        x = self.deepest(eighth)
        for decode, skip, finer in zip(self.decoder, self.skips, (quarter, half), strict=True):
            x = decode(_twice(x)) + skip(finer)
        # 1x1x1 and nearest neighbour commute: on an eighth of the voxels the last layer gives the same.
        return _twice(cast(Tensor, self.out(x)))
