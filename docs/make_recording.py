# SPDX-License-Identifier: MIT
"""Remake docs/pictures/viewer.gif and viewer.png: a person draws on the lysosome, and labels and 3D follow.

`.venv/bin/python docs/make_recording.py`. Needs Xvfb, xdotool and the lysosome, in the folder
`CRYOET_TEST_DATA`, by default ../shared/data beside the checkout. Takes some minutes on a processor.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
sys.path.insert(0, str(ROOT / "tests" / "viewer"))

import person  # noqa: E402
from person import RAMPS, SCENE, SIZE, SLICE_Z, Pane, Running, Screen, arc, difference, near_hue, on_slice, until  # noqa: E402

CLASSES = "background,membrane,spikes,lumen"
SHAPE = (256, 256)  # (y, x) of the slice that is drawn on, z = 64
WIDTH, COLOURS, LARGEST = 900, 64, 3_000_000
BACKGROUND, MEMBRANE, SPIKES, LUMEN = 1, 2, 3, 4


class Film:
    """Keeps a picture of the screen whenever it has changed, while a `with` lasts; if asked, in a folder, too."""

    def __init__(self, screen: Screen, folder: Path | None = None, every: float = 0.25) -> None:
        self._folder = folder
        self.frames: list[np.ndarray] = []
        self._screen, self._every = screen, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            now = self._screen.look()
            if not self.frames or difference(now, self.frames[-1]) > 0.02:
                self.frames.append(now)
                if self._folder is not None:
                    Image.fromarray(now).save(self._folder / f"{len(self.frames):04d}.png", compress_level=1)

    def __enter__(self) -> Film:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def stroke(screen: Screen, label: int, places: Sequence[tuple[float, float]]) -> None:
    screen.key(str(label))
    screen.drag([on_slice(SLICE_Z, SHAPE, *place) for place in places], wait=0.5)


def act(screen: Screen) -> None:
    """What is shown: strokes, labels, the solid, ramps, no dust, a cut, a turn, a class hidden and shown."""
    empty = screen.look(SCENE)
    middle, radius = (139.0, 82.0), 64.0
    for _ in range(4):
        screen.key("bracketleft")  # a finer brush
    stroke(screen, MEMBRANE, arc(middle, radius, 75, 290, 14))
    stroke(screen, LUMEN, [(170, 60), (120, 50), (110, 100), (160, 110)])
    stroke(screen, BACKGROUND, [(30, 110), (60, 220), (150, 232), (236, 190)])
    stroke(screen, BACKGROUND, arc(middle, radius + 14, 110, 250, 6))
    stroke(screen, SPIKES, arc(middle, radius + 6, -20, 30, 5))
    screen.move(*SCENE.middle)
    until(lambda: difference(screen.look(SCENE), empty) > 8, "classes in 3D", 120)
    screen.steady(SCENE, 2.0, 120)

    for ramp, way in ((RAMPS[0], 50), (RAMPS[1], 60)):
        left = left_end(screen, ramp)
        screen.drag([(left + way * n / 4, ramp.middle[1]) for n in range(5)], wait=0.8)
    screen.steady(SCENE, 1.0, 120)
    open_tab(screen, person.VIEW_TAB)
    screen.click(*person.HIDE_DUST)
    screen.write("60")
    screen.steady(SCENE, 3.0, 120)
    screen.click(*person.CUT_Z)
    screen.steady(SCENE, 2.0, 120)
    x, y = SCENE.middle
    screen.drag([(x - 60 + 10 * n, y - 60 + 6 * n) for n in range(10)], wait=0.8)
    screen.steady(SCENE, 2.0, 120)
    screen.click(*person.shown_in_3d(LUMEN))
    screen.steady(SCENE, 2.0, 120)
    screen.click(*person.shown_in_3d(LUMEN))
    screen.move(SCENE.right - 5, SCENE.bottom + 20)
    until(lambda: not near_hue(screen.look(person.STATE), person.BAR, 0.3).any(), "no more dust", 120)
    screen.steady(SCENE, 4.0, 120)


def open_tab(screen: Screen, tab: tuple[int, int]) -> None:
    """Once more, as a person does, where a window that is busy has not taken the click."""
    before = screen.look(person.PANEL)
    for _ in range(5):
        screen.move(*tab)
        time.sleep(0.3)
        screen.click(*tab)
        with suppress(AssertionError):
            until(lambda: difference(screen.look(person.PANEL), before) > 2, "another panel", 4)
            return
    raise AssertionError(f"no other panel after five clicks at {tab}")


def left_end(screen: Screen, ramp: Pane) -> int:
    """Column of the left handle of a ramp: the first that is white at the top of the plot."""
    return ramp.left + int(np.flatnonzero((screen.look(ramp)[:8] > 240).all(-1).any(0))[0])


def small(pixels: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def palette_of(images: Sequence[Image.Image]) -> Image.Image:
    """One palette for all: what fills areas, as it is; greys; and half for colours, which are what is to be seen."""
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3)[::7] for image in images[:: max(len(images) // 12, 1)]])
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    flat = found[np.argsort(-counts)[: COLOURS // 8]]
    vivid = pixels.max(-1).astype(int) - pixels.min(-1) > 40
    colours = flat.ravel().tolist()
    for part, n in ((pixels[~vivid], COLOURS // 2 - len(flat)), (pixels[vivid], COLOURS // 2)):
        few = np.random.default_rng(0).choice(part, 20_000)[None]
        used = Image.fromarray(few).quantize(n, Image.Quantize.MEDIANCUT, kmeans=3)
        colours += (used.getpalette() or [])[: 3 * n]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


def reduced(image: Image.Image, palette: Image.Image) -> Image.Image:
    """In the palette's colours: 3D with dither, which smooth shades need, and the rest, which stands still, without."""
    share = image.width / SIZE[0]
    left, top, right, bottom = (round(share * n) for n in SCENE)
    whole = image.quantize(palette=palette, dither=Image.Dither.NONE)
    whole.paste(
        image.crop((left, top, right, bottom)).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG),
        (left, top),
    )
    return whole


