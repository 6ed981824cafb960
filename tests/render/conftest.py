# SPDX-License-Identifier: MIT
"""One OpenGL context for all pictures of these tests, and scenes to draw with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cryoet_engine import SoftSegmentation, TransferFunction, Volume
from cryoet_engine._checks import MissingDependencyError
from cryoet_engine.render.context import opened_context
from cryoet_engine.transfer import Ramp, RawRamp

Scene = tuple[Volume, SoftSegmentation, TransferFunction]


@pytest.fixture(scope="session")
def gl() -> Iterator[Any]:
    try:
        with opened_context() as context:
            yield context
    except MissingDependencyError as error:
        pytest.skip(str(error))


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
        for a, b in zip(curve[:-1], curve[1:], strict=True):
            filaments = np.minimum(filaments, _to_segment(grid, a, b))
    return {"sheet": sheet, "filament": _below(filaments, 2.2)}


def _scene(fields: dict[str, np.ndarray], seed: int) -> Scene:
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


@pytest.fixture(scope="session")
def scenes() -> dict[str, Scene]:
    """Simulated tomograms with their soft segmentations and transfer functions."""
    made = (spiked_vesicle, crowded_vesicles, filaments_and_sheet)
    return {make.__name__: _scene(make(), seed) for seed, make in enumerate(made)}
