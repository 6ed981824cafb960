# SPDX-License-Identifier: MIT
"""What a forest holds, as facts and as a report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _report

if TYPE_CHECKING:
    from ..forest import PixelClassifier


def facts(forest: PixelClassifier) -> dict[str, Any]:
    """Plain values: classes, samples, out-of-bag error, features and their importance, the training tomogram."""
    spec, training, importance = forest.spec, forest.training, forest.importance
    found: dict[str, Any] = {
        "kind": "forest",
        "classes": list(forest.classes),
        "trees": forest.n_trees,
        "features": forest.n_features,
        "convention": spec.compat,
        "filters": list(spec.filters),
        "scales, voxels": list(spec.scales),
        "extra channels": list(forest.extra),
        "out-of-bag error": None if math.isnan(forest.oob_error) else round(forest.oob_error, 5),
    }
    if spec.only is not None:
        found["channels"] = [f"{name} {scale:g}" for name, scale in spec.only]
    if training is not None:
        found |= {
            "labelled voxels": dict(zip(forest.classes, training.samples, strict=True)),
            "trained at voxel size (z, y, x), A": [round(size, 4) for size in training.voxel_size_A],
            "voxel size is": training.voxel_size_status,
            "trained on grey values: mean, std": [float(f"{value:.6g}") for value in (training.mean, training.std)],
            "trained by cryoet-engine": training.package,
        }
    if importance is not None:
        found["importance"] = {
            "by filter": _rounded(importance.by_filter()),
            "by scale": _rounded({name or "extra": value for name, value in importance.by_scale().items()}),
            "by channel": _rounded(dict(zip(importance.channels, importance.impurity, strict=True))),
            "rise of error without filter": _rounded(importance.error_without_filter),
            "rise of error without scale": _rounded(
                {name or "extra": value for name, value in importance.error_without_scale.items()}
            ),
        }
    return found


def _rounded(values: Any) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def as_text(found: dict[str, Any]) -> str:
    """The facts for a terminal, importances as a table."""
    plain = {name: value for name, value in found.items() if name != "importance"}
    lines = [f"{name:<36}{_one_line(value)}" for name, value in plain.items()]
    return "\n".join([*lines, "", *_importance_tables(found)])


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {n}" for name, n in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not known" if value is None else str(value)


def _importance_tables(found: dict[str, Any]) -> list[str]:
    shares = found.get("importance")
    if shares is None:
        return []
    tables = []
    for of in ("filter", "scale"):
        rises = shares[f"rise of error without {of}"]
        rows = [[name, f"{share:.1%}", f"{rises[name]:+.2%}"] for name, share in shares[f"by {of}"].items()]
        tables.append(_report.table([of, "decrease in impurity", "rise of a tree's error without"], rows))
    return tables


def write_report(path: Path, forest: PixelClassifier) -> None:
    """The facts as .json or .md."""
    from .. import io

    found = facts(forest)
    with io.partial_path(path) as partial:
        if path.suffix.lower() == ".json":
            partial.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
            return
        lines = [f"- {name}: {_one_line(value)}" for name, value in found.items() if name not in ("importance", "kind")]
        title = f"# Forest of {forest.n_trees} trees"
        partial.write_text("\n\n".join([title, "\n".join(lines), *_importance_tables(found)]) + "\n")