def save_gif(frames: Sequence[np.ndarray], path: Path, wanted: int) -> None:
    """At most `wanted` frames, evenly, smaller and smaller until they fit."""
    chosen = [frames[n] for n in np.unique(np.linspace(0, len(frames) - 1, wanted).round().astype(int))]
    width = WIDTH
    while True:
        shrunk = [small(frame, width) for frame in chosen]
        palette = palette_of(shrunk)
        drawn = [reduced(one, palette) for one in shrunk]
        times = [120] * (len(drawn) - 1) + [2500]
        drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=times, loop=0, optimize=True)
        if path.stat().st_size <= LARGEST:
            return
        width = round(0.92 * width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=90, help="of the GIF, at most")
    parser.add_argument("--keep", type=Path, help="a folder for all that was seen, as PNG")
    args = parser.parse_args()
    data = Path(os.environ.get("CRYOET_TEST_DATA") or ROOT.parent / "shared" / "data") / "lysosome"
    if not data.is_dir() or person.missing():
        sys.exit(f"make_recording: {person.missing() or f'no lysosome at {data}'}")
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Screen(Path(folder) / "screen") as screen:
        arguments = [data / "lysosome_bin2.mrc", "--classes", CLASSES]
        with Running(screen, Path(folder) / "home", *arguments):
            until(lambda: screen.look(SCENE).std() > 5, "the tomogram", 60)
            screen.steady(SCENE, 1.0, 60)
            with Film(screen, args.keep) as film:
                act(screen)
    print(f"{len(film.frames)} pictures in {time.perf_counter() - began:.0f} s")
    PICTURES.mkdir(exist_ok=True)
    save_gif(film.frames, PICTURES / "viewer.gif", args.frames)
    small(film.frames[-1], 1280).save(PICTURES / "viewer.png", optimize=True)
    print(PICTURES / "viewer.gif", (PICTURES / "viewer.gif").stat().st_size)


if __name__ == "__main__":
    main()
