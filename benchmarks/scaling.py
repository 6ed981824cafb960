# SPDX-License-Identifier: MIT
"""How `cryoet pseudolabel` grows, file to file: with voxels, trees, classes and threads; seconds and peak memory.

`python benchmarks/scaling.py [--results DIR] [--quick] [--paper-size]`: JSON and a plot. The tomogram is the first of
the demo, reflected to the size wanted; the forest is trained on its strokes. Every run is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import cryoet_engine as ce
import harness
from cryoet_engine import io
from cryoet_engine.simulate import demo_recipes, draw_strokes, simulate_virions

PAPER = (227, 1440, 1024)  # (z, y, x), paper 1's volume
MIDDLE = (64, 192, 256)
MEMORY = "4G"


def enlarged(volume: ce.Volume, shape: tuple[int, int, int], path: Path) -> Path:
    """`volume` reflected to `shape`, as an MRC file written slice by slice."""
    at = [
        np.pad(np.arange(n), (0, max(0, m - n)), mode="reflect")[:m] for n, m in zip(volume.shape, shape, strict=True)
    ]
    source = volume.numpy()
    with io.create_volume(path, shape, dtype=np.float32, grid=volume.grid()) as out:
        for z in range(shape[0]):
            out[z : z + 1] = source[at[0][z]][np.ix_(at[1], at[2])][None]
    return path


# The command in a process that tells its own peak: what the system records of a child begins with its parent's.
_RUN = """
import sys
from cryoet_engine.cli import main
status = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
sys.exit(status)
"""


def timed(tomogram: Path, forest: Path, folder: Path, threads: int) -> tuple[float, float]:
    """Wall-clock seconds, start of Python included, and peak resident memory (GB) of one run of the command."""
    command = [sys.executable, "-c", _RUN, "pseudolabel", str(tomogram), "--forest", str(forest)]
    command += ["-o", str(folder / "soft.zarr"), "--memory", MEMORY]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return seconds, int(done.stdout) * 1024 / 1e9


def forests(folder: Path, tomogram: ce.Volume, truth: ce.Volume) -> dict[tuple[int, int], Path]:
    """Forests by (trees, classes): the demo's four, merged to two, or split by depth to eight and sixteen."""
    strokes = draw_strokes(truth, tomogram=tomogram).numpy()
    out = {}
    z = np.arange(strokes.shape[0])[:, None, None] // max(1, -(-strokes.shape[0] // 4))
    labels = {
        2: np.where(strokes > 0, 1 + (strokes > 1), 0),
        4: strokes,
        8: np.where(strokes > 0, strokes + 4 * (z >= 2), 0),
        16: np.where(strokes > 0, strokes + 4 * z, 0),
    }
    for trees, classes in [(10, 4), (30, 4), (100, 4), (300, 4), (1000, 4), (100, 2), (100, 8), (100, 16)]:
        _, packed = np.unique(labels[classes], return_inverse=True)
        marks = tomogram.with_data(packed.reshape(strokes.shape).astype(np.uint8))
        path = folder / f"forest_{trees}_{classes}.safetensors"
        ce.PixelClassifier(trees).fit(tomogram, marks).save(path)
        out[trees, classes] = path
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    parser.add_argument("--quick", action="store_true", help="small and few: does it run at all?")
    parser.add_argument("--paper-size", action="store_true", help=f"also {PAPER}, minutes")
    args = parser.parse_args()
    middle = (16, 96, 96) if args.quick else MIDDLE
    sizes = [middle] if args.quick else [(32, 96, 128), (64, 96, 128), (64, 192, 128), MIDDLE, (128, 288, 256)]
    if args.paper_size:
        sizes.append(PAPER)
    cores = len(os.sched_getaffinity(0))
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        made = simulate_virions(demo_recipes()[0])
        forest = forests(folder, made.tomogram, made.truth)

        def run(what: str, value: int, shape: tuple[int, int, int], trees: int, classes: int, threads: int) -> None:
            tomogram = folder / "x".join(map(str, shape))
            tomogram = tomogram.with_suffix(".mrc")
            if not tomogram.exists():
                enlarged(made.tomogram, shape, tomogram)
            seconds, memory = timed(tomogram, forest[trees, classes], folder, threads)
            voxels = int(np.prod(shape))
            rows.append(
                {"grows": what, "value": value, "shape": shape, "trees": trees, "classes": classes, "threads": threads,
                 "seconds": round(seconds, 2), "peak_memory_GB": round(memory, 3),
                 "mvoxel_per_s": round(voxels / seconds / 1e6, 3)}
            )  # fmt: skip
            print(rows[-1], flush=True)

        for trees in (10, 30, 100, 300, 1000):
            run("trees", trees, middle, trees, 4, cores)
        for classes in (2, 4, 8, 16):
            run("classes", classes, middle, 100, classes, cores)
        for threads in sorted({1, *(2**k for k in range(1, 8) if 2**k <= cores), cores}):
            run("threads", threads, middle, 100, 4, threads)
        for shape in sizes:
            run("voxels", int(np.prod(shape)), shape, 100, 4, cores)
    print(harness.record("pseudolabel_scaling", rows, args.results))
    plot(rows, args.results / "pseudolabel_scaling.png")
    return 0


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel a quantity that grows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    for panel, what in zip(panels, ("voxels", "trees", "classes", "threads"), strict=True):
        chosen = sorted((row["value"], row["seconds"]) for row in rows if row["grows"] == what)
        panel.plot(*zip(*chosen, strict=True), "o-", color="tab:blue")
        panel.set(xlabel=what, ylabel="seconds, file to file")
        if what in ("voxels", "trees"):
            panel.set(xscale="log", yscale="log")
        else:
            panel.set(ylim=(0, None), xticks=[value for value, _ in chosen])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")
        panel.grid(alpha=0.3, which="both")
    figure.suptitle("cryoet pseudolabel: 61 channels, 100 trees and 4 classes unless varied", fontsize=10)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
