# SPDX-License-Identifier: MIT
"""Where the frames of an animation go: a video (PyAV), a GIF, or a folder of PNGs. Whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from .._checks import MissingDependencyError, input_error, message
from ..io import partial_path

#: Codecs by a file's ending, the preferred first: what a build of PyAV has differs.
CODECS = {".mp4": ("libx264", "mpeg4"), ".mkv": ("libx264", "mpeg4"), ".webm": ("libvpx-vp9",)}
ENDINGS = (*CODECS, ".gif", "a folder")
_GIF_PALETTE_FRAMES = 8  # looked at for the palette that all frames share

Frame = Callable[[], Image.Image]


def check_output(path: str | os.PathLike[str], size: tuple[int, int], *, transparent: bool = False) -> str:
    """The lower-case ending of an animation's file, "" for a folder; InputError for what cannot be written.

    size: (width, height) in pixels. transparent: whether the frames have no background.
    """
    ending = Path(path).suffix.lower()
    if ending not in (*CODECS, ".gif", ""):
        fix = "give the output a video's ending, or name a folder for PNGs"
        raise input_error("animation", "output", expected=", ".join(ENDINGS), got=os.fspath(path), fix=fix)
    if ending and transparent:
        fix = "name a folder for PNGs, or give it a background"
        raise input_error("animation", "output", expected="a folder (transparent frames)", got=ending, fix=fix)
    if ending in CODECS and (size[0] % 2 or size[1] % 2):
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        fix = f"--size {even[0]}x{even[1]}, or a GIF"
        raise input_error(
            "animation",
            "size",
            expected="even numbers (video codecs halve the colours)",
            got=f"{size[0]}x{size[1]}",
            fix=fix,
        )
    if ending in CODECS:
        _av()
    return ending


def write_frames(
    path: str | os.PathLike[str],
    frames: Iterable[tuple[str, Frame]],
    *,
    fps: float,
    size: tuple[int, int],
    typical: Sequence[Frame] = (),
) -> tuple[str, ...]:
    """Draw frames one after another and write them. Returns what the person should read.

    frames: (name, function that draws it); a name says all that the picture depends on, so that a folder of PNGs
    can keep those that an interrupted run left. fps: frames a second. size: (width, height) in pixels.
    typical: some of the frames, which are drawn once more for the palette that all frames of a GIF share.
    """
    ending = check_output(path, size)
    if ending == "":
        _write_folder(Path(path), frames)
    elif ending == ".gif":
        return _write_gif(path, frames, fps, typical)
    else:
        _write_video(path, frames, fps, size, ending)
    return ()


def palette_frames(count: int) -> list[int]:
    """Numbers of the frames, of `count`, that a GIF's palette is made from: few, and spread evenly."""
    few = min(count, _GIF_PALETTE_FRAMES)
    return [count * n // few for n in range(few)]


def _write_folder(folder: Path, frames: Iterable[tuple[str, Frame]]) -> None:
    from .picture import save_image

    folder.mkdir(parents=True, exist_ok=True)
    number = -1
    for number, (name, draw) in enumerate(frames):
        file = folder / f"frame{number:05d}.png"
        if _name_in(file) != name:
            save_image(draw(), file, text={"cryoet-engine frame": name})
    for file in folder.glob("frame[0-9][0-9][0-9][0-9][0-9].png"):  # of a longer animation before
        if int(file.stem[5:]) > number and _name_in(file):
            file.unlink()


def _name_in(file: Path) -> str:
    try:
        with Image.open(file) as image:
            image.load()
            return str(getattr(image, "text", {}).get("cryoet-engine frame", ""))
    except (OSError, ValueError, SyntaxError):
        return ""


def _write_gif(
    path: str | os.PathLike[str], frames: Iterable[tuple[str, Frame]], fps: float, typical: Sequence[Frame]
) -> tuple[str, ...]:
    drawn = (draw().convert("RGB") for _, draw in frames)
    first = next(drawn)
    palette = _palette([draw().convert("RGB") for draw in typical] or [first])
    # One palette for all: a palette a frame would flicker. Frames come one by one: a long film is not held in full.
    paletted = (image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in chain([first], drawn))
    hundredths = gif_hundredths(fps)
    with partial_path(path) as partial:
        next(paletted).save(
            partial, format="GIF", save_all=True, append_images=paletted, duration=10 * hundredths, loop=0
        )
    real = 100 / hundredths
    if abs(real / fps - 1) <= 0.02:
        return ()
    return (f"a GIF's frames last whole hundredths of a second: it runs at {real:.3g} frames a second, not {fps:g}",)


def gif_hundredths(fps: float) -> int:
    """How long a frame lasts in a GIF: the nearest to 1 / fps, in hundredths of a second, that viewers keep to."""
    return max(2, round(100 / fps))  # many viewers show a frame of 0 or 1 for 10


def _palette(images: Sequence[Image.Image]) -> Image.Image:
    width, height = images[0].size
    sheet = Image.new("RGB", (width, height * len(images)))
    for row, image in enumerate(images):
        sheet.paste(image, (0, row * height))
    return sheet.quantize(256, method=Image.Quantize.MEDIANCUT)


def _write_video(
    path: str | os.PathLike[str], frames: Iterable[tuple[str, Frame]], fps: float, size: tuple[int, int], ending: str
) -> None:
    av = _av()
    codec = next((name for name in CODECS[ending] if name in av.codecs_available), None)
    if codec is None:
        raise MissingDependencyError(
            message(
                "animation", ending, expected=f"PyAV with {' or '.join(CODECS[ending])}", got="none", fix="try .gif"
            )
        )
    container_format = {".mp4": "mp4", ".mkv": "matroska", ".webm": "webm"}[ending]
    with partial_path(path) as partial, av.open(os.fspath(partial), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"libx264": {"crf": "16", "preset": "slow"}, "libvpx-vp9": {"crf": "24", "b": "0"}}.get(
            codec, {}
        )
        if codec == "mpeg4":
            stream.bit_rate = int(0.3 * fps * size[0] * size[1])
        for _, draw in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(draw().convert("RGB"))))
        container.mux(stream.encode(None))


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingDependencyError(
            message(
                "animation",
                "PyAV",
                expected="the package `av`, to write videos",
                got="none",
                fix='pip install "cryoet-engine[video]", or write a GIF or a folder of PNGs',
            )
        ) from None
    return av
