# SPDX-License-Identifier: MIT
"""Tiled inference, ours beside MONAI's on the same network, tiles and weights; what it costs beside the network.

`python benchmarks/inference.py [--rounds N] [--edge N]` times and takes the peak of memory of each in a process of its
own. run.py has the times, gpu.py the kernels on a card.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import cryoet_engine as ce
import harness
from cryoet_engine.blending import SlabBlender
from cryoet_engine.cuda.device import CardArray, Device
from cryoet_engine.models import ModelConfig, Normalisation, SegmentationModel, register
from cryoet_engine.models.device import autocast
from cryoet_engine.tiling import tile_ramp, tile_shares, tile_starts
from gpu_pixel_classification import row, seconds
from harness import Contest

Shape = tuple[int, int, int]

OURS, MONAI, ALONE = "cryoet-engine", "MONAI", "the network alone"
PAIRS = f"{OURS}, uint8, two tiles at a time (default)"
CLASSES = 4
NETWORKS = ("1x1x1", "unet3d small")


@register("benchmark_1x1x1")
class _Pointwise(SegmentationModel):
    """As cheap as a network can be: what is not the network shows."""

    presets = ("full",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layer = nn.Conv3d(config.in_channels, config.out_channels, 1)
        self.divisor, self.receptive_radius = (1, 1, 1), (0, 0, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def network(name: str) -> SegmentationModel:
    torch.manual_seed(0)
    registered, preset = ("benchmark_1x1x1", "full") if name == "1x1x1" else ("unet3d", "small")
    model = ce.create_model(registered, preset=preset, out_channels=CLASSES, activation="softmax").eval()
    return model.to(memory_format=torch.channels_last_3d)


def tomogram(shape: Shape) -> ce.Volume:
    return ce.Volume(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def ours(
    model: SegmentationModel, volume: ce.Volume, tile: int, overlap: int, dtype: str = "float32", batch: int = 1
) -> np.ndarray:
    how: dict[str, Any] = {"tile": tile, "overlap": overlap, "batch": batch}
    return ce.segment(model, volume, blend="plain", dtype=dtype, device="cpu", **how).data


def theirs(model: SegmentationModel, volume: ce.Volume, tile: int, overlap: int, batch: int = 1) -> np.ndarray:
    """MONAI's sliding window with the paper's ramps as its map of weights. float32, as it gives no other; on a card
    tiles go there, and the volume and its result stay in the host's memory.
    """
    from monai.inferers import sliding_window_inference

    # A tile with neighbours on both sides. At the volume's border, where ours has no ramp, MONAI's map of counts
    # divides by it.
    ramp = tile_ramp(10 * tile, [tile], tile, overlap, 0)
    weights = torch.from_numpy(ramp[:, None, None] * ramp[:, None] * ramp)
    voxels = Normalisation.measure(volume, "zscore")(volume.numpy())
    there = next(model.parameters()).device
    with torch.inference_mode(), autocast(there, there.type == "cuda"):
        found = sliding_window_inference(
            torch.from_numpy(voxels)[None, None],
            (tile,) * 3,
            batch,
            lambda x: model.probabilities(x.contiguous(memory_format=torch.channels_last_3d)),
            overlap=overlap / tile,
            roi_weight_map=weights[None, None],
            sw_device=there,
            device=torch.device("cpu"),
        )
    return found[0].numpy()


def alone(model: SegmentationModel, volume: ce.Volume, tile: int, overlap: int) -> None:
    """The same tiles through the network, and nothing else."""
    starts = [tile_starts(n, tile, overlap) for n in volume.shape]
    x = torch.from_numpy(volume.data[:tile, :tile, :tile].copy())[None, None]
    x = x.contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        for _ in product(*starts):
            model.probabilities(x)


def contest(name: str, shape: Shape, tile: int = 64, overlap: int = 16) -> Contest:
    """Statistics of the volume, tiles, blending, whole result in memory."""
    model, volume = network(name), tomogram(shape)

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        error = float(np.abs(results[OURS] - results[MONAI]).max())
        stored = float(np.abs(results[f"{OURS}, uint8"] / 255 - results[MONAI]).max())
        if error > 2e-6 or stored > 0.5 / 255 + 2e-6:
            raise AssertionError(f"not the same: {error:.2e}, {stored:.2e}")
        return {MONAI: error, f"{OURS}, uint8": stored}

    entries: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(model, volume, tile, overlap),
        f"{OURS}, uint8": lambda: ours(model, volume, tile, overlap, "uint8"),
        PAIRS: lambda: ours(model, volume, tile, overlap, "uint8", 2),
        MONAI: lambda: theirs(model, volume, tile, overlap),
        ALONE: lambda: alone(model, volume, tile, overlap),
    }
    text = f"tiled inference, {name}, {' x '.join(map(str, shape))}, tiles of {tile}"
    return Contest(text, entries, volume.data.size, parity, f"{CLASSES} classes, overlap {overlap}, plain ramps")


def peak(entry: str, shape: Shape, tile: int, overlap: int) -> float:
    """MiB that a process takes at most for a volume of `shape`, beyond what it holds before, the volume included."""
    model = network("1x1x1")
    work = {OURS: ours, f"{OURS}, uint8": lambda *rest: ours(*rest, "uint8"), MONAI: theirs}[entry]

    def resident(which: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024

    work(model, tomogram((tile,) * 3), tile, overlap)
    volume = tomogram(shape)
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = resident("VmRSS")
    work(model, volume, tile, overlap)
    return resident("VmHWM") - before


def peaks(shape: Shape, tile: int, overlap: int) -> dict[str, float]:
    found = {}
    for entry in (OURS, f"{OURS}, uint8", MONAI):
        arguments = [str(n) for n in (*shape, tile, overlap)]
        command = [sys.executable, str(Path(__file__)), "--peak-of", entry, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[entry] = float(done.stdout.split()[-1])
    return found


def on_card(
    device: Device, shape: Shape = (128, 1440, 1024), tile: int = 128, overlap: int = 32, rounds: int = 5
) -> list[dict[str, Any]]:
    """The kernels on a card: a layer of tiles added up, and its slices finished.

    Bytes of a voxel of the slab as in csrc/ops/blend.h: 12 a tile's voxel and class to add, then 8 and 1 to finish.
    """
    starts = [tile_starts(n, min(tile, n), min(overlap, n - 1)) for n in shape]
    edges = [min(tile, n) for n in shape]
    overlaps = [min(overlap, n - 1) for n in shape]
    shares = [tile_shares(n, *rest) for n, *rest in zip(shape, starts, edges, overlaps, strict=True)]
    values = np.random.default_rng(0).random((CLASSES, *edges), np.float32)
    there: CardArray = device.adopt(values, np.float32)
    chosen = list(product(*(range(len(one)) for one in starts)))
    with SlabBlender(CLASSES, shape, device=device) as blender, SlabBlender(CLASSES, shape) as truth:

        def add(to: SlabBlender, tile_of: Any) -> None:
            for k in chosen:
                weights = tuple(one[i] for one, i in zip(shares, k, strict=True))
                at = tuple(one[i] for one, i in zip(starts, k, strict=True))
                to.add(tile_of, (weights[0], weights[1], weights[2]), (at[0], at[1], at[2]))

        def finish(of: SlabBlender) -> np.ndarray:
            of.first = 0
            return of.finish(shape[0], dtype="float32")[0]

        add(blender, there.native)
        add(truth, values)
        error = float(np.abs(finish(blender) - finish(truth)).max())
        if error > 1e-6:
            raise AssertionError(f"not the CPU's: {error:.2e}")
        voxels = math.prod(shape)
        covered = len(chosen) * math.prod(edges) / voxels
        text = f"{' x '.join(map(str, shape))}, {len(chosen)} tiles"
        blender.first = 0
        times = seconds(lambda: add(blender, there.native), rounds)
        moved = 12.0 * CLASSES * covered
        rows = [row(f"blend, {text}", times, voxels, moved=moved, operations=3 * CLASSES * covered, error=error)]
        times = seconds(lambda: finish(blender), rounds)
        what = f"finish and download, {text}"
        return [*rows, row(what, times, voxels, moved=12.0 * CLASSES, operations=3.0 * CLASSES, error=error)]


def whole_tomogram(
    device: str, preset: str = "full", shape: Shape = (500, 1440, 1024), tile: int = 128, overlap: int = 32
) -> list[dict[str, Any]]:
    """`unet3d` over a tomogram of paper 1's size, uint8: ours, the network alone, MONAI where it is installed, and the
    floor: the network's operations at the rate of a large matrix product.
    """
    there = torch.device(device)
    model = network("unet3d small") if preset == "small" else ce.create_model("unet3d", out_channels=CLASSES)
    model = model.eval().to(there).to(memory_format=torch.channels_last_3d)
    starts = [tile_starts(n, min(tile, n), min(overlap, n - 1)) for n in shape]
    n_tiles = math.prod(len(one) for one in starts)
    x = torch.randn((1, 1, *(min(tile, n) for n in shape)), device=there)
    x = x.contiguous(memory_format=torch.channels_last_3d)

    def one_tile() -> None:
        with torch.inference_mode(), autocast(there, there.type == "cuda"):
            model.probabilities(x)

    def wait() -> None:
        if there.type == "cuda":
            torch.cuda.synchronize()

    def timed(call: Callable[[], Any]) -> float:
        wait()
        start = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - start

    with FlopCounterMode(display=False) as counter:
        one_tile()
    operations = counter.get_total_flops() * n_tiles
    edge, number = (8192, torch.bfloat16) if there.type == "cuda" else (1024, torch.float32)
    a = torch.randn((edge, edge), device=there, dtype=number)
    rate = 2 * edge**3 / min(timed(lambda: a @ a) for _ in range(5))
    volume = tomogram(shape)
    how: dict[str, Any] = {"tile": tile, "overlap": overlap, "device": device, "dtype": "uint8"}
    entries: dict[str, Callable[[], Any]] = {
        OURS: lambda: ce.segment(model, volume, **how),
        ALONE: lambda: [one_tile() for _ in range(n_tiles)],
    }
    if importlib.util.find_spec("monai"):
        entries[MONAI] = lambda: theirs(model, volume, min(tile, *shape), overlap, 4)
    rows = []
    for entry, call in entries.items():
        one_tile()
        took = min(timed(call) for _ in range(2))
        rows.append({"what": f"unet3d {preset}, {' x '.join(map(str, shape))}, {entry}", "seconds": took,
                     "floor_s": operations / rate, "times_the_floor": took * rate / operations,
                     "operations": operations, "measured_rate": rate, "tiles": n_tiles})  # fmt: skip
        print(f"{rows[-1]['what']:<64}{took:>9.2f} s, {rows[-1]['times_the_floor']:.2f} x the floor", flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 256, 256))
    parser.add_argument("--peak-of", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        entry, *numbers = args.peak_of
        z, y, x, tile, overlap = map(int, numbers)
        print(peak(entry, (z, y, x), tile, overlap))
        return 0
    for name in NETWORKS:
        print(harness.show(harness.measure(contest(name, tuple(args.shape)), args.rounds)), flush=True)
    for entry, mebibytes in peaks((96, 512, 512), 64, 16).items():
        print(f"peak memory, 96 x 512 x 512, {entry:<24}{mebibytes:>8.0f} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
