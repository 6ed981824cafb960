# SPDX-License-Identifier: MIT
"""Read a trained pixel classifier out of an ilastik project (.ilp, which is HDF5). Nothing in it is unpickled.

The layout, read from ilastik's and vigra's serialisers:
- `PixelClassification/ClassifierForests/Forest0000`, ...: vigra random forests, one a thread that trained. Their
  probabilities are averaged, weighted by their trees: the mean over all trees.
- `Forest0000/Tree_0/topology` (int32): features, classes, then nodes. A node is: type, address of its parameters, and
  if inner (type 0, a threshold): left child, right child, feature. `Tree_0/parameters` (float64): of a node its weight,
  then the threshold, or a leaf's share of each class. A feature goes left where it is *below* the threshold.
- `FeatureSelections`: names, scales, which of them (in that order the columns stand), and which in 2D.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import CryoETError, file_error
from ..features import FILTERS, FeatureSpec
from .packing import Tables, pack

_LEAF = 0x40000000  # of a node's type
_THRESHOLD, _SHARES = 0, _LEAF
_KIND = "an ilastik project with a trained Pixel Classification"


@dataclass(frozen=True, kw_only=True)
class IlastikForest:
    """What a project holds: the packed trees on the channels of `spec`, in its order, and the classes' names."""

    tables: Tables
    n_trees: int
    spec: FeatureSpec
    classes: tuple[str, ...]


def is_ilastik(path: str | os.PathLike[str]) -> bool:
    """Whether a path is called as ilastik calls its projects."""
    return Path(path).suffix.lower() == ".ilp"


def read_project(path: str | os.PathLike[str]) -> IlastikForest:
    """The classifier of a project.

    Errors: FileFormatError for a file that is damaged or none of ilastik's, a project without a trained classifier,
    with one that is not vigra's random forest, or on images of several channels.
    """
    import h5py

    try:
        with h5py.File(path, "r") as project:
            return _forest(path, project)
    except CryoETError:
        raise
    except FileNotFoundError as error:
        raise file_error(path, "file", expected=_KIND, got="no such file") from error
    except OSError as error:
        raise file_error(path, "file", expected=_KIND, got=f"no HDF5 file, or a damaged one ({error})") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise file_error(path, "project", expected=_KIND, got=f"a damaged one ({error})") from error


def _forest(path: Any, project: Any) -> IlastikForest:
    if "PixelClassification" not in project or "FeatureSelections" not in project:
        inside = ", ".join(sorted(project)) or "nothing"
        raise file_error(path, "project", expected=_KIND, got=f"one with {inside}")
    group = project["PixelClassification"].get("ClassifierForests")
    if group is None or not len(group):
        raise file_error(
            path, "classifier", expected="a trained one", got="none",
            fix="train it in ilastik (Live Update), and save the project",
        )  # fmt: skip
    names = sorted(name for name in group if re.fullmatch(r"Forest\d+", name))
    if not names:
        raise file_error(
            path, "classifier", expected="vigra's random forest (ilastik's default)",
            got="another kind, which only its own program can read", fix="choose the random forest, and train again",
        )  # fmt: skip
    columns, planar = _columns(path, project["FeatureSelections"], group.get("feature_names"))
    spec = FeatureSpec(only=tuple({(name, scale) for name, scale, _ in columns}), planar=planar)
    ours = {channel: i for i, channel in enumerate(_channels(spec))}
    order = np.array([ours[column] for column in columns])
    labels = np.asarray(group[names[0]]["_ext_param"]["labels"][()]).ravel()
    trees: list[SimpleNamespace] = []
    for name in names:
        external = group[name]["_ext_param"]
        n_features, n_classes = (int(external[f"{what}_count_"][0]) for what in ("column", "class"))
        if n_features != len(order):
            raise file_error(
                path, "classifier", expected=f"one trained on the {len(order)} channels of the selected features",
                got=f"one trained on {n_features}", fix="images of several channels are not supported",
            )  # fmt: skip
        if len(labels) != n_classes or not np.array_equal(np.asarray(external["labels"][()]).ravel(), labels):
            raise ValueError("its forests know different classes")
        options = group[name].get("_options")
        if options is not None and float(options["predict_weighted_"][0]) != 0:
            raise file_error(path, "classifier", expected="trees that vote alike", got="trees weighted by samples")
        found = sorted(one for one in group[name] if re.fullmatch(r"Tree_\d+", one))
        trees += [_tree(group[name][one], n_features, n_classes, order) for one in found]
    if not trees:
        raise ValueError("its forests have no trees")
    packed = pack(SimpleNamespace(n_features_in_=len(order), estimators_=trees))
    return IlastikForest(
        tables=packed, n_trees=len(trees), spec=spec, classes=_class_names(project["PixelClassification"], labels)
    )


def _channels(spec: FeatureSpec) -> list[tuple[str, float, int]]:
    """Filter, scale and eigenvalue of each of the spec's channels."""
    seen: dict[tuple[str, float], int] = {}
    out = []
    for source in spec.channel_sources:
        seen[source] = seen.get(source, -1) + 1
        out.append((*source, seen[source]))
    return out


