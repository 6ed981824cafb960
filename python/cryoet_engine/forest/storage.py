# SPDX-License-Identifier: MIT
"""Saved classifiers: safetensors tables and a JSON header; nothing is unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from typing import Any

import numpy as np

from .._checks import FileFormatError, file_error
from ..features import FeatureSpec
from ..volume import Triple
from .importance import FeatureImportance, groups_of
from .packing import Tables

FORMAT = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What a classifier knows of the tomogram it was trained on.

    mean, std: of its voxels. voxel_size_A: (z, y, x), Å. offset: the constant that the features subtract first (see
    `FeatureSource`). samples: labelled voxels of each class. package: version that trained it.
    """

    mean: float
    std: float
    voxel_size_A: Triple
    voxel_size_status: str
    offset: float
    samples: tuple[int, ...]
    package: str


def checksum(header: str, tables: Tables) -> str:
    """SHA-256 of a saved forest's header (its JSON text) and tables: a changed byte is noticed, wherever it stands."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tables):
        table = np.ascontiguousarray(tables[name])
        digest.update(f"{name} {table.dtype.str} {table.shape}".encode())
        digest.update(table.tobytes())
    return digest.hexdigest()


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Tables]:
    """Header and tables of a saved forest; FileFormatError for anything else."""
    from safetensors import SafetensorError, safe_open

    kind = "a forest saved by cryoet-engine (safetensors)"
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            names = sorted(file.keys())
            tables = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise file_error(path, "file", expected=kind, got="no such file") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise file_error(path, "file", expected=kind, got=f"another file, or a damaged one ({error})") from error
    try:
        header = json.loads(metadata["cryoet-engine forest"])
        form = int(header["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise file_error(path, "file", expected=kind, got="a safetensors file of something else") from error
    if form != FORMAT:
        raise FileFormatError(
            f"{path}: format: expected version {FORMAT}, got {form}; "
            + ("install a newer cryoet-engine" if form > FORMAT else "train and save the forest again")
        )
    if metadata.get("sha256") != checksum(metadata["cryoet-engine forest"], tables):
        raise file_error(
            path, "checksum", expected="that of its content", got="another: the file was changed or damaged",
            fix="train and save the forest again",
        )  # fmt: skip
    wanted = {"thresholds": "f4", "links": "u4", "tree_start": "i8", "leaves": "f8", "n_features": "i8"}
    for name, dtype in wanted.items():
        dimensions = 2 if name == "leaves" else 1
        if name not in tables or tables[name].dtype != np.dtype(dtype) or tables[name].ndim != dimensions:
            raise file_error(path, f"table {name}", expected=f"{dtype}, {dimensions}D", got="another or none")
    return header, {name: tables[name] for name in wanted}


def spec_from(record: dict[str, Any]) -> FeatureSpec:
    """The feature specification of a header."""
    only = record["only"] and tuple((name, scale) for name, scale in record["only"])
    return FeatureSpec(
        compat=record["compat"], filters=tuple(record["filters"]), scales=tuple(record["scales"]), only=only,
        planar=tuple(record.get("planar", ())),
    )  # fmt: skip


def importance_from(record: dict[str, Any], spec: FeatureSpec, extra: tuple[str, ...]) -> FeatureImportance:
    """The feature importance of a header, its numbers checked."""
    filters, scales = groups_of(spec, extra)
    impurity = tuple(float(value) for value in record["impurity"])
    rises = [
        {str(name): float(value) for name, value in record[f"error_without_{of}"].items()} for of in ("filter", "scale")
    ]
    if len(impurity) != len(filters) or not all(
        map(math.isfinite, (*impurity, *rises[0].values(), *rises[1].values()))
    ):
        raise ValueError("its importances do not fit its channels")
    return FeatureImportance(
        channels=(*spec.channel_names, *extra),
        filters=filters,
        scales=scales,
        impurity=impurity,
        error_without_filter=rises[0],
        error_without_scale=rises[1],
    )


def training_from(record: dict[str, Any]) -> TrainingRecord:
    """The training record of a header, its numbers checked."""
    numbers = [float(record[name]) for name in ("mean", "std", "offset")]
    z, y, x = (float(v) for v in record["voxel_size_A"])
    if not all(math.isfinite(v) for v in (*numbers, z, y, x)) or min(z, y, x) <= 0:
        raise ValueError("its record of the training tomogram has impossible numbers")
    return TrainingRecord(
        mean=numbers[0],
        std=numbers[1],
        offset=numbers[2],
        voxel_size_A=(z, y, x),
        voxel_size_status=str(record["voxel_size_status"]),
        samples=tuple(int(n) for n in record["samples"]),
        package=str(record["package"]),
    )
