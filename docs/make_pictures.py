# SPDX-License-Identifier: MIT
"""Remake the README's pictures and its table of F1: the demo, and the lysosome where its data is found.

`make pictures`. Data: the folder `CRYOET_TEST_DATA`, by default ../shared/data beside the checkout.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
WORK = ROOT / "pictures"
CLASSES = "background,membrane,spikes,lumen"


def cryoet(*words: str | Path) -> None:
    command = [sys.executable, "-m", "cryoet_engine.cli", *map(str, words)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"make_pictures: failed: {' '.join(command)}")


def publish(source: Path, name: str, width: int = 1280) -> None:
    """Store a picture at the README's size."""
    PICTURES.mkdir(exist_ok=True)
    with Image.open(source) as image:
        height = round(image.height * width / image.width)
        image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(PICTURES / name, optimize=True)
    print(PICTURES / name)


def replace_between(text: str, mark: str, content: str) -> str:
    """Put `content` between the comments `<!-- mark -->` and `<!-- /mark -->`."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"make_pictures: README.md has no place for {mark}")
    return pattern.sub(lambda match: match[1] + content.strip() + "\n" + match[2], text)


def demo() -> None:
    folder = WORK / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    cryoet("demo", "-o", folder)
    publish(folder / "picture.png", "virions.png")
    report = (folder / "report.md").read_text()
    section = report.split("## F1 per class and stage, from this run")[1].split("The two tomograms differ")[0]
    readme = ROOT / "README.md"
    readme.write_text(replace_between(readme.read_text(), "demo", section))


def lysosome() -> None:
    data = Path(os.environ.get("CRYOET_TEST_DATA") or ROOT.parent / "shared" / "data") / "lysosome"
    if not data.is_dir():
        print(f"no lysosome at {data}: its picture is left as it is")
        return
    folder = WORK / "lysosome"
    shutil.rmtree(folder, ignore_errors=True)
    tomogram, strokes = data / "lysosome_bin2.mrc", data / "lysosome_bin2_scribbles.mrc.gz"
    cryoet("pseudolabel", tomogram, "--labels", strokes, "--classes", CLASSES, "-o", folder / "soft.zarr")
    view = [
        "--cut",
        "z",
        "--region",
        "40:76,20:256,:200",
        "--elevation",
        "52",
        "--hide-dust",
        "60",
        "--background",
        "dark",
    ]
    cryoet("render", tomogram, "--segmentation", folder / "soft.zarr", "-o", folder / "picture.png", *view)
    publish(folder / "picture.png", "lysosome.png")


if __name__ == "__main__":
    WORK.mkdir(exist_ok=True)
    demo()
    lysosome()
