# SPDX-License-Identifier: MIT
"""List the networks that `cryoet train --model` knows: what they are for, how large they are, how far they see.

Weights, with one channel in and two classes, are counted as the papers do, without batch normalisation's. The
receptive field is the edge (z, y, x) of what an output voxel can depend on; of a classifier, a voxel of its last
feature map. Lengths of tiles are rounded up to multiples of the divisor (z, y, x). Memory is what weights and tensors
take in float32 while one tile of 128 x 128 x 128 voxels is predicted; the scratch memory of convolutions is on top.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

TILE = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(args: argparse.Namespace) -> None:
    """Print one line a network and preset."""
    from ..models import model_names, model_presets, summarise

    found = [summarise(name, preset, tile=TILE) for name in model_names() for preset in model_presets(name)]
    if args.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in found], indent=2, ensure_ascii=False))
        return
    head = ("name", "preset", "kind", "weights", "sees", "divisor", "memory", "source")
    rows = [
        (
            entry.name,
            entry.preset,
            entry.kind,
            f"{entry.n_weights:,}",
            " ".join(map(str, entry.receptive_field)),
            " ".join(map(str, entry.divisor)),
            f"{entry.memory_bytes / 2**30:.2f} GiB",
            entry.source,
        )
        for entry in found
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if title in ("weights", "memory") else cell.ljust(width)
            for title, cell, width in zip(head, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
