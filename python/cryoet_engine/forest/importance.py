# SPDX-License-Identifier: MIT
"""Which features a forest leans on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..features import FeatureSpec
from ..volume import Float32Array

_ROWS = 1000  # out-of-bag samples of a tree that are permuted: over all trees that is plenty


@dataclass(frozen=True, kw_only=True)
class FeatureImportance:
    """How much each channel matters, in two ways.

    channels: names, in order. filters, scales: of each channel; an extra channel is its own filter, at scale "".
    impurity: mean decrease in Gini impurity of each channel, summing to 1. It shares what correlated channels know
        among them, so look at the sums `by_filter` and `by_scale`.
    error_without_filter, error_without_scale: mean rise of a tree's out-of-bag error when all channels of a filter, or
        of a scale, are shuffled together (Breiman 2001, section 10); near 0: the trees do as well without.
    """

    channels: tuple[str, ...]
    filters: tuple[str, ...]
    scales: tuple[str, ...]
    impurity: tuple[float, ...]
    error_without_filter: Mapping[str, float] = field(default_factory=dict)
    error_without_scale: Mapping[str, float] = field(default_factory=dict)

    def by_filter(self) -> dict[str, float]:
        """Decrease in impurity, summed over each filter's channels."""
        return self._sums(self.filters)

    def by_scale(self) -> dict[str, float]:
        """Decrease in impurity, summed over each scale's channels."""
        return self._sums(self.scales)

    def _sums(self, groups: tuple[str, ...]) -> dict[str, float]:
        sums = dict.fromkeys(groups, 0.0)
        for group, value in zip(groups, self.impurity, strict=True):
            sums[group] += value
        return sums


def importance_of(
    trained: Any, samples: Float32Array, labels: npt.NDArray[np.int64], spec: FeatureSpec, extra: tuple[str, ...]
) -> FeatureImportance:
    """The importance of a fitted scikit-learn forest's features; samples (n, C), labels: what it was fitted on."""
    filters, scales = groups_of(spec, extra)
    rises = _error_rises(trained, samples, labels, (filters, scales))
    return FeatureImportance(
        channels=(*spec.channel_names, *extra),
        filters=filters,
        scales=scales,
        impurity=tuple(float(value) for value in trained.feature_importances_),
        error_without_filter=rises[0],
        error_without_scale=rises[1],
    )


def groups_of(spec: FeatureSpec, extra: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The filter and the scale of each channel, by name."""
    filters = tuple(name for name, _ in spec.channel_sources)
    scales = tuple(f"{scale:g}" for _, scale in spec.channel_sources)
    return (*filters, *extra), (*scales, *("" for _ in extra))


def _error_rises(
    trained: Any, samples: Float32Array, labels: npt.NDArray[np.int64], groupings: tuple[tuple[str, ...], ...]
) -> list[dict[str, float]]:
    """For each grouping, the mean rise of a tree's out-of-bag error by shuffling one group of channels at a time."""
    columns = [
        {name: np.flatnonzero(np.array(groups) == name) for name in dict.fromkeys(groups)} for groups in groupings
    ]
    rises = [dict.fromkeys(groups, 0.0) for groups in columns]
    rng = np.random.default_rng(0)
    truth = np.searchsorted(trained.classes_, labels)
    judged = 0
    for tree, drawn in zip(trained.estimators_, trained.estimators_samples_, strict=True):
        unseen = rng.permutation(np.setdiff1d(np.arange(len(samples)), drawn))[:_ROWS]
        if len(unseen) < 2:
            continue
        judged += 1
        rows, right = samples[unseen], truth[unseen]
        other = samples[np.roll(unseen, 1)]  # a shuffle that leaves no sample where it was
        error = np.mean(tree.tree_.predict(rows).argmax(axis=1) != right)
        for groups, rise in zip(columns, rises, strict=True):
            for name, at in groups.items():
                shuffled = rows.copy()
                shuffled[:, at] = other[:, at]
                rise[name] += float(np.mean(tree.tree_.predict(shuffled).argmax(axis=1) != right) - error)
    return [{name: value / max(judged, 1) for name, value in rise.items()} for rise in rises]
