# SPDX-License-Identifier: MIT
"""What a network costs and sees, found without computing anything: on tensors that have shapes but no voxels."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .network import Kind, Network
from .registry import create_model


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """Facts of a network of one input channel and two classes.

    n_weights: batch normalisation's left out. receptive_field: (z, y, x), input voxels from the first to the last that
    an output voxel (of a classifier: a voxel of the last feature map) can depend on. divisor: (z, y, x), of input
    lengths. memory_bytes: see `inference_memory`, of one cubic tile of `tile` voxels. source: the publications.
    """

    name: str
    preset: str
    kind: Kind
    n_weights: int
    receptive_field: tuple[int, int, int]
    divisor: tuple[int, int, int]
    tile: int
    memory_bytes: int
    source: str


def summarise(name: str, preset: str, *, tile: int = 128) -> ModelSummary:
    """Facts of a registered network; InputError for an unknown name or preset, or a tile that does not fit it."""
    with torch.device("meta"):
        model = create_model(name, preset=preset, out_channels=2)
    z, y, x = (2 * radius + 1 for radius in model.receptive_radius)
    return ModelSummary(
        name=name,
        preset=preset,
        kind=model.kind,
        n_weights=model.n_weights(),
        receptive_field=(z, y, x),
        divisor=model.divisor,
        tile=tile,
        memory_bytes=inference_memory(model, (tile,) * 3),
        source=model.source,
    )


def inference_memory(model: Network, shape: tuple[int, int, int]) -> int:
    """Bytes of float32 inference on one tile (z, y, x): weights, and the most that tensors take at one time.

    model: built on the meta device. Scratch memory inside a convolution comes on top; how much depends on the library.
    """
    held = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    weights = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
    was_training = model.training
    model.eval()
    with torch.inference_mode(), _LiveTensors() as live:
        model.probabilities(torch.empty((1, model.config.in_channels, *shape), device="meta"))
    model.train(was_training)
    peak: int = live.peak
    return weights + peak


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations make, from when they are made until nothing refers to them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        # Views and in-place operations give a storage that is known already.
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size
