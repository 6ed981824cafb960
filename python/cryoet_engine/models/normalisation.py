# SPDX-License-Identifier: MIT
"""Bringing tomograms of any grey scale to the one that networks are trained on.

The constants are those of the whole volume, measured once: constants of a tile would make it differ from the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from .._checks import input_error
from ..volume import Float32Array, Statistics, Volume, pieces, statistics

NormalisationKind: TypeAlias = Literal["minmax", "percentile", "zscore"]
_BINS = 1 << 16


@dataclass(frozen=True)
class Normalisation:
    """(voxel - offset) / scale."""

    offset: float
    scale: float

    def __call__(self, block: Float32Array) -> Float32Array:
        """Normalise a block of voxels, float32."""
        return (block - np.float32(self.offset)) / np.float32(self.scale)

    @classmethod
    def measure(cls, volume: Volume, kind: NormalisationKind) -> Normalisation:
        """Read the whole volume piece by piece and find its constants.

        kind: "minmax" to 0..1 (paper 1, section 4.4); "percentile": median to 0, the 1st and the 99th on average to
            -1 and 1; "zscore": mean 0, standard deviation 1.

        Errors: InputError for voxels that are NaN or infinite, or all the same.
        """
        if kind not in get_args(NormalisationKind):
            raise input_error("normalisation", "kind", expected=", ".join(get_args(NormalisationKind)), got=repr(kind))
        found = statistics(volume)
        if found.nonfinite:
            raise input_error(
                "normalisation",
                "volume",
                expected="finite voxels",
                got=f"{found.nonfinite} NaN or infinite",
                fix="replace them (--fill)",
            )
        if not found.max > found.min:
            raise input_error(
                "normalisation", "volume", expected="voxels that differ", got=f"all of value {found.min:g}"
            )
        if kind == "minmax":
            return cls(found.min, found.max - found.min)
        if kind == "zscore":
            return cls(found.mean, found.std)
        low, median, high = _percentiles(volume, found, (0.01, 0.5, 0.99))
        return cls(median, (high - low) / 2 or found.std)


def _percentiles(volume: Volume, found: Statistics, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Values below which these shares of voxels lie, to 1/65536 of ten standard deviations, streamed."""
    # Outliers (gold, dead pixels) must not coarsen the bins, so these span what is likely; the rest is clipped.
    low, high = max(found.min, found.mean - 5 * found.std), min(found.max, found.mean + 5 * found.std)
    counts = np.zeros(_BINS, np.int64)
    for piece in pieces(volume):
        plane = np.asarray(piece, dtype=np.float64)
        counts += np.bincount(
            np.clip((plane - low) * (_BINS / (high - low)), 0, _BINS - 1).astype(np.int64).ravel(), minlength=_BINS
        )
    total = np.cumsum(counts)
    bins = np.searchsorted(total, np.array(shares) * total[-1])
    return tuple(float(low + (b + 0.5) * (high - low) / _BINS) for b in bins)
