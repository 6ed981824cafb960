# SPDX-License-Identifier: MIT
"""The 2D U-Net of Ronneberger et al. 2015 (paper 2, section 4), on volumes slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from .registry import register
from .unet3d import UNet, UNetWidths


@register("unet2d")
class UNet2D(UNet):
    """1x3x3 convolutions, pooling and up-convolutions by 1x2x2: every slice for itself, whatever the number of slices.

    A 2D image is a volume of one slice, so that `train` and `segment` take both.

    The "full" preset has the published channels: 31,030,658 weights with one channel in and two out. Other than as
    published, convolutions are padded (so that output and input have one size) and batch-normalised.
    """

    source = "Ronneberger et al. 2015; paper 2"
    widths: ClassVar[Mapping[str, UNetWidths]] = {
        "full": UNetWidths(
            ((64, 64), (128, 128), (256, 256), (512, 512), (1024, 1024)),
            (64, 128, 256, 512),
        ),
        "small": UNetWidths(((8, 8), (16, 16), (32, 32), (64, 64)), (8, 16, 32)),
    }
    presets = tuple(widths)
    kernel, factor = (1, 3, 3), (1, 2, 2)
    up_bias = True
