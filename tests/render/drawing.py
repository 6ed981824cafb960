# SPDX-License-Identifier: MIT
"""Scenes and cameras of which a test can say what should be seen."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from cryoet_engine import SoftSegmentation, TransferFunction, Volume
from cryoet_engine.render import Renderer, RenderSettings
from cryoet_engine.render.camera import Camera, direction
from cryoet_engine.transfer import Ramp, RawRamp
from reference.raymarch import View

Scene = tuple[Volume, SoftSegmentation, TransferFunction]

NAMES = ("background", "a", "b", "c", "d", "e", "f", "g")
COLORS = ((1.0, 0.1, 0.0), (0.0, 0.2, 1.0), (0.1, 1.0, 0.1), (0.9, 0.9, 0.0), (0.5, 0.0, 0.5), (0.0, 1.0, 1.0))
#: Colour alone: no light, no bloom, one frame.
BARE = RenderSettings(occlusion=0, shadow=0, bloom=0, exposure=1, frames=1)
#: The raw volume as it is: what is 0..1 stays 0..1.
AS_IT_IS = RawRamp(low_pass_sigma_vox=0.0, at_zero=0.0, at_one=1.0)


def soft(*classes: np.ndarray) -> SoftSegmentation:
    """Classes "a", "b", ... (z, y, x), 0..1 or uint8, after a background that is nowhere."""
    data = np.stack([np.zeros_like(classes[0]), *classes])
    return SoftSegmentation(data if data.dtype == np.uint8 else data.astype(np.float32), NAMES[: len(data)])


def ramps(n: int, raw: RawRamp | None = None, **fields: Any) -> TransferFunction:
    """Ramps from 0 to 1 in COLORS; `fields` of Ramp apply to every class but the background."""
    shown = [Ramp(**{"left": 0.0, "color": COLORS[i], **fields}) for i in range(n)]
    return TransferFunction(classes=NAMES[: n + 1], ramps=(Ramp(left=0.5, visible=False), *shown), raw=raw)


def opened(gl: Any, volume: Volume | None, segmentation: SoftSegmentation, transfer: TransferFunction, **how: Any):
    """A renderer with the scene on the card."""
    renderer = Renderer(gl)
    renderer.load(volume, segmentation, transfer, **how)
    return renderer


def picture(renderer: Renderer, camera: Camera, settings: RenderSettings, size: tuple[int, int], **how: Any):
    """Mean of the frames: (height, width, 4), premultiplied linear RGB and opacity."""
    renderer.accumulate(camera, settings, size, **how)
    return renderer.mean()


def looking(
    azimuth_deg: float = 0,
    elevation_deg: float = 90,
    *,
    half_height: float = 12.0,
    distance: float = 100.0,
    orthographic: bool = True,
) -> Camera:
    """A camera at the middle of the volume; by default straight down, x to the right and y up, parallel rays."""
    back = direction(azimuth_deg, elevation_deg)
    right = direction(azimuth_deg + 90, 0)
    return Camera(
        eye=distance * back,
        forward=-back,
        right=right,
        up=np.cross(back, right),
        half_height=half_height,
        orthographic=orthographic,
        target_depth=distance,
    )


def view_of(camera: Camera, shape: tuple[int, int, int]) -> View:
    """The same camera in the reference's coordinates."""
    return View(
        eye=camera.eye[::-1] + (np.array(shape) - 1) / 2,
        forward=camera.forward[::-1],
        right=camera.right[::-1],
        up=camera.up[::-1],
        half_height=camera.half_height,
        parallel=camera.orthographic,
    )


def box(shape: tuple[int, int, int], *corner_and_end: tuple[int, int]) -> np.ndarray:
    """1 within (first, stop) along z, y and x, 0 elsewhere; what is left out extends over all."""
    block = np.zeros(shape)
    block[tuple(slice(*pair) for pair in corner_and_end)] = 1
    return block


def waves(shape: tuple[int, int, int], seed: int, period: float = 9.0) -> np.ndarray:
    """A smooth field of values 0..1, on the levels of 8 bits."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    sum_ = sum(
        np.cos(np.tensordot(u, grid, 1) * 2 * np.pi / period + phase)
        for u, phase in zip(_sphere(9), rng.uniform(0, 6, 9), strict=True)
    )
    return np.rint(255 * np.clip(0.5 + sum_ / 6, 0, 1)) / 255


def _sphere(n: int) -> np.ndarray:
    """n directions (z, y, x), a golden spiral."""
    height = 1 - (2 * np.arange(n) + 1) / n
    angle = np.arange(n) * np.pi * (3 - np.sqrt(5))
    return np.stack([height, *(np.sqrt(1 - height**2) * (np.sin(angle), np.cos(angle)))], axis=1)


def _below(distance: np.ndarray, limit: float) -> np.ndarray:
    """1 where a distance is under the limit, falling to 0 over about two voxels, as soft predictions do."""
    return 1 / (1 + np.exp(np.clip(2.5 * (distance - limit), -30, 30)))


def _to_segment(grid: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of every voxel to the segment from a to b."""
    along = b - a
    t = np.clip(np.tensordot(along, grid - a[:, None, None, None], 1) / (along @ along), 0, 1)
    return np.sqrt(((grid - a[:, None, None, None] - t * along[:, None, None, None]) ** 2).sum(0))


