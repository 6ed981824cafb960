# SPDX-License-Identifier: MIT
"""Draw a tomogram and its segmentation as a lit, solid picture, or a turn of it as a video.

The segmentation is an OME-Zarr of this package, or masks or scores in MRC from other tools, one file a class (or one
label file); without one the tomogram is drawn alone. Each class gets an opacity ramp that starts at an automatically
found threshold; --transfer takes ramps that --save-transfer wrote and a person may have edited. Every PNG carries its
session: --session PNG makes it again, with what else is said changed.

  cryoet render TOMO --segmentation proba.zarr -o picture.png
  cryoet render TOMO --segmentation membrane.mrc spikes.mrc -o picture.png --elevation 90 --region 20:64,:,:
  cryoet render TOMO --segmentation proba.zarr -o turn.mp4 --turntable 8
  cryoet render TOMO --segmentation proba.zarr -o rivals.png --compare
  cryoet render TOMO -o raw.png
  cryoet render --session picture.png -o wider.png --size 2560x1080
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._checks import input_error
from . import _picture
from ._console import Bars, add_tomogram, fill_value, guard_outputs, memory_size, need_suffix, open_tomogram, say

if TYPE_CHECKING:
    from ..render import RenderSettings
    from ..render.animation import KeyFrame
    from ..render.session import Session
    from ..transfer import TransferFunction
    from ..volume import Region, SoftSegmentation, Volume

_FIGURES = ("compare", "stages", "journey")
PRESETS = ("automatic", "soft", "solid", "surface", "translucent")  # transfer.PRESETS, which takes long to import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser, nargs="?")
    parser.add_argument(
        "--segmentation",
        nargs="+",
        metavar="FILE",
        help="OME-Zarr, or one MRC a class, or a label file; without it the tomogram is drawn alone",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the picture (.png), or a video (.mp4 .mkv .webm .gif, or a folder of PNGs)",
    )
    parser.add_argument("--session", metavar="FILE", help="a picture or JSON to make again; other options change it")
    parser.add_argument("--save-session", metavar="JSON", help="save the session as a file of its own")
    parser.add_argument("--transfer", metavar="JSON", help="ramps to use instead of estimated ones")
    parser.add_argument(
        "--preset", dest="ramp_preset", choices=PRESETS, help="the shape of all ramps, from where they begin"
    )
    parser.add_argument("--save-transfer", metavar="JSON", help="save the ramps that were used")
    parser.add_argument(
        "--dry-run", action="store_true", help="say how much graphics memory it takes, and draw nothing"
    )
    parser.add_argument(
        "--memory",
        type=memory_size,
        metavar="SIZE",
        help="graphics memory for the volumes, as 4G; beyond it: slabs, or binned (figures, vpt)",
    )
    group = parser.add_argument_group("more pictures")
    group.add_argument(
        "--compare", action="store_true", help="a figure: this technique beside those it is compared with"
    )
    group.add_argument(
        "--stages", action="store_true", help="a figure: colour, occlusion, shadow and bloom; raw volume"
    )
    group.add_argument("--journey", action="store_true", help="a figure: from the raw volume to two classes and to all")
    group.add_argument("--thresholds", metavar="PNG", help="a figure: how the ramps were found")
    group.add_argument("--depth", metavar="TIFF", help="distance along the view in Angstrom, float32, NaN: nothing")
    group.add_argument("--class-ids", metavar="PNG", help="the class each pixel shows, 8 bit, 0: nothing")
    group = parser.add_argument_group("animation")
    group.add_argument("--turntable", type=float, metavar="SECONDS", help="once around z")
    group.add_argument("--keyframes", metavar="JSON", help="camera, light and classes over time (docs/rendering.md)")
    group.add_argument("--fps", type=float, default=24.0, metavar="N", help="frames a second (default 24)")
    _picture.add_picture_arguments(parser)
    _picture.add_render_arguments(parser)


def check(args: argparse.Namespace) -> None:
    """Find what does not go together before the work begins."""
    if not (args.session or args.tomogram):
        got = "--segmentation alone" if args.segmentation else "neither"
        raise input_error("render", "arguments", expected="TOMO, or --session", got=got)
    if not (args.output or args.dry_run):
        raise input_error("render", "-o", expected="a name for the picture", got="none")
    moving = is_moving(args)
    if args.turntable is not None and args.keyframes is not None:
        raise input_error("render", "animation", expected="--turntable or --keyframes", got="both")
    if args.turntable is not None and not 0 < args.turntable < 1e5:
        raise input_error("--turntable", "seconds", expected="a number above 0", got=args.turntable)
    if not 0.1 <= args.fps <= 240:
        raise input_error("--fps", "frames a second", expected="0.1 to 240", got=args.fps)
    figures = [f"--{name}" for name in _FIGURES if getattr(args, name)]
    if len(figures) > 1 or (figures and moving):
        raise input_error("render", "options", expected="one kind of picture", got=", ".join(figures))
    if args.output and not moving:
        need_suffix(args.output, (".png",))
    for option, endings in (("depth", (".tif", ".tiff")), ("class_ids", (".png",)), ("thresholds", (".png",))):
        if path := getattr(args, option):
            need_suffix(path, endings, f"--{option.replace('_', '-')}")
    if (args.depth or args.class_ids) and (moving or figures):
        raise input_error("render", "--depth, --class-ids", expected="a single picture", got="another kind")


def is_moving(args: argparse.Namespace) -> bool:
    """Whether an animation is asked for."""
    return args.turntable is not None or args.keyframes is not None


def check_raw_alone(args: argparse.Namespace, settings: RenderSettings) -> None:
    """InputError for what cannot be drawn without a segmentation."""
    from ..render.session import draws_raw_alone

    fix = "give --segmentation"
    if not draws_raw_alone(settings):
        got = f"--mode {settings.mode} --source {settings.source}"
        expected = "--slices, or --mode dvr, iso, mip or vpt with --source raw, where there is no segmentation"
        raise input_error("render", "options", expected=expected, got=got, fix=fix)
    wishes = (*_FIGURES, "thresholds", "class_ids", "hide", "hide_dust", "ramp_preset")
    if asked := [f"--{name.removeprefix('ramp_').replace('_', '-')}" for name in wishes if getattr(args, name)]:
        raise input_error("render", "options", expected="a segmentation for it", got=", ".join(asked), fix=fix)


def moves(args: argparse.Namespace, settings: RenderSettings) -> Sequence[KeyFrame]:
    """The key frames of the animation that is asked for, none for a picture; InputError for what cannot be written."""
    if not is_moving(args):
        return ()
    from ..render import animation
    from ..render.video import check_output

    if args.output:
        check_output(args.output, args.size, transparent=settings.transparent)
    if args.keyframes is None:
        return animation.turntable(settings, args.turntable)
    keys = animation.load_key_frames(args.keyframes)
    animation.check_key_frames(keys, settings)
    return keys


def recipe(args: argparse.Namespace) -> Session | None:
    """The session that is to be made again, if one is; its files stand in for those that are not named."""
    if not args.session:
        return None
    from ..render.session import Session

    session = Session.load(args.session)
    args.tomogram = args.tomogram or session.tomogram
    args.segmentation = list(session.segmentation) if args.segmentation is None else args.segmentation
    args.region = args.region or (None if session.region is None else tuple(slice(*pair) for pair in session.region))
    args.hide_dust = session.hide_dust_nm if args.hide_dust is None else args.hide_dust
    args.size = args.size or session.size
    args.bits = args.bits or session.bits
    args.voxel_size = session.voxel_size_A if args.voxel_size is None else args.voxel_size
    args.fill = session.fill if args.fill is None else args.fill
    return session


def session_of(
    args: argparse.Namespace, settings: RenderSettings, transfer: TransferFunction, shape: tuple[int, int, int]
) -> Session:
    """What was drawn, so that it can be drawn again."""
    from ..render.session import Session

    part: Region | None = args.region
    return Session(
        tomogram=args.tomogram,
        segmentation=tuple(args.segmentation or ()),
        transfer=transfer,
        settings=settings,
        size=args.size,
        region=None if part is None else tuple(s.indices(n)[:2] for s, n in zip(part, shape, strict=True)),
        hide_dust_nm=args.hide_dust,
        bits=args.bits,
        voxel_size_A=args.voxel_size,
        fill=args.fill,
    )


def ramps(
    args: argparse.Namespace, session: Session | None, volume: Volume, segmentation: SoftSegmentation, bars: Bars
) -> TransferFunction:
    """The session's ramps, where nothing else was said; otherwise estimated or loaded ones."""
    other = session is not None and bool(args.segmentation) and not session.segmentation
    if session is None or other or args.transfer or args.protein:
        return _picture.ramps(volume, segmentation, args, progress=bars)
    transfer = session.transfer
    if args.ramp_preset:
        transfer = begun_automatically(transfer, segmentation, bars)
    return _picture.shaped(transfer, args)


