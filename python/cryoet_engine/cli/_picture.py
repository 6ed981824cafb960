# SPDX-License-Identifier: MIT
"""What a picture is to look like, as the command line says it; shared by render, run and demo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import input_error
from .._progress import Progress
from ._console import pixel_size, region

if TYPE_CHECKING:
    from ..render import Cut, RenderSettings
    from ..render.slices import Axis
    from ..transfer import TransferFunction
    from ..volume import Grid, Region, SoftSegmentation, Volume

#: Command line option -> RenderSettings field, where nothing but a number is to be said.
_VIEW = {
    "azimuth": ("azimuth_deg", "degrees about z"),
    "elevation": ("elevation_deg", "degrees above the slice plane; 90 looks straight down"),
    "roll": ("roll_deg", "degrees that the picture is turned clockwise"),
    "zoom": ("zoom", "1 fits the data into the picture"),
}
_LIGHT = {
    "light-azimuth": ("light_azimuth_deg", "direction of the light about z"),
    "light-elevation": ("light_elevation_deg", "height of the light"),
    "occlusion": ("occlusion", "strength of ambient occlusion, 0 (off) to 1"),
    "shadow": ("shadow", "strength of shadows, 0 (off) to 1"),
    "bloom": ("bloom", "strength of bloom, 0 (off) to 2"),
    "exposure": ("exposure", "factor on all light"),
}
_TECHNIQUE = {
    "iso-value": ("iso_value", "level of the surface, 0 to 1 (default 0.5)"),
    "step": ("step_vox", "distance of ray samples in voxels (default 1)"),
}
_NUMBERS = {**_VIEW, **_LIGHT, **_TECHNIQUE}

#: Normals (z, y, x) of planes that cut away the half which faces the default camera.
_CUTS = {"z": (1.0, 0.0, 0.0), "y": (0.0, -1.0, 0.0), "x": (0.0, 0.0, 1.0)}
SIZE = (1920, 1080)


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides how a picture looks and is asked for most."""
    parser.add_argument(
        "--protein",
        choices=("dark", "bright"),
        help="which way the contrast runs (default dark)",
    )
    parser.add_argument("--size", type=pixel_size, metavar="WxH", help="pixels (default 1920x1080)")
    parser.add_argument("--orthographic", action="store_true", help="no perspective")
    for option, (_, text) in {**_VIEW, **_LIGHT}.items():
        parser.add_argument(f"--{option}", type=float, metavar="X", help=text)
    parser.add_argument("--light", metavar="NAME", help="studio (default), soft, side, top, dramatic or flat")
    parser.add_argument("--frames", type=int, metavar="N", help="frames averaged: more is cleaner and slower")
    parser.add_argument(
        "--region",
        type=region,
        metavar="Z0:Z1,Y0:Y1,X0:X1",
        help="use this part only, in voxels, as in 40:80,:,100:200",
    )
    parser.add_argument(
        "--cut",
        type=cut_plane,
        action="append",
        metavar="PLANE",
        help="cut the data open: x, y or z through the middle, y=120 at a voxel, z:membrane for some classes only, "
        "--cut=-x for the other side, or NZ,NY,NX@Z,Y,X; up to three times",
    )
    parser.add_argument(
        "--hide-dust", type=float, metavar="NM", help="leave out particles smaller than this diameter in nm"
    )
    parser.add_argument("--hide", nargs="+", default=[], metavar="CLASS", help="classes that are not drawn")
    parser.add_argument(
        "--background", metavar="COLOR", help="light (default), dark, white, black or R,G,B from 0 to 1"
    )
    parser.add_argument("--transparent", action="store_true", help="no background in the PNG")


