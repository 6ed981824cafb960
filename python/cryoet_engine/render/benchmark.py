# SPDX-License-Identifier: MIT
"""How fast pictures are drawn, what they take and how true they are: paper 1's Table 3 as a harness.

The scene is a field of spiked virions as large as one likes: one tile of it, repeated when it is read. Nothing is
larger in memory than that tile and the slab that is on its way to the card.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .._checks import input_error
from .._progress import Progress, silent
from ..transfer import Ramp, RawRamp, TransferFunction
from ..volume import Float32Array, SoftSegmentation, Volume
from .context import is_software, opened_context
from .packing import Bits
from .renderer import Renderer
from .settings import Mode, RenderSettings
from .tone import srgb

MODES: tuple[Mode, ...] = ("cached", "reference", "dvr", "iso", "mip", "vpt")

#: Paper 1, Table 3 (Quadro RTX 8000): frames a second by (volumes, width), and section 6.2's memory at 8 bit, which the
#: paper calls GB. 500 slices of 1024 x 1440 give its larger figures in GiB; its smaller ones are half of them, which
#: is 250 slices, not the 227 that it names: those take 0.62 and 1.25 GiB.
PAPER_FPS = {(2, 1920): 26.24, (4, 1920): 21.50, (2, 3840): 10.89, (4, 3840): 9.20}
PAPER_GIB = {2: (0.69, 1.37), 4: (1.37, 2.75)}
PAPER_DEPTHS = (227, 295, 363, 432, 500)  # the paper gives the first and the last
PAPER_SIZES = ((1920, 1080), (3840, 2160))

#: Trilinear fetches and bytes a second that a card can do at most: texture units x clock / 2, and memory.
CARDS = {"Quadro RTX 8000": (255e9, 672e9), "H200": (523e9, 4.8e12)}

_TILE = (160, 256, 360)
_SEED = 7


@dataclass(frozen=True)
class Row:
    """One measurement. gpu_ms_per_frame: see `Turn`; bytes: on the card; rmse_to_converged: see `rmse`, or NaN."""

    mode: str
    scene: str
    volume: tuple[int, int, int]
    bits: int
    size: tuple[int, int]
    ms_per_frame: float
    gpu_ms_per_frame: float | None
    bytes: int
    rmse_to_converged: float

    def as_json(self) -> dict[str, Any]:
        """With null for NaN."""
        content = asdict(self)
        content["rmse_to_converged"] = None if np.isnan(self.rmse_to_converged) else self.rmse_to_converged
        return content


class _Repeated:
    """An array that repeats a tile along its last three axes, cut out where it is asked for."""

    def __init__(self, tile: npt.NDArray[Any], shape: tuple[int, int, int]) -> None:
        self._tile = tile
        self.shape = (*tile.shape[:-3], *shape)
        self.dtype = tile.dtype
        self.ndim = tile.ndim

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        keys = key if isinstance(key, tuple) else (key,)
        keys = (*keys, *(slice(None),) * (self.ndim - len(keys)))
        part = self._tile
        for axis in range(self.ndim - 3, self.ndim):
            chosen = np.arange(self.shape[axis])[keys[axis]] % self._tile.shape[axis]
            part = np.take(part, np.atleast_1d(chosen), axis=axis)
        if self.ndim == 4:
            part = part[keys[0]]
        return part


def virion_field(shape: tuple[int, int, int], n_classes: int = 3) -> tuple[Volume, SoftSegmentation, TransferFunction]:
    """A field of spiked virions of this shape (z, y, x): raw volume, soft classes and ramps.

    n_classes: 3 (membrane, spikes, lumen: the paper's four volumes with the raw one) or 1 (foreground: two volumes).
    """
    if n_classes not in (1, 3):
        raise input_error("virion_field", "n_classes", expected="1 or 3", got=n_classes)
    raw, classes = _tile(tuple(min(a, b) for a, b in zip(shape, _TILE, strict=True)))
    if n_classes == 1:
        classes = np.stack([classes[0], 255 - classes[0]])
        names: tuple[str, ...] = ("background", "foreground")
    else:
        names = ("background", "membrane", "spikes", "lumen")
    volume = Volume(_Repeated(raw, shape), voxel_size_A=(10.0,) * 3)
    soft = SoftSegmentation(_Repeated(classes, shape), names, voxel_size_A=(10.0,) * 3)
    colors = ((0.72, 0.62, 0.46),) if n_classes == 1 else ((0.85, 0.58, 0.18), (0.8, 0.1, 0.24), (0.1, 0.3, 0.8))
    ramps = (Ramp(left=0.5, visible=False), *(Ramp(left=0.3, color=color) for color in colors))
    return (
        volume,
        soft,
        TransferFunction(classes=names, ramps=ramps, raw=RawRamp(low_pass_sigma_vox=1.0, at_zero=130.0, at_one=70.0)),
    )


@lru_cache(maxsize=1)
def _tile(shape: tuple[int, ...]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Raw (z, y, x) and classes (4, z, y, x) of some virions that lie inside the tile."""
    rng = np.random.default_rng(_SEED)
    membrane, spikes, lumen = (np.zeros(shape, np.float32) for _ in range(3))
    largest = 0.3 * min(shape)
    placed: list[tuple[npt.NDArray[np.float64], float]] = []
    for _ in range(400):
        radius = largest * rng.uniform(0.6, 1.0)
        reach = 1.35 * radius
        centre = np.array([rng.uniform(min(reach, n / 2), max(n - reach, n / 2)) for n in shape])
        if all(np.linalg.norm(centre - other) > 1.4 * (radius + size) for other, size in placed):
            placed.append((centre, radius))
    for centre, radius in placed:
        box = tuple(
            slice(max(0, int(c - 1.4 * radius)), min(n, int(c + 1.4 * radius) + 1))
            for c, n in zip(centre, shape, strict=True)
        )
        z, y, x = np.ogrid[box]
        offset = (z - centre[0], y - centre[1], x - centre[2])
        distance = np.sqrt(sum(o**2 for o in offset)).astype(np.float32)
        thickness = max(0.06 * radius, 1.2)
        membrane[box] = np.maximum(membrane[box], np.exp(-(((distance - radius) / thickness) ** 2)))
        for _ in range(60):
            direction = rng.normal(size=3)
            tip = 1.15 * radius * direction / np.linalg.norm(direction)
            away = sum((o - t) ** 2 for o, t in zip(offset, tip, strict=True))
            spikes[box] = np.maximum(spikes[box], np.exp(-away / (2 * thickness**2)).astype(np.float32))
        clumps = ndimage.gaussian_filter(rng.random(distance.shape, np.float32), 0.08 * radius + 0.7)
        bright = clumps > np.quantile(clumps, 0.75)
        lumen[box] = np.maximum(lumen[box], bright * np.clip(0.85 * radius - distance, 0, 1))
    classes = np.stack([np.clip(1 - membrane - spikes - lumen, 0, 1), membrane, spikes, np.clip(lumen, 0, 1)])
    density = np.clip(membrane + spikes + 0.7 * lumen, 0, 1)
    raw = 128 - 60 * density + rng.normal(0, 18, shape).astype(np.float32)
    return np.clip(np.rint(raw), 0, 255).astype(np.uint8), np.rint(255 * classes).astype(np.uint8)


def display(picture: Float32Array) -> Float32Array:
    """Display values 0..1 (sRGB) of premultiplied linear light over black, (height, width, 3)."""
    return srgb(picture[..., :3])


def rmse(picture: Float32Array, converged: Float32Array) -> float:
    """Root mean square difference of display values 0..1, over pixels whose converged opacity exceeds 0.02.

    Both (height, width, 4) as `Renderer.mean` gives them. Empty background would hide every error.
    """
    seen = converged[..., 3] > 0.02
    if not seen.any():
        return 0.0
    return float(np.sqrt(((display(picture) - display(converged))[seen] ** 2).mean()))


def settings_for(mode: Mode) -> RenderSettings:
    """What each technique is measured with: ours with all stages, the rivals on the raw volume."""
    lit = RenderSettings(mode=mode, frames=1)
    if mode in ("cached", "reference"):
        return lit
    grey = (
        (0.0, 0.3, 0.3, 0.3, 0.0),
        (0.5, 0.3, 0.3, 0.3, 0.0),
        (0.75, 0.6, 0.6, 0.6, 0.05),
        (1.0, 1.0, 1.0, 1.0, 0.4),
    )
    return replace(lit, source="raw", occlusion=0.0, shadow=0.5 if mode == "vpt" else 0.0, bloom=0.0, raw_colors=grey)


def turn(settings: RenderSettings, views: int) -> Iterator[RenderSettings]:
    """Evenly spaced views of the paper's turn of 360 degrees."""
    for view in range(views):
        yield replace(settings, azimuth_deg=settings.azimuth_deg + 360 * view / views)


@dataclass(frozen=True)
class Turn:
    """Milliseconds a frame: wall clock, and the card's own timer (None on software OpenGL, which has none)."""

    ms: float
    gpu_ms: float | None


def time_turn(renderer: Renderer, settings: RenderSettings, size: tuple[int, int], *, views: int, runs: int) -> Turn:
    """A frame's time, mean over the turn and the runs, as the paper's; what outlives a camera is there already."""
    points = renderer.visible_points(settings, turning=True)
    cameras = [(renderer.camera_for(points, look, size), look) for look in turn(settings, views)]
    renderer.accumulate(*cameras[0], size, frames=1)
    renderer.show(settings)
    wall, card = [], []
    for _ in range(runs):
        started = time.perf_counter()
        with renderer.timer() as elapsed:
            for camera, look in cameras:
                renderer.accumulate(camera, look, size, frames=1)
                renderer.show(look)
        wall.append((time.perf_counter() - started) / views)
        card.append(elapsed() / views)
    return Turn(1e3 * statistics.mean(wall), None if renderer.software else 1e3 * statistics.mean(card))


def standing_still(renderer: Renderer, settings: RenderSettings, size: tuple[int, int], frames: int = 3) -> float:
    """Milliseconds a frame that joins the mean of those before it, from one camera."""
    camera = renderer.fit_camera(settings, size)
    renderer.accumulate(camera, settings, size, frames=1)
    started = time.perf_counter()
    for number in range(1, frames + 1):
        renderer.accumulate(camera, settings, size, frames=1, first_frame=number)
        renderer.show(settings)
    return 1e3 * (time.perf_counter() - started) / frames


def truth_of(renderer: Renderer, settings: RenderSettings, size: tuple[int, int], frames: int) -> Float32Array:
    """The converged picture that a mode is held against: the reference with many samples for the lit ones."""
    if settings.mode in ("cached", "reference"):
        settings = replace(settings, mode="reference", occlusion_samples=32, shadow_samples=32, step_vox=0.5)
    else:
        settings = replace(settings, step_vox=0.5)
    renderer.accumulate(renderer.fit_camera(settings, size), settings, size, frames=frames)
    return renderer.mean()


def dragging(renderer: Renderer, transfer: TransferFunction, size: tuple[int, int], steps: int = 3) -> dict[str, float]:
    """Milliseconds a frame while a ramp or the light is dragged: quarter-resolution light, rebuilt for each frame."""
    look = replace(settings_for("cached"), light_spacing=4)
    camera = renderer.fit_camera(look, size)
    renderer.accumulate(camera, look, size, frames=1)

    def timed(change: Callable[[int], RenderSettings]) -> float:
        taken = []
        for step in range(steps):
            started = time.perf_counter()
            renderer.accumulate(camera, change(step), size, frames=1)
            renderer.show(look)
            taken.append(time.perf_counter() - started)
        return 1e3 * statistics.median(taken)

    def ramp(step: int) -> RenderSettings:
        name = transfer.classes[1]
        renderer.set_transfer(transfer.with_ramp(name, left=transfer.ramp(name).left + 0.01 * (step + 1)))
        return look

    result = {"ramp": timed(ramp)}
    renderer.set_transfer(transfer)
    result["light"] = timed(lambda step: replace(look, light_azimuth_deg=look.light_azimuth_deg + 5 * (step + 1)))
    return result


def fetches(renderer: Renderer, settings: RenderSettings, size: tuple[int, int]) -> dict[str, float]:
    """Leaps, samples and light look-ups of a ray, means over the picture."""
    renderer.counting = True
    try:
        renderer.accumulate(renderer.fit_camera(settings, size), settings, size, frames=1)
        leaps, samples, lit, _ = (float(v) for v in renderer.mean().mean(axis=(0, 1)))
    finally:
        renderer.counting = False
    return {"leaps": leaps, "samples": samples, "light": lit}


def limit_ms(counted: dict[str, float], size: tuple[int, int], packing_bytes: int, card: str) -> float:
    """The least time of a frame that a card's texture units and memory allow: fetches, and every texel once."""
    rate, bandwidth = CARDS[card]
    # A leap's integer fetch is a point sample: half of a trilinear one.
    trilinear = (counted["samples"] + counted["light"] + 0.5 * counted["leaps"]) * size[0] * size[1]
    return 1e3 * max(trilinear / rate, packing_bytes / bandwidth)


Scene = tuple[Volume, SoftSegmentation, TransferFunction]


def measure(
    shape: tuple[int, int, int],
    size: tuple[int, int],
    *,
    n_volumes: int = 4,
    given: Scene | None = None,
    modes: Sequence[Mode] = MODES,
    bits: Bits = 8,
    views: int = 4,
    runs: int = 3,
    truth_size: tuple[int, int] = (240, 135),
    truth_frames: int = 24,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Rows for each mode, stages apart, dragging, fetches and the cards' limits.

    shape: of the volumes (z, y, x). size: (width, height). n_volumes: 2 or 4 with the raw one. given: a scene of one's
    own, instead of `virion_field(shape, n_volumes - 1)`. views, runs: of the turn. truth_size, truth_frames: of the
    pictures that accuracy is judged by; 0 frames: not at all.
    """
    volume, soft, transfer = given or virion_field(shape, n_volumes - 1)
    shown = sum(ramp.visible for ramp in transfer.ramps) + 1
    scene = f"{'given' if given else 'virions'}, {shown} volumes"
    rows = []
    with opened_context() as context:
        renderer = Renderer(context)
        renderer.load(volume, soft, transfer, bits=bits, max_bytes=2**40, beyond="slabs", progress=progress)
        result: dict[str, Any] = {
            "renderer": str(context.info["GL_RENDERER"]),
            "software": is_software(context),
            "notices": renderer.notices,
        }
        truths: dict[str, Float32Array] = {}
        for number, mode in enumerate(modes):
            look = settings_for(mode)
            if mode == "vpt" and not renderer.whole:
                result["notices"] = [*result["notices"], "vpt was not measured: its paths do not go through slabs"]
                continue
            taken = time_turn(renderer, look, size, views=1 if mode == "reference" else views, runs=runs)
            held = sum(amount for _, amount in renderer.memory())
            error = float("nan")
            if truth_frames:
                kind = "lit" if mode in ("cached", "reference") else mode
                many = truth_frames * (8 if mode == "vpt" else 1)
                if kind not in truths:
                    truths[kind] = truth_of(renderer, look, truth_size, many)
                renderer.accumulate(renderer.fit_camera(look, truth_size), look, truth_size, frames=16)
                error = rmse(renderer.mean(), truths[kind])
            rows.append(Row(mode, scene, volume.shape, bits, size, taken.ms, taken.gpu_ms, held, error))
            progress("techniques", number + 1, len(modes))
        cached = settings_for("cached")
        renderer.accumulate(renderer.fit_camera(cached, size), replace(cached, light_spacing=4), size, frames=1)
        renderer.accumulate(renderer.fit_camera(cached, size), cached, size, frames=1)
        renderer.show(cached)
        stages = {name: 1e3 * seconds for name, seconds in renderer.timings.items()}
        counted = fetches(renderer, cached, size)
        texels = renderer.memory()[0][1]
        result |= {
            "rows": [row.as_json() for row in rows],
            "stages_ms": stages,
            "memory": dict(renderer.memory()),
            "fetches_per_pixel": counted,
            "limit_ms": {card: limit_ms(counted, size, texels, card) for card in CARDS},
            "standing_still_ms": standing_still(renderer, cached, size),
            "dragging_ms": dragging(renderer, transfer, size),
            "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
    return result


def paper_table(
    *,
    depths: Sequence[int] = PAPER_DEPTHS,
    sizes: Sequence[tuple[int, int]] = PAPER_SIZES,
    plane: tuple[int, int] = (1024, 1440),
    volumes: Sequence[int] = (2, 4),
    bits: Sequence[Bits] = (8, 16),
    views: int = 36,
    runs: int = 5,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Paper 1's Table 3: the turn, two and four volumes, two sizes, over data of these depths; memory beside it.

    plane: (y, x) of the volumes. Frames a second are means over the volumes, as the paper's.
    """
    cells: list[dict[str, Any]] = []
    jobs = [(n, width, depth) for n in bits for width in volumes for depth in depths]
    with opened_context() as context:
        renderer = Renderer(context)
        software = is_software(context)
        for number, (n_bits, n_volumes, depth) in enumerate(jobs):
            renderer.load(*virion_field((depth, *plane), n_volumes - 1), bits=n_bits, max_bytes=2**40, beyond="slabs")
            for size in sizes:
                taken = time_turn(renderer, settings_for("cached"), size, views=views, runs=runs)
                counted = fetches(renderer, settings_for("cached"), size)
                held = renderer.memory()
                cells.append(
                    {
                        "volumes": n_volumes,
                        "bits": n_bits,
                        "depth": depth,
                        "size": list(size),
                        "ms_per_frame": taken.ms,
                        "gpu_ms_per_frame": taken.gpu_ms,
                        "bytes": sum(amount for _, amount in held),
                        "volume_bytes": held[0][1],
                        "memory": dict(held),
                        "fetches_per_pixel": counted,
                        "limit_ms": {card: limit_ms(counted, size, held[0][1], card) for card in CARDS},
                        "notices": list(renderer.notices),
                    }
                )
                renderer.notices.clear()
            progress("volumes", number + 1, len(jobs))
        return {"renderer": str(context.info["GL_RENDERER"]), "software": software, "cells": cells}


def summary(table: dict[str, Any]) -> list[str]:
    """The paper's table with ours beside it, as lines of text."""
    lines = [
        f"{table['renderer']}: turn of 360 degrees, cached mode",
        f"{'volumes':>8s} {'bits':>5s} {'size':>11s} {'paper fps':>10s} {'ours fps':>9s} {'ratio':>7s} "
        f"{'limit fps, RTX 8000':>20s} {'paper GiB':>12s} {'ours GiB':>12s} {'bytes a byte':>12s}",
    ]
    keys = sorted({(cell["bits"], cell["volumes"], tuple(cell["size"])) for cell in table["cells"]})
    for bits, volumes, size in keys:
        of = [c for c in table["cells"] if (c["bits"], c["volumes"], tuple(c["size"])) == (bits, volumes, size)]
        fps = statistics.mean(1e3 / cell["ms_per_frame"] for cell in of)
        limit = statistics.mean(1e3 / cell["limit_ms"]["Quadro RTX 8000"] for cell in of)
        paper = PAPER_FPS.get((volumes, size[0]))
        # All that is on the card, over the bytes of the volumes alone, which are what the paper's figures count.
        ratio = max(cell["bytes"] / (cell["depth"] * 1024 * 1440 * volumes * bits / 8) for cell in of)
        full = of[0]["volume_bytes"] / of[0]["depth"] > 1024 * 1440
        low, high = min(c["bytes"] for c in of) / 2**30, max(c["bytes"] for c in of) / 2**30
        of_paper = tuple(size * bits / 8 for size in PAPER_GIB[volumes])
        lines.append(
            f"{volumes:8d} {bits:5d} {size[0]:>6d}x{size[1]:<4d} {paper or 0:10.2f} {fps:9.2f} "
            f"{fps / paper if paper else 0:7.2f} {limit:20.0f} {of_paper[0]:6.2f}-{of_paper[1]:<5.2f} "
            f"{low:6.2f}-{high:<5.2f} {f'{ratio:12.3f}' if full else '-':>12s}"
        )
    return lines
