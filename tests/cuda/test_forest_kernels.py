# SPDX-License-Identifier: MIT
"""The CUDA kernels of csrc/ops/forest.cu, run by the emulation: the CPU's results, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from emulation.structures import I3, ForestJob, across, address

from cryoet_engine import _core
from cryoet_engine.volume import quantise

LEAF = 255
ONE_WARP, BRICK, WIDE = (1, 1, 1), (2, 2, 2), (1, 1, 4)  # warps of a brick; a warp is 2 x 4 x 4 voxels


def random_forest(n_trees, n_classes, n_features, *, pure, depth=6, seed=0):
    """Tables of a forest: thresholds, links, tree_start, leaves. Some trees are a single leaf."""
    rng = np.random.default_rng(seed)
    thresholds, features, children, start, leaves = [], [], [], [0], []
    for _ in range(n_trees):
        first = len(features)
        levels = [0]  # depth of each node, breadth first
        at = 0
        while at < len(levels):
            inner = levels[at] < depth and rng.random() < 0.85
            features.append(int(rng.integers(n_features)) if inner else LEAF)
            thresholds.append(rng.normal() if inner else 0.0)
            if inner:
                children.append(len(levels))
                levels += [levels[at] + 1] * 2
            else:
                children.append(len(leaves))
                one = np.eye(n_classes)[rng.integers(n_classes)]
                leaves.append(one if pure else rng.dirichlet(np.full(n_classes, 0.5)))
            at += 1
        start.append(first + len(levels))
    links = np.array(children, np.uint32) << 8 | np.array(features, np.uint32)
    return np.array(thresholds, np.float32), links, np.array(start, np.int64), np.array(leaves)


def on_the_cpu(tables, n_features, features):
    thresholds, links, start, leaves = tables
    forest = _core.Forest(thresholds=thresholds, links=links, tree_start=start, leaves=leaves, n_features=n_features)
    out = np.empty((leaves.shape[1], *features.shape[1:]), np.float32)
    forest.predict_channels(features, 1, out)
    return out


def on_the_card(kernels, kernel, tables, features, *, dtype=np.float32, warps=BRICK, seed=0):
    thresholds, links, start, leaves = tables
    n_classes = leaves.shape[1]
    share = None
    if "vote" in kernel:  # a leaf's child is its class
        leaf = links & 255 == LEAF
        links = np.where(
            leaf, leaves.argmax(axis=1).astype(np.uint32)[np.where(leaf, links >> 8, 0)] << 8 | LEAF, links
        )
        share = (np.arange(len(start)) / (len(start) - 1)).astype(np.float32)
    nodes = np.empty((len(links), 2), np.uint32)
    nodes[:, 0], nodes[:, 1] = thresholds.view(np.uint32), links
    first = start[:-1].astype(np.int32)
    shape = features.shape[1:]
    # A channel is longer than its voxels: what follows them belongs to the next slab.
    padded = np.full((len(features), math.prod(shape) + 5), np.nan, np.float32)
    padded[:, :-5] = features.reshape(len(features), -1)
    out = np.full((n_classes, *shape), 77, dtype)
    job = ForestJob(
        features=address(padded),
        channel=padded.shape[1],
        shape=I3(*shape),
        n_features=len(features),
        nodes=address(nodes),
        tree_start=address(first),
        n_trees=len(first),
        n_classes=n_classes,
        share=address(share),
        leaves=None if share is not None else address(leaves),
        out=address(out),
        out_unit={np.float32: 0, np.uint8: 255, np.uint16: 65535}[dtype],
        warps=I3(*warps),
    )
    threads = 32 * math.prod(warps)
    brick = (2 * warps[0], 4 * warps[1], 4 * warps[2])
    grid = tuple(map(across, shape, brick))[::-1]
    kernels.launch("forest", kernel, grid, (threads, 1, 1), 4 * threads * len(features), job, seed=seed)
    return out


def oracle(tables, features):
    """Each voxel by itself, each tree in order: float64, rounded once."""
    thresholds, links, start, leaves = tables
    rows = features.reshape(len(features), -1).T
    out = np.empty((leaves.shape[1], len(rows)))
    for i, row in enumerate(rows):
        total = np.zeros(leaves.shape[1])
        for first in start[:-1]:
            node = first
            while links[node] & 255 != LEAF:
                node = first + (links[node] >> 8) + (row[links[node] & 255] > thresholds[node])
            total += leaves[links[node] >> 8]
        out[:, i] = total / (len(start) - 1)
    return out.astype(np.float32).reshape(-1, *features.shape[1:])


def noise(n_features, shape, seed=0):
    return np.random.default_rng(seed).normal(size=(n_features, *shape)).astype(np.float32)


CASES = [
    (kernel, n_classes)
    for kind in ("vote", "add")
    for kernel, several in (
        (f"forest_{kind}_4", (2, 3, 4)),
        (f"forest_{kind}_16", (2, 5, 16)),
        (f"forest_{kind}_255", (17, 40, 255)),
    )
    for n_classes in several
]


@pytest.mark.parametrize(("kernel", "n_classes"), CASES)
@pytest.mark.parametrize(("n_trees", "seed"), [(1, 1), (3, 0), (4, 2), (5, 1), (6, 0), (7, 2), (9, 1)])
def test_bit_for_bit(kernels, kernel, n_classes, n_trees, seed):
    """Trees that are no multiple of four, bricks that stick out on every side."""
    features = noise(5, (3, 5, 9), n_trees)
    tables = random_forest(n_trees, n_classes, 5, pure="vote" in kernel, seed=n_classes)
    found = on_the_card(kernels, kernel, tables, features, seed=seed)
    assert np.array_equal(found, oracle(tables, features))
    assert np.array_equal(found, on_the_cpu(tables, 5, features))


@pytest.mark.parametrize("warps", [ONE_WARP, BRICK, WIDE])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 4), (5, 1, 17), (4, 8, 1), (4, 8, 16)])
@pytest.mark.parametrize("kernel", ["forest_vote_4", "forest_add_4"])
def test_bricks_and_shapes(kernels, kernel, shape, warps):
    features = noise(61, shape)
    tables = random_forest(13, 4, 61, pure="vote" in kernel, depth=9)
    found = on_the_card(kernels, kernel, tables, features, warps=warps, seed=1)
    assert np.array_equal(found, on_the_cpu(tables, 61, features))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("kernel", "n_classes"), [case for case in CASES if case[1] in (2, 16, 40)])
def test_whole_numbers(kernels, kernel, n_classes, dtype):
    features = noise(5, (2, 5, 9), 2)
    tables = random_forest(10, n_classes, 5, pure="vote" in kernel, seed=3)
    found = on_the_card(kernels, kernel, tables, features, dtype=dtype)
    assert np.array_equal(found, quantise(on_the_cpu(tables, 5, features), dtype))


def test_values_on_a_threshold_go_left(kernels):
    features = noise(2, (2, 4, 4))
    tables = random_forest(4, 2, 2, pure=True, seed=4)
    inner = tables[1] & 255 != LEAF
    tables[0][inner] = features[0, 0, 0, 0]
    features[0, 0, 0, 1:] = features[0, 0, 0, 0]
    found = on_the_card(kernels, "forest_vote_4", tables, features)
    assert np.array_equal(found, oracle(tables, features))


def test_more_trees_than_a_byte_counts(kernels):
    features = noise(3, (1, 3, 5))
    tables = random_forest(700, 3, 3, pure=True, depth=2)
    found = on_the_card(kernels, "forest_vote_4", tables, features)
    assert np.array_equal(found, on_the_cpu(tables, 3, features))