def spiked_vesicle() -> dict[str, np.ndarray]:
    """A membrane of radius 17, 40 spikes with heads on it, and granules inside; 64 voxels an edge."""
    grid = np.indices((64, 64, 64)) - 31.5
    radius = np.sqrt((grid**2).sum(0))
    heads = np.full(radius.shape, 99.0)
    for u in _sphere(40):
        heads = np.minimum(heads, np.sqrt(((grid - 25.5 * u[:, None, None, None]) ** 2).sum(0)) - 2.4)
        heads = np.minimum(heads, _to_segment(grid, 18 * u, 25 * u) - 1.0)
    granules = np.full(radius.shape, 99.0)
    for place, u in enumerate(_sphere(18)):
        centre = (4 + 8 * (place % 2)) * u
        granules = np.minimum(granules, np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0)) - 2.2)
    return {
        "membrane": _below(np.abs(radius - 17), 1.5),
        "spike": _below(heads, 0.0) * (radius > 17.5),
        "granule": _below(granules, 0.0),
    }


def crowded_vesicles() -> dict[str, np.ndarray]:
    """Fourteen vesicles of radius 6 to 12, some of them full, in 48 x 80 x 96 voxels."""
    rng = np.random.default_rng(11)
    shape = (48, 80, 96)
    grid = np.indices(shape).astype(float)
    shell, lumen = np.zeros(shape), np.zeros(shape)
    placed: list[tuple[np.ndarray, float]] = []
    while len(placed) < 14:
        r = rng.uniform(6, 12)
        centre = rng.uniform(r, np.array(shape) - r)
        if any(np.linalg.norm(centre - other) < r + s + 1 for other, s in placed):
            continue
        placed.append((centre, r))
        distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
        shell = np.maximum(shell, _below(np.abs(distance - r), 1.3))
        if len(placed) % 2:
            lumen = np.maximum(lumen, 0.8 * _below(distance, r - 2))
    return {"membrane": shell, "lumen": lumen}


def filaments_and_sheet() -> dict[str, np.ndarray]:
    """A wavy sheet with three bent filaments above it, in 48 x 72 x 88 voxels."""
    shape = (48, 72, 88)
    grid = np.indices(shape).astype(float)
    z, y, x = grid
    sheet = _below(np.abs(z - 12 - 4 * np.sin(x / 9) - 3 * np.cos(y / 11)), 1.4)
    filaments = np.full(shape, 99.0)
    for number in range(3):
        t = np.linspace(0, 1, 12)
        curve = np.stack(
            [24 + 6 * number + 4 * np.sin(5 * t + number), 12 + 22 * number + 8 * np.cos(4 * t), 4 + 80 * t], axis=1
        )
        for a, b in pairwise(curve):
            filaments = np.minimum(filaments, _to_segment(grid, a, b))
    return {"sheet": sheet, "filament": _below(filaments, 2.2)}


def tomogram(fields: dict[str, np.ndarray], seed: int) -> Scene:
    """Protein dark in noise, as in a tomogram, over what the fields say."""
    rng = np.random.default_rng(seed)
    matter = np.max(list(fields.values()), axis=0)
    grey = (-matter + rng.normal(0, 0.6, matter.shape)).astype(np.float32)
    data = np.rint(255 * np.stack([1 - matter, *fields.values()])).astype(np.uint8)
    colors = [(0.75, 0.62, 0.4), (0.75, 0.16, 0.1), (0.15, 0.35, 0.7)]
    shown = [Ramp(left=0.3, color=color) for color, _ in zip(colors, fields, strict=False)]
    raw = RawRamp(low_pass_sigma_vox=1.0, at_zero=0.2, at_one=-0.8)
    names = ("background", *fields)
    transfer = TransferFunction(classes=names, ramps=(Ramp(left=0.5, visible=False), *shown), raw=raw)
    soft = SoftSegmentation(data, names, voxel_size_A=(8.0, 8.0, 8.0))
    return Volume(grey, voxel_size_A=(8.0, 8.0, 8.0)), soft, transfer
