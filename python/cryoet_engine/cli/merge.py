# SPDX-License-Identifier: MIT
"""Put classes of a soft segmentation together, or make hard labels of it.

Probabilities are added; a class in no group stays what it is. --hard writes the most probable class (1, 2, ...) after
the groups are merged: 0.4 background, 0.3 membrane and 0.3 spikes is foreground. The paper's two classes:

  cryoet merge soft.zarr --group foreground=membrane,spikes,lumen -o two.zarr
  cryoet merge soft.zarr --hard -o labels.mrc
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .._checks import input_error
from .._progress import Progress
from ._console import MAP_NOTE, Bars, guard_outputs, need_suffix, say

if TYPE_CHECKING:
    from ..volume import SoftSegmentation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("segmentation", metavar="ZARR", help="soft segmentation, OME-Zarr")
    parser.add_argument(
        "--group",
        type=_group,
        action="append",
        default=[],
        metavar="NAME=A,B,...",
        help="a new class made of others; may be given several times",
    )
    parser.add_argument("--hard", action="store_true", help="write labels instead of probabilities")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=".zarr; with --hard .mrc or .zarr")


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, members = text.partition("=")
    names = tuple(member.strip() for member in members.split(","))
    if not equals or not name.strip() or not all(names):
        raise argparse.ArgumentTypeError(f"expected NAME=A,B, as in foreground=membrane,spikes; got {text!r}")
    return name.strip(), names


def write_labels(soft: SoftSegmentation, path: Path, progress: Progress) -> None:
    """The most probable class of each voxel, counted from 1, chunk by chunk."""
    from .. import io
    from ..forest import hard_labels
    from ..tiling import blocks

    kind = "uint8" if path.suffix == ".zarr" else "int8" if len(soft.classes) < 128 else "int16"
    notes = (f"{MAP_NOTE} labels", *(f"label {k} {one}" for k, one in enumerate(soft.classes, start=1)), *soft.notes)
    parts = list(blocks(soft.shape, (64, 256, 256), 0))
    with io.create_volume(path, soft.shape, dtype=kind, grid=soft.grid() | {"notes": notes}) as out:
        for done, part in enumerate(parts, start=1):
            out[part.core] = hard_labels(soft.data[(slice(None), *part.core)])
            progress("labels", done, len(parts))


def run(args: argparse.Namespace) -> None:
    """A soft segmentation in, one of fewer classes or labels out."""
    from .. import io

    if not args.group and not args.hard:
        raise input_error("cryoet merge", "options", expected="--group, --hard or both", got="neither")
    output = need_suffix(args.output, (".mrc", ".zarr") if args.hard else (".zarr",))
    groups = dict(args.group)
    if len(groups) < len(args.group):
        raise input_error("--group", "names", expected="a name once", got=", ".join(name for name, _ in args.group))
    guard_outputs([output], [args.segmentation])
    soft = io.read_segmentation(args.segmentation).merge(groups)
    with Bars() as bars:
        if args.hard:
            write_labels(soft, output, bars)
        else:
            io.write(output, soft, progress=bars)
    say(f"{output}: {', '.join(soft.classes)}")
