# SPDX-License-Identifier: MIT
"""Test-time augmentation: a tile in several orientations, their mean, and how much they disagree.

Mirrors and turns by 90 degrees move voxels and interpolate nothing. A turn about another axis than z would turn the
missing wedge, which no network has seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..models.network import SegmentationModel

TestTimeAugmentation: TypeAlias = Literal["none", "mirror", "turn", "all"]


@dataclass(frozen=True)
class Orientation:
    """Turned by `turns` times 90 degrees about z after mirroring along `mirrored` axes of (batch, channel, z, y, x)."""

    mirrored: tuple[int, ...]
    turns: int

    def apply(self, x: Tensor) -> Tensor:
        """A tile in this orientation."""
        return _turned(_flipped(x, self.mirrored), self.turns)

    def undo(self, x: Tensor) -> Tensor:
        """A result back in the tile's own."""
        return _flipped(_turned(x, -self.turns), self.mirrored)


def _flipped(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.flip(axes) if axes else x  # each would copy for nothing


def _turned(x: Tensor, turns: int) -> Tensor:
    return torch.rot90(x, turns, (3, 4)) if turns else x


def orientations(kind: TestTimeAugmentation) -> tuple[Orientation, ...]:
    """The orientations of a kind, the given one first.

    "mirror": the 8 of mirrors along z, y and x; "turn": the 4 turns about z; "all": the 16 of both.
    """
    along_z, along_y, along_x = (((), (axis,)) for axis in (2, 3, 4))
    match kind:
        case "none":
            return (Orientation((), 0),)
        case "turn":
            return tuple(Orientation((), turns) for turns in range(4))
        case "mirror":
            return tuple(Orientation(z + y + x, 0) for z, y, x in product(along_z, along_y, along_x))
        case "all":  # a mirror along y is one along x and half a turn
            return tuple(Orientation(z + x, turns) for z, x, turns in product(along_z, along_x, range(4)))


def mean_and_variance(
    model: SegmentationModel, x: Tensor, chosen: tuple[Orientation, ...], *, variance: bool
) -> tuple[Tensor, Tensor | None]:
    """Mean probabilities over orientations, and the mean over classes of their variance.

    x: (batch, 1, z, y, x). Returns: (batch, class, z, y, x), clamped to 0..1, and (batch, 1, z, y, x), divided by the
    number of orientations (Welford's recurrence: where all agree, the variance is 0 and the mean theirs to the bit).
    """
    mean = squares = torch.empty(0)
    for n, one in enumerate(chosen, start=1):
        there = one.apply(x).contiguous(memory_format=torch.channels_last_3d)
        found = one.undo(model.probabilities(there)).clamp_(0, 1)
        if n == 1:
            mean = found
            squares = torch.zeros_like(found) if variance else squares
            continue
        step = found - mean
        mean = mean + step / n
        if variance:
            squares += step * (found - mean)
    return mean, squares.mean(1, keepdim=True) / len(chosen) if variance else None
