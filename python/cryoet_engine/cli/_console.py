# SPDX-License-Identifier: MIT
"""What several commands share: progress bars, and how tomograms, classes and sizes are given."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import file_error, input_error

if TYPE_CHECKING:
    from ..forest import PixelClassifier
    from ..volume import Region, Volume

#: How files begin that a picture or a video may be written over.
_SIGNATURES = {
    ".png": (b"\x89PNG",),
    ".gif": (b"GIF8",),
    ".mp4": (b"ftyp",),
    ".mkv": (b"\x1aE\xdf\xa3",),
    ".webm": (b"\x1aE\xdf\xa3",),
    ".tif": (b"II*\0", b"MM\0*"),
    ".tiff": (b"II*\0", b"MM\0*"),
}
#: How the notes of a volume begin that a command made of probabilities: such a file may be replaced by its like.
MAP_NOTE = "cryoet-engine map:"


class Bars:
    """A `Progress` that draws one bar a stage on stderr, with the time left.

    On a terminal a bar is redrawn in place; in a log a line is written at most every ten seconds.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        from tqdm import tqdm

        if stage != self._stage or self._bar is None:
            if self._bar is not None:  # what comes after a stage comes when that is done
                self._bar.update(self._bar.total - self._bar.n)
            self.close()
            self._stage = stage
            self._bar = tqdm(
                total=total,
                desc=stage,
                file=sys.stderr,
                dynamic_ncols=True,
                leave=True,
                mininterval=0.1 if sys.stderr.isatty() else 10.0,
                bar_format="{desc:<32.32} {percentage:3.0f}% |{bar:20}| {elapsed} < {remaining} {postfix}",
            )
        self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the current bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage = None, ""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def say(text: str) -> None:
    """A line for the person in front of the terminal."""
    print(text, file=sys.stderr, flush=True)


def add_tomogram(parser: argparse.ArgumentParser, *, nargs: str | None = None) -> None:
    """Add the positional TOMO, one or (`nargs`) several, and what may have to be said about it."""
    parser.add_argument(
        "tomogram",
        nargs=nargs,
        metavar="TOMO",
        help="tomogram: MRC (.mrc .rec .map, also .gz), OME-Zarr, TIFF or HDF5",
    )
    parser.add_argument(
        "--voxel-size", type=float, metavar="A", help="edge of a voxel in Angstrom, if the file is wrong"
    )
    parser.add_argument(
        "--fill",
        metavar="VALUE",
        help="replace NaN and infinite voxels by this number, or by `mean`; without it they are an error",
    )


def add_extra(parser: argparse.ArgumentParser) -> None:
    """Add the feature channels that the user brings."""
    parser.add_argument(
        "--extra",
        type=extra_channel,
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a feature channel of your own, a volume of the tomogram's shape; may be given several times",
    )


def open_tomogram(args: argparse.Namespace, path: str | None = None) -> Volume:
    """Open a tomogram lazily and make sure that every voxel is finite."""
    from .. import io
    from ..volume import statistics

    path = path or args.tomogram
    volume = io.read_volume(path)
    if getattr(args, "voxel_size", None) is not None:
        if not 0 < args.voxel_size < float("inf"):
            raise input_error("--voxel-size", "value", expected="a number above 0, in Angstrom", got=args.voxel_size)
        volume = replace(volume, voxel_size_A=(args.voxel_size,) * 3, voxel_size_status="known")
    if volume.dtype.kind in "iu":
        return volume
    facts = statistics(volume)
    if not facts.nonfinite:
        return volume
    if args.fill is None:
        raise input_error(
            str(path),
            "voxels",
            expected="finite numbers",
            got=f"{facts.nonfinite} NaN or infinite voxels",
            fix="give --fill mean, or --fill NUMBER, to replace them",
        )
    return io.fill_nonfinite(volume, fill_value(args.fill, facts.mean))


def fill_value(text: str, mean: float) -> float:
    """The number that --fill asks for."""
    import math

    try:
        value = mean if text == "mean" else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise input_error("--fill", "value", expected="a finite number, or `mean` of finite voxels", got=repr(text))
    return value


