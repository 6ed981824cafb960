# SPDX-License-Identifier: MIT
"""The renderer against the float64 reference in numpy (tests/reference/raymarch.py), which shares no code with it."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from drawing import AS_IT_IS, BARE, COLORS, looking, opened, picture, ramps, soft, view_of, waves

from cryoet_engine import Volume
from cryoet_engine.render.benchmark import display
from cryoet_engine.render.camera import Camera, direction
from reference import raymarch

SHAPE = (18, 22, 26)
SIZE = (20, 16)


def scene() -> tuple[list[np.ndarray], np.ndarray, raymarch.Scene]:
    fields = [waves(SHAPE, seed) for seed in (1, 2, 3)]
    raw = waves(SHAPE, 4, period=12.0)
    return fields, raw, raymarch.Scene(np.stack(fields), np.full(3, 0.55), np.array(COLORS[:3]), raw)


LIT = dataclasses.replace(
    BARE,
    occlusion=0.9,
    occlusion_radius_vox=5.0,
    occlusion_offset=0.6,
    shadow=0.8,
    shadow_range_vox=14.0,
    light_azimuth_deg=-60,
    light_elevation_deg=45,
    light_shadow_rays=16,
    light_shadow_steps=32,
    light_occlusion_samples=256,
    occlusion_samples=32,
    shadow_samples=32,
    step_vox=0.5,
    frames=48,
)


def view(orthographic: bool) -> Camera:
    return looking(25, 40, half_height=11.0 if orthographic else 0.2, orthographic=orthographic, distance=60)


@lru_cache
def truth(orthographic: bool) -> np.ndarray:
    oracle = scene()[2]
    far = 4 * float(np.linalg.norm(np.array(SHAPE) / 2))
    centre = far * direction(LIT.light_azimuth_deg, LIT.light_elevation_deg)[::-1] + (np.array(SHAPE) - 1) / 2
    radius = far * np.tan(np.radians(LIT.light_size_deg))

    def light(points: np.ndarray) -> np.ndarray:
        around = raymarch.ambient(oracle.opacity, points, 5.0, 3.0, n=96)
        beam = raymarch.shadow(oracle.opacity, points, centre, radius, 14.0, lines=6, step=1.0)
        return (1 - 0.9 * (1 - around)) * (1 - 0.8 * (1 - beam))

    origins, directions = view_of(view(orthographic), SHAPE).rays(SIZE)
    color, alpha = raymarch.composite(oracle, origins, directions, 0.5, light)
    return np.concatenate([color, alpha[:, None]], axis=1).reshape(SIZE[1], SIZE[0], 4).astype(np.float32)


@pytest.mark.parametrize("orthographic", [True, False])
@pytest.mark.parametrize(("mode", "bound"), [("reference", 0.015), ("cached", 0.04)])
def test_lit_classes(gl: Any, mode: str, bound: float, orthographic: bool) -> None:
    fields, raw, _ = scene()
    renderer = opened(gl, Volume(raw), soft(*fields), ramps(3, AS_IT_IS, left=0.55))
    seen = picture(renderer, view(orthographic), dataclasses.replace(LIT, mode=mode), SIZE, jitter=False)
    expected = truth(orthographic)
    covered = expected[..., 3] > 0.02
    assert covered.mean() > 0.3
    assert np.abs(seen[..., 3] - expected[..., 3]).max() < 0.02
    error = np.sqrt(((display(seen) - display(expected))[covered] ** 2).mean())
    assert error < bound, error


def test_plain_volume_rendering_of_the_raw_volume(gl: Any) -> None:
    fields, raw, _ = scene()
    points = ((0.0, 0, 0, 0, 0), (0.4, 0.1, 0.2, 0.9, 0.0), (0.7, 0.9, 0.5, 0.1, 0.1), (1.0, 1, 1, 1, 0.6))
    renderer = opened(gl, Volume(raw), soft(*fields), ramps(3, AS_IT_IS))
    settings = dataclasses.replace(BARE, mode="dvr", source="raw", raw_colors=points, step_vox=0.5)
    camera = looking(25, 40, half_height=11.0, distance=60)
    seen = picture(renderer, camera, settings, (40, 32), jitter=False)
    oracle = raymarch.Colored(raw, np.array(points))
    color, alpha = raymarch.composite(oracle, *view_of(camera, SHAPE).rays((40, 32)), 0.5)
    assert alpha.max() > 0.9
    # Mesa interpolates with 8-bit weights, and the table has 256 entries.
    assert np.abs(seen[..., 3].ravel() - alpha).max() < 0.02
    assert np.abs(seen[..., :3].reshape(-1, 3) - color).max() < 0.02


def test_maximum_projection(gl: Any) -> None:
    fields, raw, _ = scene()
    renderer = opened(gl, Volume(raw), soft(*fields), ramps(3, AS_IT_IS))
    settings = dataclasses.replace(BARE, mode="mip", source="raw", step_vox=0.25)
    camera = looking(-35, 20, half_height=11.0, distance=60)
    seen = picture(renderer, camera, settings, (40, 32), jitter=False)[..., 3]
    view = view_of(camera, SHAPE)
    largest = raymarch.maximum(lambda p: raymarch.sample(raw, p), SHAPE, *view.rays((40, 32)), 0.25)
    assert np.abs(seen.ravel() - largest).max() < 0.01
