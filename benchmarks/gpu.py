# SPDX-License-Identifier: MIT
"""What the card does for the main job: pixel classification, projection, blending, training steps, tiled inference.

`python benchmarks/gpu.py [--results DIR] [--edge N]`; run by `make gpu`. Pixel classification, projection and blending
need CuPy, the rest torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cryoet_engine as ce
import gpu_pixel_classification
import harness
import inference
import projection
from cryoet_engine._checks import CryoETError
from cryoet_engine.cuda.device import card
from cryoet_engine.training import TrainingSettings


def seconds(call: Callable[[], Any], rounds: int = 5) -> list[float]:
    """Wall-clock seconds of each round after one that warms up."""
    call()
    torch.cuda.synchronize()
    out = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        out.append(time.perf_counter() - start)
    return out


def row(what: str, times: list[float], voxels: int, note: str = "") -> dict[str, Any]:
    median = statistics.median(times)
    print(f"{what:<44}{median:>10.3f} s{voxels / median / 1e6:>10.2f} Mvoxel/s  {note}", flush=True)
    return {"what": what, "median_s": median, "all_s": times, "mvoxel_per_s": voxels / median / 1e6, "note": note}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=harness.RESULTS / "gpu")
    parser.add_argument("--edge", type=int, default=384, help="edge of the volume that is segmented")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: torch sees no card", file=sys.stderr)
        return 1
    try:
        print(harness.record("gpu_pixel_classification", gpu_pixel_classification.measure(card("gpu")), args.results))
    except CryoETError as error:
        print(f"gpu: pixel classification was not measured: {error}", file=sys.stderr)
    try:
        print(harness.record("gpu_projection", projection.on_card(card("gpu")), args.results))
    except CryoETError as error:
        print(f"gpu: projection was not measured: {error}", file=sys.stderr)
    try:
        print(harness.record("gpu_blending", inference.on_card(card("gpu")), args.results))
    except CryoETError as error:
        print(f"gpu: blending was not measured: {error}", file=sys.stderr)
    print(harness.record("gpu_inference", inference.whole_tomogram("cuda"), args.results))
    rng = np.random.default_rng(0)
    volume = ce.Volume(rng.standard_normal((args.edge,) * 3, dtype=np.float32))
    labels = volume.with_data(rng.integers(1, 5, volume.shape, dtype=np.uint8))
    rows = []
    for preset in ("small", "full"):
        model = ce.create_model("unet3d", preset=preset, out_channels=4)
        settings = TrainingSettings(patch=128, batch=4, patches_per_epoch=400, validation_share=0, device="cuda")
        steps = 10

        def train(model: Any = model, settings: Any = settings, steps: int = steps) -> None:
            ce.train(model, [(volume, labels)], steps=steps, settings=settings)

        rows.append(row(f"training, unet3d {preset}, batch 4 of 128^3", seconds(train, 3), steps * 4 * 128**3))

        def segment(model: Any = model) -> None:
            ce.segment(model, volume, tile=128, overlap=32, device="cuda")

        rows.append(row(f"segment, unet3d {preset}, {args.edge}^3", seconds(segment, 3), volume.data.size))
    path = harness.record("gpu", rows, args.results)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
