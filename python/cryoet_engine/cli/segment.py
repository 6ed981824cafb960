# SPDX-License-Identifier: MIT
"""Segment a tomogram with a trained network, tile by tile.

Overlapping tiles are alpha-blended. `--blend trimmed` (the default) gives no weight to voxels in which the network
saw a tile's padding; `--blend plain` is the published way. Memory is that of one layer of tiles.

  cryoet segment TOMO --model net/ -o proba.zarr
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .._progress import Progress
from ._console import Bars, add_tomogram, guard_outputs, need_suffix, open_tomogram, positive, say

if TYPE_CHECKING:
    from ..volume import SoftSegmentation, Volume


def add_tile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how the volume is cut."""
    parser.add_argument(
        "--tile", type=positive, default=128, metavar="N", help="edge of a tile in voxels (default 128)"
    )
    parser.add_argument("--overlap", type=int, default=32, metavar="N", help="overlap of tiles in voxels (default 32)")
    parser.add_argument(
        "--blend", choices=("trimmed", "plain", "gaussian"), default="trimmed", help="weights in the overlap"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser)
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a trained network")
    parser.add_argument("-o", "--output", required=True, metavar="ZARR", help="soft segmentation, OME-Zarr")
    add_tile_arguments(parser)
    parser.add_argument(
        "--dtype",
        choices=("uint8", "uint16", "float32"),
        default="uint8",
        help="type of stored probabilities",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")


def predict(
    model: Path,
    volume: Volume,
    path: Path,
    args: argparse.Namespace,
    *,
    dtype: str = "uint8",
    progress: Progress,
) -> SoftSegmentation:
    """Stream a network's probabilities of a volume to an OME-Zarr and open it."""
    from .. import io
    from ..inference import segment, voxel_size_mismatch
    from ..models import load_model

    network, facts = load_model(model)
    if warning := voxel_size_mismatch(facts, volume):
        say(f"note: {warning}")
    with io.create_segmentation(path, volume.shape, facts.classes, dtype=dtype, grid=volume.grid()) as out:
        segment(
            network,
            volume,
            tile=args.tile,
            overlap=args.overlap,
            blend=args.blend,
            out=out,
            dtype=dtype,
            device=args.device,
            progress=progress,
        )
    return io.read_segmentation(path)


def run(args: argparse.Namespace) -> None:
    """A tomogram and a network in, a soft segmentation out."""
    output = need_suffix(args.output, (".zarr",))
    guard_outputs([output], [args.tomogram, args.model])
    volume = open_tomogram(args)
    with Bars() as bars:
        segmentation = predict(Path(args.model), volume, output, args, dtype=args.dtype, progress=bars)
    say(f"{output}: soft segmentation of {', '.join(segmentation.classes)}")