def _columns(path: Any, selections: Any, feature_names: Any) -> tuple[list[tuple[str, float, int]], tuple[float, ...]]:
    """Filter, scale and eigenvalue of each column of ilastik's feature matrix: by filter, then scale, as listed.

    And the scales that are computed in 2D, which have two eigenvalues.
    """
    filters = [_text(name) for name in selections["FeatureIds"][()]]
    scales = [float(scale) for scale in selections["Scales"][()]]
    chosen = np.asarray(selections["SelectionMatrix"][()], dtype=bool)
    if chosen.shape != (len(filters), len(scales)) or not chosen.any():
        raise ValueError("its feature selection does not fit its features")
    unknown = sorted(set(filters) - set(FILTERS))
    if unknown:
        raise file_error(path, "features", expected=", ".join(FILTERS), got=", ".join(unknown))
    flat: npt.NDArray[np.bool_] = np.zeros(len(scales), bool)
    if "ComputeIn2d" in selections:
        flat = np.asarray(selections["ComputeIn2d"][()], dtype=bool).ravel()
    planar = tuple(scale for scale, one, used in zip(scales, flat, chosen.max(axis=0), strict=True) if one and used)
    names = [] if feature_names is None else [_text(name) for name in feature_names[()]]
    pairs = [(name, scale) for i, name in enumerate(filters) for j, scale in enumerate(scales) if chosen[i, j]]
    columns = [
        (name, scale, k)
        for name, scale in pairs
        for k in range(1 if not name.endswith("Eigenvalues") else 2 if scale in planar else 3)
    ]
    if names and not _agree(names, columns, planar):
        raise file_error(
            path, "features", expected="the classifier's own features still selected", got="another selection",
            fix="train the classifier again, and save the project",
        )  # fmt: skip
    return columns, planar


def _agree(names: list[str], columns: list[tuple[str, float, int]], planar: tuple[float, ...]) -> bool:
    """Whether names such as "Hessian of Gaussian Eigenvalues (σ=1.6) [0]" mean these columns."""
    if len(names) != len(columns):
        return False
    for name, (feature, scale, _) in zip(names, columns, strict=True):
        words, number = re.sub(r"\(.*", "", name), re.search(r"=\s*([0-9.]+)", name)
        if re.sub(r"\W", "", words).lower() != feature.lower() or number is None or float(number[1]) != scale:
            return False
        if (" in 2D" in name) != (scale in planar):
            return False
    return True


def _tree(group: Any, n_features: int, n_classes: int, order: npt.NDArray[np.intp]) -> SimpleNamespace:
    """One tree, level by level, under scikit-learn's names, which `packing.pack` reads."""
    topology = np.asarray(group["topology"][()]).ravel().astype(np.int64)
    parameters = np.asarray(group["parameters"][()]).ravel().astype(np.float64)
    if topology[:2].tolist() != [n_features, n_classes]:
        raise ValueError("a tree was made for other features or classes")
    levels = []
    level, seen, position = np.array([2]), 0, 0
    while level.size:
        seen += level.size
        if seen > len(topology):
            raise ValueError("a tree does not end")
        kind, at = _take(topology, level), _take(topology, level + 1)
        inner = kind == _THRESHOLD
        if not (inner | (kind == _SHARES)).all():
            raise ValueError("a tree has nodes of an unknown kind")
        n = level.size
        left, feature, threshold = np.full(n, -1), np.zeros(n, np.int64), np.zeros(n)
        shares = np.zeros((n, n_classes))
        position += n
        first = position + 2 * np.arange(int(inner.sum()))
        left[inner] = first
        column = _take(topology, level[inner] + 4)
        feature[inner] = _take(order, column)
        # Below the threshold goes left; ours goes left up to it, and rounds it down to float32.
        threshold[inner] = np.nextafter(_take(parameters, at[inner] + 1), -np.inf)
        shares[~inner] = _take(parameters, at[~inner, None] + 1 + np.arange(n_classes))
        if not np.allclose(shares[~inner].sum(axis=1), 1, atol=1e-6):
            raise ValueError("a leaf's shares do not sum to one")
        levels.append((left, np.where(left < 0, -1, left + 1), feature, threshold, shares))
        children = np.stack([_take(topology, level[inner] + 2), _take(topology, level[inner] + 3)], axis=1)
        level = children.ravel()
    left, right, feature, threshold, shares = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    tree = SimpleNamespace(
        children_left=left, children_right=right, feature=feature, threshold=threshold, value=shares[:, None, :]
    )
    return SimpleNamespace(tree_=tree)


def _take(values: npt.NDArray[Any], at: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values at positions, none of which may be negative or beyond the end."""
    if at.size and (at.min() < 0 or at.max() >= len(values)):
        raise ValueError("a tree points outside its tables")
    return np.asarray(values[at])


def _class_names(group: Any, labels: npt.NDArray[Any]) -> tuple[str, ...]:
    """Names of the labels that were drawn: labels count from 1 through all names, those never drawn included."""
    names = [_text(name) for name in group["LabelNames"][()]] if "LabelNames" in group else []
    chosen = [names[k - 1] if 0 < k <= len(names) else f"class_{k}" for k in labels.astype(int)]
    return tuple(chosen if len(set(chosen)) == len(chosen) else [f"class_{k}" for k in labels.astype(int)])


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
