# SPDX-License-Identifier: MIT
"""Volumes beside a soft segmentation (labels, uncertainty): in which type they are stored, and what their notes say."""

from __future__ import annotations

from pathlib import Path

from ._console import MAP_NOTE

_MEANING = {
    "entropy": "entropy of the classes over its maximum, 0 sure",
    "margin": "first minus second class, 0 torn",
    "variance": "variance over orientations, mean over classes, 0 sure",
}


def map_type(name: str, file: Path, dtype: str, n_classes: int) -> str:
    """MRC has no unsigned bytes: labels fit signed ones, and shares are then stored as 0..1."""
    if name == "labels":
        return "uint8" if file.suffix == ".zarr" else "int8" if n_classes < 128 else "int16"
    return dtype if file.suffix == ".zarr" and name != "variance" else "float32"


def map_notes(name: str, file: Path, dtype: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Notes by which the file is known as one of ours, and which name its labels."""
    if name == "labels":
        return (f"{MAP_NOTE} labels", *(f"label {k} {one}" for k, one in enumerate(classes, start=1)))
    import numpy as np

    from ..volume import probability_unit

    unit = probability_unit(np.dtype(map_type(name, file, dtype, len(classes))))
    return (f"{MAP_NOTE} {_MEANING[name]}, {unit:g} is one",)
