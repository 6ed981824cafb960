# SPDX-License-Identifier: MIT
"""Draw a tomogram and its segmentation as a lit, solid picture.

The segmentation is an OME-Zarr of this package, or masks or scores in MRC from other tools, one file a class (or one
label file). Each class gets an opacity ramp that starts at an automatically found threshold; --transfer takes ramps
that --save-transfer wrote and a person may have edited.

  cryoet render TOMO --segmentation proba.zarr -o picture.png
  cryoet render TOMO --segmentation membrane.mrc spikes.mrc -o picture.png --elevation 90 --region 20:64,:,:
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .._progress import Progress
from ._console import Bars, add_tomogram, guard_outputs, need_suffix, open_tomogram, pixel_size, region, say

if TYPE_CHECKING:
    from ..render import RenderSettings
    from ..render.slices import Axis
    from ..transfer import TransferFunction
    from ..volume import SoftSegmentation, Volume

#: Command line option -> RenderSettings field, where nothing but a number is to be said.
_NUMBERS = {
    "azimuth": ("azimuth_deg", "degrees about z"),
    "elevation": ("elevation_deg", "degrees above the slice plane; 90 looks straight down"),
    "zoom": ("zoom", "1 fits the data into the picture"),
    "light-azimuth": ("light_azimuth_deg", "direction of the light, relative to the camera"),
    "light-elevation": ("light_elevation_deg", "height of the light"),
    "occlusion": ("occlusion", "strength of ambient occlusion, 0 to 1"),
    "shadow": ("shadow", "strength of shadows, 0 to 1"),
    "bloom": ("bloom", "strength of bloom; 0 switches it off"),
}

#: Normals (z, y, x) of planes that cut away the half which faces the default camera.
_CUTS = {"z": (1.0, 0.0, 0.0), "y": (0.0, -1.0, 0.0), "x": (0.0, 0.0, 1.0)}


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides how a picture looks."""
    parser.add_argument(
        "--protein",
        choices=("dark", "bright"),
        default="dark",
        help="which way the contrast runs (default dark)",
    )
    parser.add_argument(
        "--size", type=pixel_size, default=(1920, 1080), metavar="WxH", help="pixels (default 1920x1080)"
    )
    parser.add_argument("--orthographic", action="store_true", help="no perspective")
    for option, (_, text) in _NUMBERS.items():
        parser.add_argument(f"--{option}", type=float, metavar="X", help=text)
    parser.add_argument("--frames", type=int, metavar="N", help="frames averaged: more is cleaner and slower")
    parser.add_argument(
        "--region",
        type=region,
        metavar="Z0:Z1,Y0:Y1,X0:X1",
        help="draw this part only, in voxels, as in 40:80,:,100:200",
    )
    parser.add_argument("--cut", choices=("x", "y", "z"), help="cut the data open at its middle along this axis")
    parser.add_argument(
        "--hide-dust", type=float, metavar="NM", help="leave out particles smaller than this diameter in nm"
    )
    parser.add_argument("--hide", nargs="+", default=[], metavar="CLASS", help="classes that are not drawn")
    parser.add_argument("--background", choices=("light", "dark", "white", "black"), help="behind it (default light)")
    parser.add_argument("--transparent", action="store_true", help="no background in the PNG")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser)
    parser.add_argument(
        "--segmentation",
        nargs="+",
        required=True,
        metavar="FILE",
        help="OME-Zarr, or one MRC a class, or one label file",
    )
    parser.add_argument("-o", "--output", required=True, metavar="PNG", help="the picture")
    parser.add_argument("--transfer", metavar="JSON", help="ramps to use instead of estimated ones")
    parser.add_argument("--save-transfer", metavar="JSON", help="save the ramps that were used")
    add_picture_arguments(parser)


def settings_of(args: argparse.Namespace) -> RenderSettings:
    """The render settings that the arguments ask for; what is not said keeps its default."""
    from ..render import RenderSettings

    given = {field: getattr(args, option.replace("-", "_")) for option, (field, _) in _NUMBERS.items()}
    given |= {"frames": args.frames, "background": args.background}
    given |= {"projection": "orthographic" if args.orthographic else None}
    given |= {"transparent": args.transparent or None}
    return RenderSettings(**{name: value for name, value in given.items() if value is not None})


def drawn_part(
    volume: Volume, segmentation: SoftSegmentation, args: argparse.Namespace
) -> tuple[Volume, SoftSegmentation]:
    """What the arguments leave to be drawn: without dust, and the region only."""
    if args.hide_dust is not None:
        from ..refine import remove_dust

        segmentation = remove_dust(segmentation, min_diameter_A=10 * args.hide_dust)
    if args.region:
        volume, segmentation = volume.crop(args.region), segmentation.crop(args.region)
    return volume, segmentation


def ramps(
    volume: Volume, segmentation: SoftSegmentation, args: argparse.Namespace, *, progress: Progress
) -> TransferFunction:
    """Estimate the ramps, or load them."""
    from ..transfer import TransferFunction

    if given := getattr(args, "transfer", None):
        transfer = TransferFunction.load(given)
    else:
        background = segmentation.classes[:1]
        transfer = TransferFunction.estimate(
            segmentation, volume, protein=args.protein, hidden=background, progress=progress
        )
    for name in args.hide:
        transfer = transfer.with_ramp(name, visible=False)
    return transfer


def draw(
    volume: Volume,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    args: argparse.Namespace,
    path: Path,
    *,
    cut: str | None = None,
    progress: Progress,
) -> list[str]:
    """Draw and save a picture, cut open along an axis or not. Returns what the renderer had to say."""
    from ..render import Cut, render_image

    settings = settings_of(args)
    if cut:
        settings = replace(settings, cuts=(Cut(normal=_CUTS[cut]),))
    picture = render_image(volume, segmentation, transfer, size=args.size, settings=settings, progress=progress)
    picture.save(path)
    return list(picture.notices)


def draw_slices(volume: Volume, segmentation: SoftSegmentation, folder: Path, prefix: str = "slice") -> None:
    """Save overlays of three z slices and the central y slice."""
    from .. import io
    from ..render import slice_overlay

    depth, height, _ = volume.shape
    wanted: list[tuple[Axis, int]] = [("z", depth // 4), ("z", depth // 2), ("z", 3 * depth // 4), ("y", height // 2)]
    for axis, index in dict.fromkeys(wanted):
        with io.partial_path(folder / f"{prefix}_{axis}{index:04d}.png") as partial:
            slice_overlay(volume, segmentation, axis=axis, index=index).save(partial, format="PNG")


def slice_names(folder: Path, prefix: str = "slice") -> list[str]:
    """The file names that `draw_slices` left."""
    return sorted(path.name for path in folder.glob(f"{prefix}_[xyz][0-9]*.png"))


def run(args: argparse.Namespace) -> None:
    """A tomogram and a segmentation in, a picture out."""
    from .. import io

    output = need_suffix(args.output, (".png",))
    settings_of(args)  # wrong settings are told before the work begins
    guard_outputs([output, args.save_transfer], [args.tomogram, args.transfer, *args.segmentation])
    volume = open_tomogram(args)
    segmentation = io.read_segmentation(args.segmentation)
    with Bars() as bars:
        transfer = ramps(volume, segmentation, args, progress=bars)
        drawn = drawn_part(volume, segmentation, args)
        notices = draw(*drawn, transfer, args, output, cut=args.cut, progress=bars)
        if args.save_transfer:
            transfer.save(args.save_transfer)
    for notice in notices:
        say(f"note: {notice}")
    say(str(output))