def class_names(text: str) -> tuple[str, ...]:
    """The names in a comma-separated list, background first."""
    names = tuple(name.strip() for name in text.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(
            f"expected two or more different names, as in background,membrane; got {text!r}"
        )
    if any(character in name for name in names for character in '/\\:"\0'):
        raise argparse.ArgumentTypeError(f"class names become file names: no slash, colon or quote; got {text!r}")
    return names


def pixel_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, as in 1920x1080; got {text!r}") from None
    if min(width, height) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1x1 pixels; got {text!r}")
    return width, height


def positive(text: str) -> int:
    """A whole number above zero."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0; got {text!r}")
    return value


def memory_size(text: str) -> int:
    """A memory limit such as 4G, in bytes."""
    from ..forest.memory import bytes_of

    try:
        return bytes_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a size such as 4G or 500M; got {text!r}") from None


def extra_channel(text: str) -> tuple[str, str]:
    """NAME=FILE, or FILE alone (whose name then is empty)."""
    name, equals, path = text.partition("=")
    return ("", text) if not equals or Path(text).exists() else (name.strip(), path)


def open_extra(args: argparse.Namespace) -> dict[str, Volume] | list[Volume]:
    """The volumes of --extra, by name where names were given."""
    given: list[tuple[str, str]] = args.extra
    names = [name for name, _ in given]
    if any(names) and (not all(names) or len(set(names)) < len(names)):
        raise input_error("--extra", "names", expected="a different NAME= before each file, or none", got=names)
    volumes = [open_tomogram(args, path) for _, path in given]
    return dict(zip(names, volumes, strict=True)) if any(names) else volumes


def load_forest(path: str) -> PixelClassifier:
    """A saved forest, or the classifier of an ilastik project."""
    from ..forest import PixelClassifier

    return PixelClassifier.from_ilastik(path) if path.lower().endswith(".ilp") else PixelClassifier.load(path)


def need_suffix(path: str, suffixes: tuple[str, ...], option: str = "-o") -> Path:
    """The output's path, refused when its name would not tell what is in it."""
    out = Path(path)
    if out.suffix.lower() not in suffixes:
        raise input_error(option, "file name", expected=f"a name that ends in {' or '.join(suffixes)}", got=path)
    return out


def region(text: str) -> Region:
    """Z0:Z1,Y0:Y1,X0:X1 in voxels; an empty number means the border."""
    try:
        parts = [[int(number) if number else None for number in part.split(":")] for part in text.split(",")]
        z, y, x = (slice(start, stop) for start, stop in parts)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected Z0:Z1,Y0:Y1,X0:X1, as in 40:80,:,100:200; got {text!r}") from None
    return z, y, x


def guard_outputs(outputs: Sequence[str | Path | None], inputs: Sequence[str | Path | None]) -> None:
    """Refuse an output that would take the place of an input, or of data that no run of this command makes."""
    read = {Path(path).resolve() for path in inputs if path}
    written = [Path(path).resolve() for path in outputs if path]
    for path in written:
        if written.count(path) > 1:
            raise file_error(path, "output", expected="a name of its own", got="two outputs of it", fix="rename one")
        if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
            raise file_error(path, "output", expected="a folder to write into", got="one without permission")
    for path in (Path(path) for path in outputs if path):
        if path.resolve() in read:
            raise file_error(path, "output", expected="a name of its own", got="an input's", fix="choose another name")
        if path.exists() and not _is_result(path):
            raise file_error(
                path, "output", expected="a new name, or an older result", got="other data", fix="choose another name"
            )


def _is_result(path: Path) -> bool:
    """Whether a file or folder is of a kind that the same option writes."""
    from .. import io
    from ..volume import SoftSegmentation

    if path.suffix in (".zarr", ".mrc"):
        item = io.read(path)
        return isinstance(item, SoftSegmentation) or any(note.startswith(MAP_NOTE) for note in item.notes)
    if path.suffix == ".json":
        from ..transfer import TransferFunction

        head = path.read_bytes()[:200]
        if b'"kind": "forest"' in head or b'"kind": "cryoet-engine session"' in head:
            return True
        TransferFunction.load(path)
        return True
    if path.suffix == ".md":
        return path.read_bytes()[:9] == b"# Forest "
    head = path.read_bytes()[:12]
    if path.suffix in _SIGNATURES:
        return any(sign in head for sign in _SIGNATURES[path.suffix])
    return b"cryoet-engine forest" in path.read_bytes()[:4096]