def begun_automatically(transfer: TransferFunction, segmentation: SoftSegmentation, bars: Bars) -> TransferFunction:
    """A session's ramps from automatic left ends: from its own, one preset would be laid upon another."""
    from ..transfer import TransferFunction

    found = TransferFunction.estimate(segmentation, progress=bars)
    for name, ramp in zip(found.classes, found.ramps, strict=True):
        if transfer.ramp(name).visible:
            transfer = transfer.with_ramp(name, left=ramp.left, right=1.0, opacity=1.0)
    return transfer


def run(args: argparse.Namespace) -> None:
    """A tomogram and a segmentation in, a picture out."""
    from .. import io
    from ..render.picture import background_of

    check(args)
    session = recipe(args)
    if args.fill is not None:
        fill_value(args.fill, 0.0)  # the mean is not known yet: any number stands for it
    args.size, args.bits = args.size or _picture.SIZE, args.bits or 8
    base = session.settings if session else None
    if not args.segmentation and session is None:
        args.mode, args.source = args.mode or "dvr", args.source or "raw"
        args.background = args.background or "dark"  # pale and see-through, it would drown on a light one
    settings = _picture.settings_of(args, base)  # wrong settings are told before the work begins
    if not args.segmentation:
        check_raw_alone(args, settings)
    keys = moves(args, settings)
    files = args.segmentation or []
    outputs = [args.output, args.save_transfer, args.save_session, args.thresholds, args.depth, args.class_ids]
    folder = args.output and not Path(args.output).suffix
    guard_outputs(outputs[1:] if folder else outputs, [args.tomogram, args.transfer, args.keyframes, *files])
    volume = open_tomogram(args)
    segmentation = io.read_segmentation(files) if files else background_of(volume)
    drawn = volume.crop(args.region).shape if args.region else volume.shape
    settings = _picture.settings_of(args, base, drawn)
    _picture.check_classes(args, settings, segmentation.classes)
    check_opacities(keys, segmentation.classes)
    _picture.check_places(settings, volume, drawn)
    with Bars() as bars:
        transfer = ramps(args, session, volume, segmentation, bars)
        part = _picture.drawn_part(volume, segmentation, args)
        if args.dry_run:
            table, notices = memory_table(*part, transfer, args, settings)
            print(table)
        else:
            again = session_of(args, settings, transfer, volume.shape)
            notices = make(*part, transfer, args, settings, keys, again, bars)
            if args.save_transfer:
                transfer.save(args.save_transfer)
            if args.save_session:
                again.save(args.save_session)
    for notice in notices:
        say(f"note: {notice}")
    if not args.dry_run:
        say(str(args.output))


