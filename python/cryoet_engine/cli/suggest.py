# SPDX-License-Identifier: MIT
"""Say where further strokes would help a forest most: places where it is unsure of what it has seen little of.

Looks at some slices only: seconds. Each place is a box of one slice, with the two classes that are confused there.
`gain` is the share of all that the forest is unsure of which strokes there are expected to settle.

  cryoet suggest TOMO --forest F --labels STROKES
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ._console import Bars, add_extra, add_tomogram, load_forest, open_extra, open_tomogram, positive

if TYPE_CHECKING:
    from ..forest import Suggestion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser)
    parser.add_argument("--forest", required=True, metavar="F", help="a saved forest, or an ilastik project (.ilp)")
    parser.add_argument("--labels", metavar="STROKES", help="the strokes so far: what they cover is not suggested")
    parser.add_argument("-n", "--number", type=positive, default=5, metavar="N", help="how many places (default 5)")
    parser.add_argument("--size", type=positive, default=32, metavar="N", help="edge of a box in voxels (default 32)")
    add_extra(parser)
    parser.add_argument(
        "--match-intensity", action="store_true", help="bring the grey scale to that of the forest's tomogram first"
    )
    parser.add_argument("--json", action="store_true", help="print the places as JSON")


def run(args: argparse.Namespace) -> None:
    """Print the places."""
    from .. import io

    forest, volume = load_forest(args.forest), open_tomogram(args)
    marks = io.read_volume(args.labels) if args.labels else None
    with Bars() as bars:
        places = forest.suggest(
            volume,
            marks,
            n=args.number,
            size=args.size,
            extra=open_extra(args),
            match_intensity=args.match_intensity,
            progress=bars,
        )
    print(_as_json(places) if args.json else _as_table(places))


def _as_json(places: list[Suggestion]) -> str:
    found = [
        {
            "box (z, y, x)": [[part.start, part.stop] for part in place.box],
            "gain": round(place.score, 4),
            "uncertainty": round(place.uncertainty, 4),
            "classes": list(place.classes),
        }
        for place in places
    ]
    return json.dumps(found, indent=2, ensure_ascii=False)


def _as_table(places: list[Suggestion]) -> str:
    if not places:
        return "nothing: the forest is sure of what it was shown"
    lines = [f"{'slice z':>8}  {'rows y':>11}  {'columns x':>11}  {'gain':>6}  {'unsure':>6}  tell apart"]
    for place in places:
        z, y, x = place.box
        rows, columns = (f"{part.start}-{part.stop - 1}" for part in (y, x))
        classes = " and ".join(place.classes)
        lines.append(
            f"{z.start:>8}  {rows:>11}  {columns:>11}  {place.score:>6.1%}  {place.uncertainty:>6.1%}  {classes}"
        )
    return "\n".join(lines)