def add_render_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only `cryoet render` can be told, group by group."""
    group = parser.add_argument_group("technique")
    modes = ("cached", "reference", "dvr", "iso", "mip", "vpt")
    group.add_argument(
        "--mode",
        choices=modes,
        help="cached light (default), reference (light at every sample), plain volume rendering, surfaces, maximum "
        "intensity projection, volumetric path tracing",
    )
    group.add_argument("--source", choices=("classes", "raw"), help="what dvr, iso, mip and vpt draw (default classes)")
    group.add_argument("--raw-colors", metavar="NAME", help="colours of the raw volume: grey (default) or spectrum")
    for option, (_, text) in _TECHNIQUE.items():
        group.add_argument(f"--{option}", type=float, metavar="X", help=text)
    for stage in ("occlusion", "shadow", "bloom"):
        group.add_argument(f"--no-{stage}", action="store_true", help=f"without {stage}")
    group.add_argument(
        "--raw",
        action=argparse.BooleanOptionalAction,
        help="whether to multiply the classes with the raw volume (default: yes)",
    )
    group = parser.add_argument_group("what is seen")
    group.add_argument("--target", type=_triple, metavar="Z,Y,X", help="voxel in the middle of the picture")
    group.add_argument(
        "--box",
        type=_box,
        metavar="Z0:Z1,Y0:Y1,X0:X1[:CLASS,...]",
        help="draw nothing outside this box (of some classes only)",
    )
    group.add_argument("--slices", type=_slices, metavar="Z,Y,X", help="slices that stand in the picture, as in 64,-,-")
    group.add_argument(
        "--leave-out-slices",
        dest="picture_leave_out",
        type=_pair,
        metavar="BOTTOM,TOP",
        help="leave out so many slices at bottom and top",
    )
    group.add_argument("--title", metavar="TEXT", help="words above the legend")
    for part in ("scale-bar", "legend", "axes"):
        text = f"with or without {part.replace('-', ' ')} (default: with)"
        group.add_argument(f"--{part}", action=argparse.BooleanOptionalAction, help=text)
    group = parser.add_argument_group("back from what a session says")
    group.add_argument("--perspective", action="store_true", help="not orthographic")
    group.add_argument("--opaque", action="store_true", help="not transparent")
    group.add_argument("--no-cut", action="store_true", help="without its planes")
    group.add_argument("--no-box", action="store_true", help="without its box")
    group = parser.add_argument_group("quality")
    group.add_argument("--supersampling", type=int, metavar="N", help="draw N x N pixels for each (1 to 4)")
    group.add_argument("--light-spacing", type=int, metavar="N", help="voxels between points of cached light: 1, 2, 4")
    group.add_argument("--bits", type=int, choices=(8, 16), help="of a value on the card (default 8)")


def cut_plane(text: str) -> Cut:
    """A plane: [-]AXIS[=VOXEL][:CLASS,...], or NZ,NY,NX@Z,Y,X[:CLASS,...]."""
    from .._checks import CryoETError
    from ..render import Cut

    plane, _, names = text.partition(":")
    classes = tuple(name for name in names.split(",") if name)
    try:
        if "@" in plane:
            normal, point = (_triple(part) for part in plane.split("@"))
            return Cut(normal=normal, point_vox=point, classes=classes)
        axis, equals, at = plane.removeprefix("-").partition("=")
        z, y, x = _CUTS[axis]
        sign = -1.0 if plane.startswith("-") else 1.0
        place = None if not equals else (float(at),) * 3
        return Cut(normal=(sign * z, sign * y, sign * x), point_vox=place, classes=classes)
    except (KeyError, ValueError, argparse.ArgumentTypeError, CryoETError):
        expected = "x, y=120, z:membrane, or NZ,NY,NX@Z,Y,X"
        raise argparse.ArgumentTypeError(f"expected {expected}; got {text!r}") from None


def _triple(text: str) -> tuple[float, float, float]:
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected three numbers Z,Y,X; got {text!r}") from None
    return z, y, x


def _pair(text: str) -> tuple[int, int]:
    try:
        bottom, top = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected two whole numbers, as in 5,5; got {text!r}") from None
    return bottom, top


def _slices(text: str) -> tuple[int | None, ...]:
    try:
        z, y, x = (None if part.strip() in ("", "-") else int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected Z,Y,X with - for none, as in 64,-,-; got {text!r}") from None
    return z, y, x


def _box(text: str) -> tuple[Region, tuple[str, ...]]:
    parts = text.split(",")
    if len(parts) < 3:
        raise argparse.ArgumentTypeError(f"expected Z0:Z1,Y0:Y1,X0:X1; got {text!r}")
    start, _, rest = parts[2].partition(":")
    stop, _, first = rest.partition(":")
    names = tuple(name for name in (first, *parts[3:]) if name)
    return region(",".join((*parts[:2], f"{start}:{stop}"))), names


def settings_of(
    args: argparse.Namespace,
    base: RenderSettings | None = None,
    shape: tuple[int, int, int] | None = None,
) -> RenderSettings:
    """The render settings that the arguments ask for; what is not said stays as in `base`, or at its default.

    shape: of the volume, (z, y, x), which gives an open end of --box its number.
    """
    from ..render import RenderSettings
    from ..render.settings import Box

    settings = base if base is not None else RenderSettings()
    if args.light is not None:
        settings = settings.with_light(args.light)
    given = {field: _told(args, option) for option, (field, _) in _NUMBERS.items()}
    plain = ("frames", "mode", "source", "raw_colors", "supersampling", "light_spacing", "title")
    given |= {name: _told(args, name) for name in plain}
    given |= {"target_vox": _told(args, "target"), "slices": _told(args, "slices")}
    given["leave_out_slices"] = _told(args, "picture_leave_out")
    given["background"] = None if args.background is None else _color(args.background)
    given["cuts"] = None if args.cut is None else tuple(args.cut)
    given["projection"] = _either(args, "orthographic", "perspective", "orthographic", "perspective")
    given["transparent"] = _either(args, "transparent", "opaque", True, False)
    for stage in ("occlusion", "shadow", "bloom"):
        if _told(args, f"no_{stage}"):
            given[stage] = 0.0
    given["multiply_raw"] = _told(args, "raw")
    given |= {part: _told(args, part) for part in ("scale_bar", "legend", "axes")}
    if _either(args, "cut", "no_cut", False, True):
        settings = replace(settings, cuts=())
    if _either(args, "box", "no_box", False, True):
        settings = replace(settings, box=None)
    if (box := _told(args, "box")) is not None and shape is not None:
        spans = [(s.indices(n)[0], s.indices(n)[1]) for s, n in zip(box[0], shape, strict=True)]
        (z0, z1), (y0, y1), (x0, x1) = spans
        low, high = (z0 - 0.5, y0 - 0.5, x0 - 0.5), (z1 - 0.5, y1 - 0.5, x1 - 0.5)
        given["box"] = Box(low_vox=low, high_vox=high, classes=box[1])
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def _either(args: argparse.Namespace, one: str, other: str, first: Any, second: Any) -> Any:
    """What one of two opposite options means, None where neither was given; InputError where both were."""
    if _told(args, one) and _told(args, other):
        names = [f"--{name.replace('_', '-')}" for name in (one, other)]
        raise input_error("render", "options", expected=" or ".join(names), got="both")
    return first if _told(args, one) else second if _told(args, other) else None


def check_classes(args: argparse.Namespace, settings: RenderSettings, classes: Sequence[str]) -> None:
    """InputError where --hide, a plane or the box names a class that is not there."""
    wanted = [("--hide", args.hide)]
    wanted += [("--cut", cut.classes) for cut in settings.cuts]
    wanted += [("--box", settings.box.classes)] if settings.box else []
    for option, names in wanted:
        if unknown := [name for name in names if name not in classes]:
            raise input_error(option, "classes", expected=f"of {', '.join(classes)}", got=", ".join(unknown))


def check_places(settings: RenderSettings, grid: Grid, shape: tuple[int, int, int]) -> None:
    """InputError for slices, planes or a target that lie beyond what is drawn: `shape` voxels (z, y, x) of a grid."""
    size = " x ".join(map(str, shape))
    for axis, number, length in zip("zyx", settings.slices, shape, strict=True):
        if number is not None and number >= length:
            expected = f"slice 0 to {length - 1} along {axis}, of a volume of {size} voxels (z, y, x)"
            raise input_error("--slices", "numbers", expected=expected, got=number)
    target = settings.target_vox
    if target is not None and not all(-0.5 <= at <= n - 0.5 for at, n in zip(target, shape, strict=True)):
        expected = f"a voxel of the volume, which has {size} (z, y, x)"
        raise input_error("--target", "voxel", expected=expected, got=_numbers(target))
    for cut in settings.cuts:
        if cut.point_vox is not None and not _meets(cut, grid, shape):
            expected = f"a plane through the volume, which has {size} voxels (z, y, x)"
            got = f"normal {_numbers(cut.normal)} at {_numbers(cut.point_vox)}"
            raise input_error("--cut", "plane", expected=expected, got=got, fix="it would take all or nothing away")


def _meets(cut: Cut, grid: Grid, shape: tuple[int, int, int]) -> bool:
    """Whether a plane goes through the box of the voxels."""
    point = cut.point_vox or (0.0, 0.0, 0.0)
    reach = [
        (normal * (-0.5 - at) * edge, normal * (n - 0.5 - at) * edge)
        for normal, at, edge, n in zip(cut.normal, point, grid.voxel_size_A, shape, strict=True)
    ]
    return sum(map(min, reach)) <= 0 <= sum(map(max, reach))


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _told(args: argparse.Namespace, option: str) -> Any:
    return getattr(args, option.replace("-", "_"), None)


def _color(text: str) -> str | tuple[float, float, float]:
    return text if "," not in text else _rgb(text)


def _rgb(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise input_error("--background", "color", expected="a name, or R,G,B from 0 to 1", got=repr(text)) from None
    return red, green, blue


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

    if given := _told(args, "transfer"):
        transfer = TransferFunction.load(given)
    else:
        background = segmentation.classes[:1]
        transfer = TransferFunction.estimate(
            segmentation, volume, protein=args.protein or "dark", hidden=background, progress=progress
        )
    return shaped(transfer, args)


def shaped(transfer: TransferFunction, args: argparse.Namespace) -> TransferFunction:
    """Ramps as --preset and --hide want them."""
    if preset := _told(args, "ramp_preset"):  # "preset" is the network's, in `cryoet run`
        transfer = transfer.with_preset(preset)
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
    cuts: Sequence[Cut] | None = None,
    progress: Progress,
) -> list[str]:
    """Draw and save a picture, with these planes instead of the arguments'. Returns what the renderer had to say."""
    from ..render import render_image

    settings = settings_of(args, shape=volume.shape)
    if cuts is not None:
        settings = replace(settings, cuts=tuple(cuts))
    picture = render_image(volume, segmentation, transfer, size=args.size or SIZE, settings=settings, progress=progress)
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