def check_opacities(keys: Sequence[KeyFrame], classes: Sequence[str]) -> None:
    """InputError where a key frame sets the opacity of a class that is not there."""
    if unknown := sorted({name for key in keys for name in key.opacity} - set(classes)):
        raise input_error("--keyframes", "opacity", expected=f"of {', '.join(classes)}", got=", ".join(unknown))


def make(
    volume: Volume,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    args: argparse.Namespace,
    settings: RenderSettings,
    keys: Sequence[KeyFrame],
    session: Session,
    bars: Bars,
) -> list[str]:
    """Draw what was asked for; what the renderer had to say."""
    from ..render import session as sessions

    if args.thresholds:
        from ..render import figures, save_image

        save_image(figures.thresholds(transfer, segmentation), args.thresholds)
    if keys:
        from ..render import animation

        return list(
            animation.render_animation(
                volume,
                segmentation,
                transfer,
                args.output,
                keys,
                settings=settings,
                size=args.size,
                fps=args.fps,
                bits=args.bits,
                max_bytes=args.memory,
                recipe=session.text(args.output),
                progress=bars,
            )
        )
    text = {sessions.KEYWORD: session.text(args.output)}
    if figure := next((name for name in _FIGURES if getattr(args, name)), None):
        from ..render import figures, save_image

        image, notices = getattr(figures, figure)(
            volume,
            segmentation,
            transfer,
            settings=settings,
            size=args.size,
            bits=args.bits,
            max_bytes=args.memory,
            progress=bars,
        )
        save_image(image, args.output, text=text)
        return list(notices)
    return picture(volume, segmentation, transfer, args, settings, text, bars)


def picture(
    volume: Volume,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    args: argparse.Namespace,
    settings: RenderSettings,
    text: dict[str, str],
    bars: Bars,
) -> list[str]:
    """One picture, and what else each of its pixels shows."""
    from PIL import Image

    from ..render import render_image, save_image

    drawn = render_image(
        volume,
        segmentation,
        transfer,
        size=args.size,
        settings=settings,
        bits=args.bits,
        max_bytes=args.memory,
        probed=bool(args.depth or args.class_ids),
        progress=bars,
    )
    drawn.save(args.output, text=text)
    for path, pixels in ((args.depth, drawn.depth_A), (args.class_ids, drawn.class_ids)):
        if path and pixels is not None:
            save_image(Image.fromarray(pixels), path)
    return list(drawn.notices)


def memory_table(
    volume: Volume,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    args: argparse.Namespace,
    settings: RenderSettings,
) -> tuple[str, list[str]]:
    """How much graphics memory a picture takes, line by line, and what there is to say about it."""
    from ..render.picture import memory_plan

    plan, notices = memory_plan(
        volume,
        segmentation,
        transfer,
        size=args.size,
        settings=settings,
        bits=args.bits,
        max_bytes=args.memory,
        whole=any(getattr(args, name) for name in _FIGURES),
    )
    lines = [f"{name:28s} {size / 2**20:10.1f} MiB" for name, size in plan if size]
    total = sum(size for _, size in plan)
    z, y, x = volume.shape
    head = f"{z} x {y} x {x} voxels, {args.bits} bit, {args.size[0]} x {args.size[1]} pixels"
    return "\n".join([head, *lines, f"{'together':28s} {total / 2**20:10.1f} MiB"]), list(notices)
