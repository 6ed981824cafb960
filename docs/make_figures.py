# SPDX-License-Identifier: MIT
"""Remake the figures of docs/rendering.md: paper 1's figures 1, 7, 8, 9 and 10 of a simulated virion and the lysosome.

`make figures`. Data of the lysosome: the folder `CRYOET_TEST_DATA`, by default ../shared/data beside the checkout. Both
are segmented by the forest, from strokes in a few slices.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from make_pictures import PICTURES, ROOT, WORK, cryoet
from PIL import Image

WIDTH = 1800  # pixels of a figure in the docs


def keep(source: Path, name: str) -> None:
    """Store a figure at the docs' size."""
    PICTURES.mkdir(exist_ok=True)
    with Image.open(source) as image:
        width = min(WIDTH, image.width)
        size = (width, round(image.height * width / image.width))
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(PICTURES / name, quality=88, optimize=True)
    print(PICTURES / name)


def figures(name: str, tomogram: Path, soft: Path, view: list[str], size: str) -> None:
    """All figures of a tomogram and its segmentation; the first picture's session is that of all."""
    folder = soft.parent
    picture = folder / "picture.png"
    cryoet("render", tomogram, "--segmentation", soft, "-o", picture, "--thresholds", folder / "thresholds.png", *view)
    keep(picture, f"{name}_picture.jpg")
    keep(folder / "thresholds.png", f"{name}_thresholds.jpg")
    for figure in ("journey", "stages", "compare"):
        cryoet("render", "--session", picture, "-o", folder / f"{figure}.png", f"--{figure}", "--size", size)
        keep(folder / f"{figure}.png", f"{name}_{figure}.jpg")


def virion() -> None:
    """One virion, simulated at 8 Å a voxel."""
    folder = WORK / "virion"
    shutil.rmtree(folder, ignore_errors=True)
    recipe = ["--voxel-size", "8", "--shape", "192,240,240", "--set", "n_virions=1", "--set", "diameter_nm=88,92"]
    cryoet("simulate", "virions", *recipe, "--seed", "5", "-o", folder / "simulated")
    tomogram, strokes = folder / "simulated" / "tomogram.mrc", folder / "simulated" / "strokes.mrc"
    classes = "background,membrane,spikes,lumen"
    cryoet("pseudolabel", tomogram, "--labels", strokes, "--classes", classes, "-o", folder / "soft.zarr")
    view = ["--region", "14:178,24:222,6:190", "--hide-dust", "14", "--elevation", "25", "--size", "1600x1200"]
    figures("virion", tomogram, folder / "soft.zarr", view, "2048x1536")
    turn = ["--turntable", "4", "--fps", "9", "--size", "400x360", "--background", "white", "--frames", "4"]
    bare = ["--no-axes", "--no-scale-bar", "--no-legend"]
    cryoet("render", "--session", folder / "picture.png", "-o", folder / "turn.gif", *turn, *bare)
    shutil.copyfile(folder / "turn.gif", PICTURES / "virion_turn.gif")


def lysosome() -> None:
    """The purified lysosome, cut open."""
    data = Path(os.environ.get("CRYOET_TEST_DATA") or ROOT.parent / "shared" / "data") / "lysosome"
    if not data.is_dir():
        print(f"no lysosome at {data}: its figures are left as they are")
        return
    folder = WORK / "lysosome_figures"
    shutil.rmtree(folder, ignore_errors=True)
    tomogram, strokes = data / "lysosome_bin2.mrc", data / "lysosome_bin2_scribbles.mrc.gz"
    classes = "background,membrane,particles,lumen"
    cryoet("pseudolabel", tomogram, "--labels", strokes, "--classes", classes, "-o", folder / "soft.zarr")
    view = [
        "--region",
        "36:84,50:230,:180",
        "--cut",
        "z",
        "--elevation",
        "45",
        "--hide-dust",
        "60",
        "--size",
        "1600x1200",
    ]
    figures("lysosome", tomogram, folder / "soft.zarr", view, "2048x1536")


if __name__ == "__main__":
    WORK.mkdir(exist_ok=True)
    virion()
    lysosome()
