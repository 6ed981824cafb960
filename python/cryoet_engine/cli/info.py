# SPDX-License-Identifier: MIT
"""Show what a file holds: type, shape, voxel size, origin, notes, statistics and a thumbnail.

Of a saved forest (or an ilastik project): classes, labelled voxels, error, and which features it leans on.
Of a trained network: classes, what it was trained on and how, and its scores on held-back voxels.

The thumbnail (the central slice) is drawn in the terminal; --thumbnail saves three orthogonal slices as a PNG.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _forest
from ._console import load_forest, need_suffix

if TYPE_CHECKING:
    from ..volume import SoftSegmentation, Volume


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("file", metavar="TOMO", help="tomogram, labels, soft segmentation, a forest or a network")
    parser.add_argument("--thumbnail", metavar="PNG", help="save three orthogonal slices as a picture")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def _facts(path: str, item: Volume | SoftSegmentation) -> dict[str, Any]:
    from ..volume import SoftSegmentation, statistics

    facts: dict[str, Any] = {
        "file": path,
        "kind": type(item).__name__,
        "shape (z, y, x)": list(item.shape),
        "type": str(item.data.dtype),
        "voxel size (z, y, x), A": [round(size, 4) for size in item.voxel_size_A],
        "voxel size is": item.voxel_size_status,
        "extent (z, y, x), nm": [
            round(n * size / 10, 1) for n, size in zip(item.shape, item.voxel_size_A, strict=True)
        ],
        "origin (z, y, x), A": [round(value, 4) for value in item.origin_A],
        "start (z, y, x)": list(item.start),
        "notes": list(item.notes),
    }
    if isinstance(item, SoftSegmentation):
        facts["classes"] = list(item.classes)
        return facts
    numbers = statistics(item)
    facts |= {name: float(f"{getattr(numbers, name):.6g}") for name in ("min", "max", "mean", "std")}
    facts["NaN or infinite voxels"] = numbers.nonfinite
    return facts


def _thumbnail(volume: Volume, width: int = 56) -> str:
    """The central slice in shades of a terminal's characters, two rows of pixels a line."""
    import numpy as np

    z, y, x = volume.shape
    plane = np.nan_to_num(volume.block((slice(z // 2, z // 2 + 1), slice(None), slice(None)))[0])
    step = max(1, -(-x // width))
    rows, columns = max(1, y // (2 * step)), max(1, x // step)
    plane = plane[: rows * 2 * step, : columns * step]
    if plane.shape != (rows * 2 * step, columns * step):  # thinner than one character
        return ""
    cells = plane.reshape(rows, 2 * step, columns, step).mean(axis=(1, 3))
    low, high = np.percentile(cells, [2, 98])
    shades = np.array(list(" .:-=+*#%@"))
    level = np.clip((cells - low) / max(high - low, 1e-12) * 9.999, 0, 9).astype(int)
    return "\n".join("  " + "".join(shades[row]) for row in level)


def _is_forest(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == ".ilp" or b"cryoet-engine forest" in file.read(4096)


def run(args: argparse.Namespace) -> None:
    """Print the facts."""
    from .. import io
    from ..volume import Volume

    what: dict[str, Any] | None = None
    if _is_forest(Path(args.file)):
        what = _forest.facts(load_forest(args.file))
    elif (Path(args.file) / "model.json").is_file():
        from . import _network

        what = _network.facts(args.file)
    if what is not None:
        found = {"file": args.file, **what}
        print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else _forest.as_text(found))
        return
    item = io.read(args.file)
    facts = _facts(args.file, item)
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for name, value in facts.items():
            if name == "notes":
                for i, note in enumerate(value):
                    print(f"{'notes' if i == 0 else '':<26}{note}")
            else:
                print(f"{name:<26}{', '.join(map(str, value)) if isinstance(value, list) else value}")
        if isinstance(item, Volume):
            print(f"\n{_thumbnail(item)}")
    if args.thumbnail:
        from ..render import thumbnail

        path = need_suffix(args.thumbnail, (".png",), "--thumbnail")
        volume = item if isinstance(item, Volume) else item.class_volume(item.classes[1])
        with io.partial_path(path) as partial:
            thumbnail(volume).save(partial, format="PNG")
