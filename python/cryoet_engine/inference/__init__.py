# SPDX-License-Identifier: MIT
"""Segmenting a whole tomogram with a network: overlapping tiles, alpha-blended, streamed slab by slab."""

from .orientations import TestTimeAugmentation
from .plan import Blend
from .replica import choose_devices
from .sinks import Output
from .tomogram import segment, voxel_size_mismatch

__all__ = ["Blend", "Output", "TestTimeAugmentation", "choose_devices", "segment", "voxel_size_mismatch"]
