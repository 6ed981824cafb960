# SPDX-License-Identifier: MIT
"""Filter a tomogram: smooth it, enhance its contrast, invert it, normalise it. Steps are done in the order given.

Memory stays bounded whatever the tomogram; voxel size, origin and notes are kept, and a note says what was done.
Where a step needs the grey values of the whole volume (--normalise, --clahe) and others come before it, their result
lies beside the output meanwhile, as one more float32 volume.

  cryoet filter TOMO -o OUT.mrc --low-pass 40 --invert
  cryoet filter TOMO -o OUT.mrc --bilateral 1.5,20 --clahe 64 --normalise 1,99

The first is what Nano-Ötzi renders (low-passed and inverted, paper 1, section 5.2), the second starts as the membrane
pipeline does (bilateral filter, then CLAHE, paper 2, section 3). Neither paper gives settings: `cryoet info` tells the
standard deviation of the grey values, which is a start for the bilateral filter's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import InputError, file_error, input_error
from ._console import Bars, add_tomogram, need_suffix, open_tomogram, say

if TYPE_CHECKING:
    from ..preprocessing import Step


def _numbers(text: str, *, least: int, most: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not least <= len(numbers) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise argparse.ArgumentTypeError(f"expected {count} number{'s'[: most > 1]}; got {text!r}")
    return numbers


def _bilateral(text: str) -> Step:
    from ..preprocessing import Bilateral

    sigma_vox, sigma_range = _numbers(text, least=2, most=2)
    return Bilateral(sigma_vox=sigma_vox, sigma_range=sigma_range)


def _low_pass(text: str) -> Step:
    from ..preprocessing import LowPass

    if text.endswith("vox"):
        return LowPass(sigma_vox=_numbers(text.removesuffix("vox"), least=1, most=1)[0])
    return LowPass(resolution_A=_numbers(text, least=1, most=1)[0])


def _invert(_: str) -> Step:
    from ..preprocessing import Invert

    return Invert()


def _normalise(text: str) -> Step:
    from ..preprocessing import Normalise

    low, high = (0.0, 100.0) if text == "min-max" else _numbers(text, least=2, most=2)
    return Normalise(low=low, high=high)


def _clahe(text: str, *, slice_wise: bool = False) -> Step:
    from ..preprocessing import Clahe

    tile, *clip = _numbers(text, least=1, most=2)
    if not tile.is_integer():
        raise argparse.ArgumentTypeError(f"expected a tile of whole voxels; got {tile:g}")
    return Clahe(tile_vox=int(tile), slice_wise=slice_wise, clip_limit=clip[0] if clip else 0.01)


def _clahe_slices(text: str) -> Step:
    return _clahe(text, slice_wise=True)


class _Append(argparse.Action):
    """Append a step to those before it, whatever option it came by."""

    def __init__(self, *args: Any, make: Callable[[str], Step], **more: Any) -> None:
        super().__init__(*args, **more)
        self._make = make

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        text = values if isinstance(values, str) else ""
        try:
            step = self._make(text)
        except (InputError, argparse.ArgumentTypeError) as error:
            raise argparse.ArgumentError(self, str(error)) from error
        namespace.steps = [*(namespace.steps or []), step]
        namespace.told = [*(namespace.told or []), f"{option} {text}".strip()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser)
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="float32 volume: .mrc, .zarr, .tif or .h5")
    parser.add_argument("--overwrite", action="store_true", help="replace an OUT that is there already")
    parser.set_defaults(steps=None, told=None)
    steps = parser.add_argument_group("steps, done in the order given, any number of times")

    def add(name: str, make: Callable[[str], Step], metavar: str | None, text: str) -> None:
        more: dict[str, Any] = {"metavar": metavar} if metavar else {"nargs": 0}
        steps.add_argument(f"--{name}", action=_Append, make=make, default=argparse.SUPPRESS, help=text, **more)

    add(
        "bilateral",
        _bilateral,
        "SIGMA,RANGE",
        "3D bilateral filter: SIGMA in voxels, RANGE in grey values (differences well below it are smoothed)",
    )
    add(
        "low-pass",
        _low_pass,
        "A",
        "Gaussian low-pass: half the amplitude passes at A Angstrom; or a sigma in voxels, as in 1.5vox",
    )
    add(
        "clahe",
        _clahe,
        "TILE[,CLIP]",
        "contrast-limited adaptive histogram equalisation in tiles of TILE voxels a side; CLIP: the largest part of a"
        " tile in one of 256 grey levels (default 0.01)",
    )
    add("clahe-slices", _clahe_slices, "TILE[,CLIP]", "the same, each z slice for itself")
    add("invert", _invert, None, "change the sign: dark protein becomes bright")
    add(
        "normalise",
        _normalise,
        "LOW,HIGH",
        "map the grey values at two percentiles to 0 and 1 and clip there; `min-max` is 0,100",
    )


def run(args: argparse.Namespace) -> None:
    """A tomogram in, a filtered one out."""
    from dataclasses import replace

    from .. import io
    from ..preprocessing import preprocess

    output = need_suffix(args.output, (".mrc", ".rec", ".zarr", ".tif", ".tiff", ".h5"))
    if not args.steps:
        raise input_error("cryoet filter", "steps", expected="one or more, as --low-pass 40", got="none")
    if output.resolve() == Path(args.tomogram).resolve():
        raise file_error(output, "output", expected="a name of its own", got="an input's", fix="choose another name")
    if output.exists() and not args.overwrite:
        raise file_error(output, "output", expected="a new name", got="one that is taken", fix="give --overwrite")
    volume = open_tomogram(args)
    folder = next(parent for parent in output.absolute().parents if parent.is_dir())
    with Bars() as bars:
        filtered = preprocess(volume, args.steps, scratch=folder, progress=bars)
        note = f"cryoet filter {' '.join(args.told)}"
        io.write(output, replace(filtered, notes=(*volume.notes, note)), progress=bars)
    say(f"{output}: {', '.join(args.told)}")
