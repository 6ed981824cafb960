# SPDX-License-Identifier: MIT
"""What the folder of a trained network holds, as facts."""

from __future__ import annotations

import math
from typing import Any

from ..models import load_model


def facts(folder: str) -> dict[str, Any]:
    """Plain values: network, classes, what it was trained on and how, and how well it did on held-back voxels."""
    model, info = load_model(folder)
    settings, metrics = info.settings, info.metrics
    found: dict[str, Any] = {
        "kind": "network",
        "network": f"{model.config.name} {model.config.preset}",
        "weights": model.n_weights(),
        "classes": list(info.classes),
        "activation": model.config.activation,
        "voxel size (z, y, x), A": [round(size, 4) for size in info.voxel_size_A],
        "voxel size is": info.voxel_size_status,
        "normalisation": info.normalisation,
        "trained on": list(info.training_data),
        "shapes (z, y, x)": ["x".join(map(str, entry["shape"])) for entry in info.data_fingerprint],
        "labelled voxels": {
            name: sum(entry["voxels"][k] for entry in info.data_fingerprint) for k, name in enumerate(info.classes)
        }
        if info.data_fingerprint
        else None,
        "began with": info.initialised_from.get("name", "random weights"),
    }
    keys = (
        "steps",
        "batch",
        "accumulate",
        "processes",
        "patch",
        "loss",
        "targets",
        "learning_rate",
        "schedule",
        "seed",
    )
    found["training"] = {key: settings[key] for key in keys if key in settings}
    if metrics:
        found["best step"] = metrics.get("step")
        for name in ("f1", "iou"):
            if name in metrics:
                found[f"held-back {name}"] = dict(zip(info.classes, map(_rounded, metrics[name]), strict=True))
        for name in ("mean_f1", "weighted_f1", "mean_iou", "accuracy", "calibration_error", "loss"):
            if name in metrics:
                found[f"held-back {name.replace('_', ' ')}"] = _rounded(metrics[name])
    return found | {"trained by cryoet-engine": info.version}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
