# SPDX-License-Identifier: MIT
"""Surfaces against the float64 reference: where rays cross a level, and the slope there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from drawing import AS_IT_IS, BARE, looking, opened, picture, ramps, soft, view_of, waves

from cryoet_engine import Volume
from cryoet_engine.render.camera import direction
from reference import raymarch

SHAPE = (18, 22, 26)
SIZE = (40, 32)


@pytest.mark.parametrize("orthographic", [True, False])
@pytest.mark.parametrize("source", ["classes", "raw"])
def test_iso_surfaces_are_lit_where_rays_first_cross_the_level(gl: Any, source: str, orthographic: bool) -> None:
    field, raw = waves(SHAPE, 1, period=14.0), waves(SHAPE, 2, period=14.0)
    # Nothing reaches the faces of the volume, which are surfaces of their own.
    for values in (field, raw):
        for axis in range(3):
            np.moveaxis(values, axis, 0)[[0, 1, -2, -1]] = 0
    level = 0.5
    renderer = opened(gl, Volume(raw), soft(field), ramps(1, AS_IT_IS, color=(0.9, 0.6, 0.3)))
    settings = dataclasses.replace(
        BARE, mode="iso", source=source, iso_value=level, multiply_raw=False, light_azimuth_deg=-60, step_vox=0.25
    )
    camera = looking(25, 40, half_height=11.0 if orthographic else 0.2, orthographic=orthographic, distance=60)
    shown = picture(renderer, camera, settings, SIZE, jitter=False).reshape(-1, 4)

    looked_at = raw if source == "raw" else field

    def value(points: np.ndarray) -> np.ndarray:
        return raymarch.sample(looked_at, points) * raymarch.inside(SHAPE, points)

    origins, directions = view_of(camera, SHAPE).rays(SIZE)
    t = raymarch.first_crossing(value, SHAPE, origins, directions, level, 0.25)
    hit = ~np.isnan(t)
    assert 0.2 < hit.mean() < 0.95
    assert ((shown[:, 3] == 1) == hit).mean() > 0.99  # measured 0.998: rays that graze it

    point = origins[hit] + t[hit, None] * directions[hit]
    normal = -raymarch.gradient(value, point)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    far = 4 * float(np.linalg.norm(np.array(SHAPE) / 2))
    light = far * direction(-60, settings.light_elevation_deg)[::-1] + (np.array(SHAPE) - 1) / 2 - point
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    between = light - directions[hit]
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    facing, key, shine = (np.maximum((normal * towards).sum(1), 0) for towards in (-directions[hit], light, between))
    color = np.array((0.62, 0.6, 0.56) if source == "raw" else (0.9, 0.6, 0.3))
    expected = color * (0.18 + 0.32 * facing + 0.5 * key)[:, None] + 0.08 * shine[:, None] ** 30
    error = np.abs(shown[hit, :3] - expected).max(1)
    assert np.median(error) < 0.003  # measured 0.001
    assert np.quantile(error, 0.98) < 0.02  # measured 0.007
