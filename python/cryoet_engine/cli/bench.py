# SPDX-License-Identifier: MIT
"""Measure how fast pictures are drawn on this machine, what they take and how true they are.

  cryoet bench render                                    # every technique on a small scene
  cryoet bench render --volume 227,1024,1440 --size 1920x1080 --json speed.json
  cryoet bench render --tomogram TOMO --segmentation proba.zarr       # on your own volumes
  cryoet bench render --paper --json table.json          # paper 1's Table 3: large volumes, minutes on a card

A frame is a march with cached light, bloom and tone. rmse: difference of display values 0..1 from the converged
picture, where something is seen (16 frames averaged).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import input_error
from ._console import Bars, need_suffix, pixel_size, positive, say

if TYPE_CHECKING:
    from ..render.benchmark import Scene


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
    parser.add_argument("--volume", type=volume_shape, metavar="N|Z,Y,X", help="voxels (default 96,128,128)")
    parser.add_argument("--tomogram", metavar="TOMO", help="a tomogram of your own, instead of simulated virions")
    parser.add_argument("--segmentation", nargs="+", metavar="FILE", help="its segmentation")
    parser.add_argument("--size", type=pixel_size, metavar="WxH", help="pixels (default 640x360; 1920x1080 on a card)")
    parser.add_argument("--volumes", type=int, choices=(2, 4), help="raw + foreground, or raw + 3 classes (default)")
    parser.add_argument("--bits", type=int, choices=(8, 16), help="of a value on the card (default 8)")
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

    check(args)
    output = need_suffix(args.json, (".json",), "--json") if args.json else None
    about = describe()
    software = bool(about["software"])
    views = args.views or (4 if software else 36)
    runs = args.runs or (3 if software else 5)
    with Bars() as bars:
        if args.paper:
            wanted: dict[str, Any] = {"views": views, "runs": runs}
            if args.depths:
                wanted["depths"] = depths(args.depths)
            if args.size:
                wanted["sizes"] = (args.size,)
            if args.bits:
                wanted["bits"] = (args.bits,)
            if args.volumes:
                wanted["volumes"] = (args.volumes,)
            result = benchmark.paper_table(**wanted, progress=bars)
            lines = benchmark.summary(result)
        else:
            result = benchmark.measure(
                args.volume or (96, 128, 128),
                args.size or ((640, 360) if software else (1920, 1080)),
                n_volumes=args.volumes or 4,
                given=given_scene(args, bars),
                bits=args.bits or 8,
                views=views,
                runs=runs,
                progress=bars,
            )
            lines = report(result)
    print("\n".join(lines))
    if output:
        from .. import __version__, io

        with io.partial_path(output) as partial:
            machine = {"opengl": about, "system": platform.platform(), "cores": os.cpu_count()}
            content = {"version": __version__, "machine": machine, **result}
            Path(partial).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        say(str(output))


def check(args: argparse.Namespace) -> None:
    """Find what does not go together before the work begins."""
    if bool(args.tomogram) != bool(args.segmentation):
        missing = "--segmentation" if args.tomogram else "--tomogram"
        raise input_error("bench", missing, expected="both, or neither for simulated virions", got="the other alone")
    simulated = [name for name in ("volume", "volumes") if getattr(args, name)]
    if args.tomogram and simulated:
        raise input_error("bench", f"--{simulated[0]}", expected="no size beside a tomogram", got="both")
    if args.paper and (args.volume or args.tomogram):
        fix = "choose its depths with --depths"
        raise input_error("bench", "--paper", expected="the paper's own volumes", got="others", fix=fix)
    if args.depths and not args.paper:
        raise input_error("bench", "--depths", expected="--paper beside it", got="none")


def given_scene(args: argparse.Namespace, bars: Bars) -> Scene | None:
    """The volumes to measure with, and automatic ramps; None: simulated ones."""
    if not args.tomogram:
        return None
    from .. import io
    from ..transfer import TransferFunction

    volume, segmentation = io.read_volume(args.tomogram), io.read_segmentation(args.segmentation)
    hidden = segmentation.classes[:1]
    return volume, segmentation, TransferFunction.estimate(segmentation, volume, hidden=hidden, progress=bars)


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
    lines.append(f"standing still, ms a frame: {result['standing_still_ms']:.2f}")
    lines.append("stages, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in result["stages_ms"].items()))
    lines.append("dragging, ms a frame: " + ", ".join(f"{name} {ms:.1f}" for name, ms in result["dragging_ms"].items()))
    counted = result["fetches_per_pixel"]
    lines.append("a ray: " + ", ".join(f"{name} {value:.1f}" for name, value in counted.items()))
    limits = ", ".join(f"{card} {ms:.3f} ms" for card, ms in result["limit_ms"].items())
    lines.append(f"least time of a frame by texture rate and bandwidth: {limits}")
    return lines + [f"note: {notice}" for notice in result["notices"]]
