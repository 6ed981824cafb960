# SPDX-License-Identifier: MIT
"""Measure how fast pictures are drawn on this machine, what they take and how true they are.

  cryoet bench render                                    # every technique on a small scene
  cryoet bench render --volume 227,1024,1440 --size 1920x1080 --json speed.json
  cryoet bench render --paper --json table.json          # paper 1's Table 3: large volumes, minutes on a card

A frame is a march with cached light, bloom and tone. rmse: difference of display values 0..1 from the converged
picture, where something is seen (16 frames averaged).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .._checks import input_error
from ._console import Bars, need_suffix, pixel_size, positive, say


def volume_shape(text: str) -> tuple[int, int, int]:
    """N, or Z,Y,X."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or min(numbers) < 8:
        raise argparse.ArgumentTypeError(f"expected N or Z,Y,X, each 8 at least; got {text!r}")
    z, y, x = numbers * (1 if len(numbers) == 3 else 3)
    return z, y, x


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("what", choices=("render",), help="what to measure")
    parser.add_argument(
        "--volume", type=volume_shape, default=(96, 128, 128), metavar="N|Z,Y,X", help="voxels (default 96,128,128)"
    )
    parser.add_argument("--size", type=pixel_size, metavar="WxH", help="pixels (default 640x360; 1920x1080 on a card)")
    parser.add_argument("--volumes", type=int, choices=(2, 4), default=4, help="raw + foreground, or raw + 3 classes")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a value on the card (default 8)")
    parser.add_argument(
        "--views", type=positive, metavar="N", help="of the turn of 360 degrees (default 4; 36 on a card)"
    )
    parser.add_argument("--runs", type=positive, metavar="N", help="of the turn (default 3; 5 on a card)")
    parser.add_argument("--paper", action="store_true", help="the paper's table: five volumes, two sizes, 8 and 16 bit")
    parser.add_argument("--depths", metavar="Z,...", help="with --paper: depths of its volumes (default 227 to 500)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")


def run(args: argparse.Namespace) -> None:
    """Measure, print, and keep the figures."""
    from ..render import benchmark, describe

    output = need_suffix(args.json, (".json",), "--json") if args.json else None
    software = bool(describe()["software"])
    views = args.views or (4 if software else 36)
    runs = args.runs or (3 if software else 5)
    with Bars() as bars:
        if args.paper:
            given: dict[str, Any] = {"views": views, "runs": runs}
            if args.depths:
                given["depths"] = depths(args.depths)
            if args.size:
                given["sizes"] = (args.size,)
            result = benchmark.paper_table(**given, progress=bars)
            lines = benchmark.summary(result)
        else:
            size = args.size or ((640, 360) if software else (1920, 1080))
            result = benchmark.measure(
                args.volume, size, n_volumes=args.volumes, bits=args.bits, views=views, runs=runs, progress=bars
            )
            lines = report(result)
    print("\n".join(lines))
    if output:
        from .. import __version__, io

        with io.partial_path(output) as partial:
            content = {"version": __version__, **result}
            Path(partial).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        say(str(output))


def depths(text: str) -> tuple[int, ...]:
    """Depths of volumes, comma-separated."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 8:
        raise input_error("--depths", "numbers", expected="whole numbers, 8 at least, as in 227,500", got=repr(text))
    return numbers


def report(result: dict[str, Any]) -> list[str]:
    """The figures as lines of text."""
    lines = [result["renderer"], f"{'technique':12s} {'ms a frame':>11s} {'fps':>8s} {'MiB':>9s} {'rmse':>8s}"]
    lines += [
        f"{row['mode']:12s} {row['ms_per_frame']:11.2f} {1e3 / row['ms_per_frame']:8.1f} {row['bytes'] / 2**20:9.1f} "
        + (f"{row['rmse_to_converged']:8.4f}" if row["rmse_to_converged"] is not None else f"{'-':>8s}")
        for row in result["rows"]
    ]
    lines.append("stages, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in result["stages_ms"].items()))
    lines.append("dragging, ms a frame: " + ", ".join(f"{name} {ms:.1f}" for name, ms in result["dragging_ms"].items()))
    counted = result["fetches_per_pixel"]
    lines.append("a ray: " + ", ".join(f"{name} {value:.1f}" for name, value in counted.items()))
    limits = ", ".join(f"{card} {ms:.3f} ms" for card, ms in result["limit_ms"].items())
    lines.append(f"least time of a frame by texture rate and bandwidth: {limits}")
    return lines + [f"note: {notice}" for notice in result["notices"]]
