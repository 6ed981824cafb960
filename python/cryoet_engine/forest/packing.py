# SPDX-License-Identifier: MIT
"""scikit-learn's trees as the tables that the native forest reads, and their out-of-bag error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from ..volume import Float32Array

LEAF = 255
_MAX_NODES = 1 << 24  # of a tree: children are stored in 24 bits

Tables = dict[str, npt.NDArray[Any]]


def pack(trained: Any) -> dict[str, npt.NDArray[Any]]:
    """scikit-learn's trees as 8-byte nodes, breadth first, children side by side (csrc/voxel/tree_node.h)."""
    n_features = int(trained.n_features_in_)
    if n_features > LEAF:
        raise input_error("PixelClassifier", "forest", expected=f"at most {LEAF} features", got=n_features)
    thresholds, links, sizes = [], [], []
    tables, rows = [], []  # of each tree: its different leaves, and which of them each leaf is
    first_leaf = first_row = 0
    for estimator in trained.estimators_:
        tree = estimator.tree_
        order, child = _breadth_first(tree.children_left, tree.children_right)
        if len(order) > _MAX_NODES:
            raise input_error("PixelClassifier", "tree", expected=f"at most {_MAX_NODES} nodes", got=len(order))
        inner = child >= 0
        exact = tree.threshold[order]
        rounded = exact.astype(np.float32)
        # Rounded down: for every float32 x, x <= rounded exactly where x <= exact.
        rounded = np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
        leaves = np.cumsum(~inner) - 1 + first_leaf
        target = np.where(inner, child, leaves)
        feature = np.where(inner, tree.feature[order], LEAF)
        links.append((target.astype(np.int64) << 8 | feature).astype(np.int64))
        thresholds.append(np.where(inner, rounded, np.float32(0)).astype(np.float32))
        # Tree by tree: sorting all leaves at once takes a tenth of a second in which no other thread of Python runs.
        different, which = np.unique(tree.value[order[~inner], 0, :].astype(np.float64), axis=0, return_inverse=True)
        tables.append(different)
        rows.append(which.ravel() + first_row)
        first_row += len(different)
        first_leaf += int(np.count_nonzero(~inner))
        sizes.append(len(order))
    table, of_row = np.unique(np.concatenate(tables), axis=0, return_inverse=True)
    row = of_row.ravel()[np.concatenate(rows)]
    if len(table) > _MAX_NODES:
        raise input_error(
            "PixelClassifier", "forest", expected=f"at most {_MAX_NODES} different leaves", got=len(table)
        )
    link = np.concatenate(links)
    is_leaf = (link & LEAF) == LEAF
    link[is_leaf] = row[link[is_leaf] >> 8] << 8 | LEAF
    return {
        "thresholds": np.concatenate(thresholds),
        "links": link.astype(np.uint32),
        "tree_start": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "leaves": np.ascontiguousarray(table),
        "n_features": np.array([n_features], np.int64),
    }


def _breadth_first(
    left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """scikit-learn's node at each new position, and the new position of its left child (-1: a leaf)."""
    order, child = [], []
    level, end = np.zeros(1, np.int64), 1
    while level.size:
        inner = left[level] >= 0
        position = np.full(level.size, -1, np.int64)
        position[inner] = end + 2 * np.arange(np.count_nonzero(inner))
        order.append(level)
        child.append(position)
        level = np.stack([left[level[inner]], right[level[inner]]], axis=1).ravel()
        end += level.size
    return np.concatenate(order), np.concatenate(child)


def out_of_bag_error(trained: Any, samples: Float32Array, labels: npt.NDArray[np.int64]) -> float:
    """Share of samples that most of the trees which did not train on them get wrong (Breiman 2001, section 3.1)."""
    votes = np.zeros((len(samples), len(trained.classes_)))
    for tree, drawn in zip(trained.estimators_, trained.estimators_samples_, strict=True):
        unseen = np.ones(len(samples), bool)
        unseen[drawn] = False
        if unseen.any():
            votes[unseen] += tree.tree_.predict(samples[unseen])
    judged = votes.sum(axis=1) > 0
    if not judged.any():
        return math.nan
    return float(np.mean(trained.classes_[votes[judged].argmax(axis=1)] != labels[judged]))
