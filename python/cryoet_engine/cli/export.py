# SPDX-License-Identifier: MIT
"""Write a soft segmentation as one MRC file a class, for ChimeraX and IMOD.

The class's name stands in the file's name; voxel size and origin are kept.

  cryoet export proba.zarr -o DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ._console import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("segmentation", metavar="ZARR", help="soft segmentation, OME-Zarr")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--prefix", help="start of the file names (default: the input's name)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "uint16", "int8"),
        default="float32",
        help="probabilities as 0..1 (float32), 0..65535 (uint16) or 0..127 (int8)",
    )


def run(args: argparse.Namespace) -> None:
    """A soft segmentation in, MRC files out."""
    from .. import io

    prefix = args.prefix if args.prefix is not None else Path(args.segmentation).name.split(".")[0] + "_"
    for path in io.export_classes(
        io.read_segmentation(args.segmentation), args.output, dtype=args.dtype, prefix=prefix
    ):
        say(str(path))
