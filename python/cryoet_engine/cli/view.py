# SPDX-License-Identifier: MIT
"""Open a tomogram in a window: draw strokes, watch labels grow, tune ramps and light, save the picture.

  cryoet view TOMO                                       # draw; labels follow
  cryoet view TOMO --labels STROKES --classes background,membrane,spikes,lumen
  cryoet view TOMO --segmentation proba.zarr             # look at what there is
  cryoet view --session picture.png                      # go on where a picture, or a session, was made
  cryoet view TOMO --screenshot window.png               # a picture of the window, and quit

Press ? in the window for keys and mouse. Without a display, `cryoet render` draws the same pictures.
"""

from __future__ import annotations

import argparse
import sys

from .._checks import input_error
from ._console import guard_outputs, need_suffix, pixel_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("tomogram", nargs="?", metavar="TOMO", help="MRC, TIFF, HDF5 or OME-Zarr")
    parser.add_argument("--labels", metavar="STROKES", help="strokes: 0 unlabelled, 1, 2, ... the classes")
    parser.add_argument("--classes", metavar="A,B,...", help="names of the classes, background first")
    parser.add_argument("--segmentation", nargs="+", metavar="FILE", help="OME-Zarr, or one MRC a class")
    parser.add_argument(
        "--session",
        metavar="FILE",
        help="a session, or a picture that carries one; TOMO beside it is opened in its place",
    )
    parser.add_argument("--size", type=pixel_size, default=(1440, 900), metavar="WxH", help="of the window")
    parser.add_argument(
        "--screenshot", metavar="PNG", help="save a picture of the window when 3D is finished, and quit"
    )
    parser.add_argument(
        "--exit-after", type=float, metavar="SECONDS", help="quit by then (with --screenshot: the picture is of then)"
    )


def run(args: argparse.Namespace) -> None:
    """Check what can be checked without a window, then open it."""
    from pathlib import Path

    from ..viewer import app

    for option in ("labels", "segmentation"):
        if getattr(args, option) and not (args.tomogram or args.session):
            raise input_error("view", f"--{option}", expected="TOMO, or --session, beside it", got="none")
    for path in (args.tomogram, args.labels, args.session, *(args.segmentation or ())):
        if path and not Path(path).exists():
            raise input_error("view", "file", expected="one that is there", got=path)
    if args.exit_after is not None and not 0 < args.exit_after < 1e6:
        raise input_error("view", "--exit-after", expected="seconds above 0", got=args.exit_after)
    if args.screenshot:
        need_suffix(args.screenshot, (".png",), "--screenshot")
        guard_outputs([args.screenshot], [args.tomogram, args.labels, args.session, *(args.segmentation or ())])
    names = tuple(name.strip() for name in args.classes.split(",")) if args.classes else ()
    app.run(
        app.Start(
            tomogram=args.tomogram,
            labels=args.labels,
            segmentation=tuple(args.segmentation or ()),
            session=args.session,
            classes=names,
            screenshot=args.screenshot,
            exit_after_s=args.exit_after,
            size=args.size,
        )
    )


def main() -> int:
    """`cryoet-viewer`: the same as `cryoet view`."""
    from . import main as cryoet

    return cryoet(["view", *sys.argv[1:]])
