# SPDX-License-Identifier: MIT
"""How far a network sees along one axis: exact, by walking from an output voxel back to the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Span(NamedTuple):
    """Neighbouring voxels low..high (both included) of one layer's output, along one axis.

    Each method gives the voxels of that layer's input that they depend on.
    """

    low: int
    high: int

    def convolution(self, kernel: int, stride: int = 1) -> Span:
        """Odd kernel, padded by half of it."""
        return Span(stride * self.low - kernel // 2, stride * self.high + kernel // 2)

    def pooling(self, factor: int) -> Span:
        """Pooling, or a convolution, with a kernel as long as its stride."""
        return Span(factor * self.low, factor * self.high + factor - 1)

    def up(self, factor: int) -> Span:
        """Nearest neighbour, or an up-convolution with a kernel as long as its stride."""
        return Span(self.low // factor, self.high // factor)

    def up_overlapping(self, factor: int) -> Span:
        """Up-convolution with a kernel of factor + 2, padded by 1: input i reaches outputs f i - 1 to f i + f."""
        return Span(-((factor - self.low) // factor), (self.high + 1) // factor)

    def up_linear(self, factor: int) -> Span:
        """Linear interpolation by an even factor, voxel centres at half numbers."""
        return Span((2 * self.low + 1 - factor) // (2 * factor), (2 * self.high + 1 - factor) // (2 * factor) + 1)

    def union(self, other: Span) -> Span:
        """All voxels from the first to the last of both."""
        return Span(min(self.low, other.low), max(self.high, other.high))


def radius(behind: Callable[[Span], Span], period: int) -> int:
    """The largest distance between an output voxel and an input voxel that it depends on.

    behind: the input voxels behind output voxels. period: of the network's pooling grid, on which places differ.
    """
    reached = [(voxel, behind(Span(voxel, voxel))) for voxel in range(period)]
    return max(max(voxel - span.low, span.high - voxel) for voxel, span in reached)


def u_shaped_radius(depth: int, *, block: int, factor: int = 2, ends: int = 0) -> int:
    """The radius of a U-Net with skips at every level.

    depth: number of poolings. block: reach of the convolutions of one level. factor: of pooling; 1 for none.
    ends: reach of the convolutions before the first and after the last level.
    """

    def analysis(level: int, span: Span) -> Span:
        span = span.convolution(2 * block + 1)
        return span if level == 0 else analysis(level - 1, span.pooling(factor))

    def synthesis(level: int, span: Span) -> Span:
        if level == depth:
            return analysis(level, span)
        span = span.convolution(2 * block + 1)
        return analysis(level, span).union(synthesis(level + 1, span.up(factor)))

    outer = 2 * ends + 1
    return radius(lambda span: synthesis(0, span.convolution(outer)).convolution(outer), factor**depth)
