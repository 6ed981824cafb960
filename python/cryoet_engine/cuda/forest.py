# SPDX-License-Identifier: MIT
"""A packed forest on a card: its tables, and the launch that classifies a slab (csrc/ops/forest.cu)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .device import Device, Launch, Triple, allocated
from .features import Channels, across, aligned
from .structures import ForestJob, triple

_LEAF = 255
_WARP = (2, 4, 4)  # voxels (z, y, x)
_BRICKS = ((1, 2, 2), (1, 1, 2), (1, 1, 1))  # warps of a block: as many as shared memory has room for


@dataclass(frozen=True)
class CardTables:
    """A forest as the kernel reads it, from the tables of `forest.packing` (or of any sound packed forest).

    Where every leaf is pure, a leaf's child is its class and votes are counted; else it is a row of `leaves`.
    """

    nodes: npt.NDArray[Any]
    tree_start: npt.NDArray[np.int32]
    share: npt.NDArray[np.float32]
    leaves: npt.NDArray[np.float64]
    n_features: int
    pure: bool

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.leaves.shape[1])

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.tree_start) - 1

    @property
    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self.nodes, self.tree_start, self.share, self.leaves

    @property
    def n_bytes(self) -> int:
        """On the card."""
        return sum(aligned(one.nbytes) for one in self._arrays)

    @classmethod
    def of(cls, tables: Mapping[str, npt.NDArray[Any]]) -> CardTables:
        """From the packed tables of a classifier."""
        leaves, links = np.ascontiguousarray(tables["leaves"], np.float64), tables["links"]
        pure = bool((np.count_nonzero(leaves, axis=1) == 1).all() and (leaves.max(axis=1) == 1.0).all())
        if pure:
            is_leaf = (links & _LEAF) == _LEAF
            voted = leaves.argmax(axis=1).astype(np.uint32)[np.where(is_leaf, links >> 8, 0)]
            links = np.where(is_leaf, voted << np.uint32(8) | np.uint32(_LEAF), links)
        nodes = np.empty(len(links), [("threshold", np.float32), ("link", np.uint32)])
        nodes["threshold"], nodes["link"] = tables["thresholds"], links
        n_trees = len(tables["tree_start"]) - 1
        share = (np.arange(n_trees + 1) / n_trees).astype(np.float32)
        start = tables["tree_start"].astype(np.int32)
        return cls(nodes, start, share, leaves, int(tables["n_features"][0]), pure)

    def brick(self, shared_bytes: int) -> Triple:
        """Warps of a block along (z, y, x): features of all its voxels lie in shared memory."""
        for warps in _BRICKS:
            if self.shared(warps) <= shared_bytes:
                return warps
        return _BRICKS[-1]

    def shared(self, warps: Triple) -> int:
        """Bytes of shared memory of a block."""
        return 4 * self.n_features * 32 * warps[0] * warps[1] * warps[2]


@dataclass(frozen=True)
class CardForest:
    """Tables that lie on a card."""

    tables: CardTables
    addresses: tuple[int, int, int, int]
    warps: Triple

    def launch(self, features: Channels, shape: Triple, out: int, dtype: npt.DTypeLike) -> Launch:
        """Probabilities [class][z][y][x] of a box of voxels to address `out`: float32, uint8 or uint16."""
        tables, kind = self.tables, np.dtype(dtype)
        nodes, tree_start, share, leaves = self.addresses
        job = ForestJob(
            features.address, features.stride, triple(shape), tables.n_features, nodes, tree_start, tables.n_trees,
            tables.n_classes, share, leaves, out, np.iinfo(kind).max if kind.kind == "u" else 0, triple(self.warps),
        )  # fmt: skip
        most = next(n for n in (4, 16, 255) if tables.n_classes <= n)
        kernel = f"forest_{'vote' if tables.pure else 'add'}_{most}"
        grid = [across(n, w * v) for n, w, v in zip(shape, self.warps, _WARP, strict=True)]
        threads = 32 * self.warps[0] * self.warps[1] * self.warps[2]
        return Launch(
            "forest", kernel, (grid[2], grid[1], grid[0]), (threads, 1, 1), job, tables.shared(self.warps)
        )  # fmt: skip


@contextmanager
def on_card(device: Device, tables: CardTables) -> Iterator[CardForest]:
    """The forest on the card, for as long as it is needed."""
    with allocated(device, tables.n_bytes) as base:
        stream, addresses = device.stream(), []
        for one in tables._arrays:
            addresses.append(base)
            device.upload(one, base, stream)
            base += aligned(one.nbytes)
        device.finish(device.mark(stream))
        nodes, tree_start, share, leaves = addresses
        yield CardForest(tables, (nodes, tree_start, share, leaves), tables.brick(device.shared_bytes))
