# SPDX-License-Identifier: MIT
"""Pixel classification on a card: features, forest, both streamed; bytes and operations beside. Called by gpu.py.

Times are wall clock, the least of some rounds, of work whose memory is there already; `kernels_s` adds up single
launches by kernel, each waited for, which tells where the time goes (and is more than the whole, for small volumes).
Bytes are what has to go through the card's memory if caches hold all that neighbours share; operations are float32,
a fused multiply-add two. benchmarks/cuda.md has where they come from.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from cryoet_engine import FeatureSpec, PixelClassifier, Volume
from cryoet_engine.cuda.arrays import Plan, measured
from cryoet_engine.cuda.device import CardArray, Device, Launch, allocated
from cryoet_engine.cuda.features import Channels, FeatureLaunches, Scratch, aligned
from cryoet_engine.cuda.forest import CardTables, on_card
from cryoet_engine.cuda.structures import Box, Field

Shape = tuple[int, int, int]
Row = dict[str, Any]

EDGES = (128, 256, 384, 512)
WHOLE = (500, 1440, 1024)
_STAGE_TWO_OPERATIONS = 750  # a voxel and scale, all filters: stencils 410, two eigenvalue problems of 170
_PASS_BYTES, _STAGE_TWO_READ = 8, 4


def tomogram(shape: Shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Nested shells in noise, as float32, and strokes of four classes."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.arange(n, dtype=np.float32) for n in shape)
    period = max(min(shape) / 2, 8.0)
    radius = sum(
        ((axis % period) - period / 2)[(slice(None),) + (None,) * (2 - i)] ** 2 for i, axis in enumerate((z, y, x))
    )
    truth = np.digitize(np.sqrt(radius), [0.2 * period, 0.3 * period, 0.4 * period]).astype(np.uint8)
    volume = np.float32(0.8) * truth + rng.standard_normal(shape, dtype=np.float32)
    marks = np.where(rng.random(shape) < min(1.0, 4000 / truth.size), 1 + truth, 0).astype(np.uint8)
    return volume, marks


def repeated(part: np.ndarray, shape: Shape) -> np.ndarray:
    """A volume of `shape` made of copies of `part`."""
    copies = [-(-n // m) for n, m in zip(shape, part.shape, strict=True)]
    return np.ascontiguousarray(np.tile(part, copies)[tuple(slice(n) for n in shape)])


def bytes_and_operations(spec: FeatureSpec) -> tuple[float, float]:
    """Of all channels of a voxel, two-stage: three passes and one sweep a scale."""
    scales = sorted({scale for _, scale in spec.channel_sources})
    sigmas = [math.sqrt(s * s - 1) if s > 1 else s for s in scales]
    taps = sum(3 * (2 * math.floor(3.5 * sigma + 0.5) + 1) for sigma in sigmas)
    moved = len(scales) * (3 * _PASS_BYTES + _STAGE_TWO_READ) + 4 * spec.n_channels
    return float(moved), float(2 * taps + _STAGE_TWO_OPERATIONS * sum(scale >= 0.5 for scale in scales))


def node_visits(tables: CardTables, rows: np.ndarray) -> float:
    """Mean number of nodes that a row visits in all trees."""
    feature, child = tables.nodes["link"] & 255, (tables.nodes["link"] >> 8).astype(np.int64)
    visits, lanes = 0, np.arange(len(rows))
    for first in tables.tree_start[:-1]:
        at, walking = np.full(len(rows), first, np.int64), np.ones(len(rows), bool)
        while walking.any():
            visits += int(np.count_nonzero(walking))
            walking &= feature[at] != 255
            right = rows[lanes, np.minimum(feature[at], rows.shape[1] - 1)] > tables.nodes["threshold"][at]
            at = np.where(walking, first + child[at] + right, at)
    return visits / len(rows)


def seconds(call: Callable[[], None], rounds: int) -> list[float]:
    """Wall-clock seconds of each round, after one that warms up."""
    call()
    out = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        out.append(time.perf_counter() - start)
    return out


def row(
    what: str, times: Sequence[float], voxels: int, *, moved: float = 0.0, operations: float = 0.0, **more: Any
) -> Row:
    """What was measured. moved, operations: bytes and float32 operations a voxel."""
    best = min(times)
    print(
        f"{what:<60}{best:>10.4f} s{voxels / best / 1e6:>12.1f} Mvoxel/s{1e12 * best / voxels:>10.1f} ps/voxel",
        flush=True,
    )
    return {
        "what": what,
        "best_s": best,
        "median_s": statistics.median(times),
        "all_s": list(times),
        "voxels": voxels,
        "mvoxel_per_s": voxels / best / 1e6,
        "bytes_per_voxel": moved,
        "operations_per_voxel": operations,
        "gb_per_s": moved * voxels / best / 1e9,
        "gflop_per_s": operations * voxels / best / 1e9,
        **more,
    }


class Prepared:
    """A plan with its memory on the card, to be run again and again."""

    def __init__(self, device: Device, plan: Plan, held: ExitStack) -> None:
        n_bytes, taps = measured(plan)
        self._device, self._stream = device, device.stream()
        scratch = held.enter_context(allocated(device, aligned(n_bytes + 1)))
        taps.base = held.enter_context(allocated(device, aligned(taps.n_bytes + 1)))
        self._values = taps.array()
        device.upload(self._values, taps.base, self._stream)
        self._launches: list[Launch] = list(plan(Scratch(scratch), taps))

    def run(self) -> None:
        for launch in self._launches:
            self._device.launch(launch, self._stream)
        self._device.finish(self._device.mark(self._stream))

    def by_kernel(self) -> dict[str, float]:
        spent: dict[str, float] = defaultdict(float)
        for launch in self._launches:
            start = time.perf_counter()
            self._device.launch(launch, self._stream)
            self._device.finish(self._device.mark(self._stream))
            spent[launch.kernel] += time.perf_counter() - start
        return dict(spent)


def features_and_forest(device: Device, classifier: PixelClassifier, shape: Shape, rounds: int) -> list[Row]:
    """All channels of a volume that lies on the card, and the forest on them."""
    spec, tables = classifier.spec, CardTables.of(classifier._tables)
    volume = device.adopt(tomogram(shape, 1)[0], np.float32)
    channels = device.empty((spec.n_channels, *shape), np.float32)
    out = device.empty((tables.n_classes, *shape), np.uint8)
    box, there = Box((0, 0, 0), shape), Channels(channels.address, math.prod(shape))
    plan = spec._plan(0.0)
    rows = []
    with ExitStack() as held:
        features = Prepared(
            device,
            lambda scratch, taps: FeatureLaunches(plan, Field(volume.address, box), box, there, scratch, taps),
            held,
        )
        moved, operations = bytes_and_operations(spec)
        times, kernels = seconds(features.run, rounds), features.by_kernel()
        what = f"features, {spec.n_channels} channels, {_text(shape)}"
        rows.append(row(what, times, box.voxels, moved=moved, operations=operations, kernels_s=kernels))
        forest = held.enter_context(on_card(device, tables))
        launch = forest.launch(there, shape, out.address, np.uint8)
        times = seconds(Prepared(device, lambda scratch, taps: (launch,), held).run, rounds)
        what = f"forest, {tables.n_trees} trees, {tables.n_classes} classes, {_text(shape)}"
        visits = node_visits(tables, _some_rows(channels))
        moved = 4 * spec.n_channels + tables.n_classes
        rows.append(row(what, times, box.voxels, moved=moved, node_visits_per_voxel=visits))
    return rows


def _some_rows(channels: CardArray) -> np.ndarray:
    flat = channels.native.reshape(channels.shape[0], -1)
    some = flat[:, :: max(1, flat.shape[1] // 2000)]
    return np.ascontiguousarray((some.get() if hasattr(some, "get") else np.asarray(some)).T)


def streamed(classifier: PixelClassifier, shape: Shape, rounds: int, folder: Path) -> list[Row]:
    """Reading, features, forest and writing: from memory to memory, and from file to file (numpy's memory maps)."""
    volume = repeated(tomogram((128,) * 3, 2)[0], shape)
    n_classes, voxels, rows = len(classifier.classes), math.prod(shape), []
    for kind in ("float32", "uint8"):
        given = volume if kind == "float32" else np.clip(40 * volume + 100, 0, 255).astype(np.uint8)
        result = np.empty((n_classes, *shape), np.uint8)
        files = folder / f"in_{kind}.npy", folder / f"out_{kind}.npy"
        np.save(files[0], given)

        def in_memory(given: np.ndarray = given, result: np.ndarray = result) -> None:
            classifier.predict_proba(Volume(given), out=result, device="cuda")

        def on_disk(files: tuple[Path, Path] = files) -> None:
            mapped = np.lib.format.open_memmap(files[1], "w+", np.uint8, (n_classes, *shape))
            classifier.predict_proba(Volume(np.load(files[0], mmap_mode="r")), out=mapped, device="cuda")
            mapped.flush()

        what = f"streamed, {classifier.n_trees} trees, {n_classes} classes, {_text(shape)} {kind}"
        moved = np.dtype(kind).itemsize + n_classes
        rows.append(row(f"{what}, memory to memory", seconds(in_memory, rounds), voxels, moved=moved))
        rows.append(row(f"{what}, file to file", seconds(on_disk, rounds), voxels, moved=moved))
        for file in files:
            file.unlink()
    return rows


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def measure(
    device: Device,
    *,
    edges: Sequence[int] = EDGES,
    whole: Shape = WHOLE,
    trees: int = 100,
    trained: int = 96,
    rounds: int = 5,
) -> list[Row]:
    """All of it. trained: edge of the volume on which the forest is trained, by the CPU."""
    classifier = PixelClassifier(trees).fit(*tomogram((trained,) * 3))
    rows = []
    for edge in edges:
        rows += features_and_forest(device, classifier, (edge,) * 3, rounds)
    with tempfile.TemporaryDirectory() as folder:
        rows += streamed(classifier, whole, max(1, rounds // 2), Path(folder))
    return rows
