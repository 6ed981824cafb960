# SPDX-License-Identifier: MIT
"""Scenes of which theory says the picture: opacities, shadows, occlusion, surfaces, maxima and paths of light."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from drawing import AS_IT_IS, BARE, box, looking, opened, picture, ramps, soft, view_of, waves

from cryoet_engine import TransferFunction, Volume
from cryoet_engine.render import RenderSettings
from cryoet_engine.render.camera import direction
from reference.raymarch import Scene, composite, scattered_once

SIZE = (48, 48)
LIT_MODES = ("cached", "reference")


def within(shape: tuple[int, int, int], centre: tuple[float, float, float]) -> np.ndarray:
    """Distance of voxels from a point."""
    return np.sqrt(((np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0))


# ------------------------------------------------------------------------------------------------ opacity, shadow


@pytest.mark.parametrize("mode", ["cached", "reference", "dvr"])
@pytest.mark.parametrize("orthographic", [True, False])
def test_a_slab_seen_aslant_is_as_opaque_as_the_way_through_it_is_long(gl: Any, mode: str, orthographic: bool) -> None:
    depth, elevation = 8, 35.0
    renderer = opened(gl, None, soft(np.ones((depth, 96, 96))), ramps(1, opacity=0.06))
    settings = dataclasses.replace(BARE, mode=mode, frames=64, step_vox=0.25)
    camera = looking(20, elevation, half_height=4.0 if orthographic else 0.01, orthographic=orthographic, distance=60)
    alpha = picture(renderer, camera, settings, (16, 16))[..., 3]
    expected = 1 - 0.94 ** (depth / math.sin(math.radians(elevation)))
    # Frames differ by a sample of the lattice, 0.006; half floats would stop the mean of 64 of them short of it.
    assert alpha[6:10, 6:10] == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("mode", LIT_MODES)
def test_the_shadow_of_a_sphere_falls_where_geometry_says(gl: Any, mode: str) -> None:
    # You should see a red floor, a blue disc, and an ellipse of shadow to the right of the disc.
    shape, radius = (40, 48, 72), 6.0
    centre = np.array([24.0, 23.5, 14.0])
    floor = box(shape, (0, 6))
    ball = np.clip(0.5 + 2 * (radius - within(shape, tuple(centre))), 0, 1)
    renderer = opened(gl, None, soft(floor, ball), ramps(2, left=0.4))
    settings = dataclasses.replace(
        BARE,
        mode=mode,
        shadow=1.0,
        light_azimuth_deg=-90,
        light_elevation_deg=40,
        light_size_deg=0.2,
        light_shadow_steps=192,
        shadow_samples=192,
        light_spacing=1,
        shadow_range_vox=150,
        step_vox=0.25,
        frames=16,
    )
    # Two pixels a voxel; the floor's red shows, the ball is blue and casts to the right.
    red = picture(renderer, looking(half_height=24.0), settings, (144, 96))[..., 0]
    rows, columns = np.nonzero((red < 0.5) & (np.arange(144) > 46))
    y, x = (95.5 - rows) / 2 - 0.5, (columns + 0.5) / 2 - 0.5
    # The light stands four half-diagonals from the middle: rays past the ball spread out on their way to the floor.
    half_extent = np.array(shape) / 2
    light = 4 * np.linalg.norm(half_extent) * direction(-90, 40)[::-1] + half_extent - 0.5
    surface = 5.4  # the ramp ends at 5.6
    height, across = light[0] - surface, centre[2] - light[2]
    slant = math.atan2(light[0] - centre[0], across)
    half_angle = math.asin(radius / math.hypot(light[0] - centre[0], across))
    near, far = (light[2] + height / math.tan(slant + side * half_angle) for side in (1, -1))
    assert red[10, 100] == pytest.approx(1.0, abs=0.01)
    assert x.mean() == pytest.approx((near + far) / 2, abs=0.5)
    assert y.mean() == pytest.approx(centre[1], abs=0.2)
    # Cached light is interpolated between points a voxel apart: the tips of the ellipse are rounded off.
    tips = 0.8 if mode == "cached" else 0.5
    assert np.ptp(y) / 2 == pytest.approx(math.tan(half_angle) * height / math.sin(slant), abs=tips)
    assert np.ptp(x) / 2 == pytest.approx((far - near) / 2, abs=0.8)


@pytest.mark.parametrize("mode", LIT_MODES)
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_ambient_occlusion_above_a_half_space_is_the_share_of_the_ball(gl: Any, mode: str, shift: float) -> None:
    # One half with the ball's centre on the surface; a spherical cap where it is shifted upwards.
    renderer = opened(gl, None, soft(box((32, 40, 40), (0, 16))), ramps(1, left=0.85))
    settings = dataclasses.replace(
        BARE, mode=mode, occlusion=1.0, occlusion_offset=shift, occlusion_radius_vox=10.0, step_vox=0.1, frames=16
    )
    settings = dataclasses.replace(settings, light_occlusion_samples=512, light_spacing=1, occlusion_samples=32)
    seen = picture(renderer, looking(half_height=4.0), settings, (16, 16))
    cap = (1 - shift) ** 2 * (2 + shift) / 4
    assert (seen[..., 0] / seen[..., 3]).mean() == pytest.approx(1 - cap, abs=0.02)


@pytest.mark.parametrize("mode", LIT_MODES)
@pytest.mark.parametrize("keep_hidden", [False, True])
def test_hidden_classes_neither_show_nor_occlude_nor_shade(gl: Any, mode: str, keep_hidden: bool) -> None:
    shape = (24, 32, 32)
    floor, lid = box(shape, (0, 5)), box(shape, (12, 15), (8, 24), (8, 24))
    settings = dataclasses.replace(
        BARE, mode=mode, occlusion=1.0, shadow=1.0, light_azimuth_deg=-90, frames=4, light_spacing=1
    )
    camera = looking(half_height=16.0)
    both = ramps(2, left=0.5)
    one = both.with_ramp("b", visible=False)
    covered = picture(opened(gl, None, soft(floor, lid), both), camera, settings, SIZE)
    hidden = picture(opened(gl, None, soft(floor, lid), one, keep_hidden=keep_hidden), camera, settings, SIZE)
    alone = picture(opened(gl, None, soft(floor), ramps(1, left=0.5)), camera, settings, SIZE)
    assert np.array_equal(hidden, alone)
    beside = np.s_[16:32, 38:44, 0]  # where the light from the left throws the lid's shade
    assert covered[beside].mean() < 0.8 * alone[beside].mean()


@pytest.mark.parametrize("mode", ["reference", "dvr", "iso", "mip", "vpt"])
def test_the_order_of_the_classes_does_not_matter(gl: Any, mode: str) -> None:
    fields = [np.where(w > 0.6, w, 0) for w in (waves((16, 24, 24), seed) for seed in range(4))]
    settings = dataclasses.replace(BARE, mode=mode, occlusion=0.8, shadow=0.8, frames=4, iso_value=0.3)
    camera = looking(30, 40, half_height=14.0)
    transfer = ramps(4, AS_IT_IS, left=0.2, opacity=0.7)
    turned = TransferFunction(
        classes=transfer.classes, ramps=(transfer.ramps[0], *transfer.ramps[:0:-1]), raw=transfer.raw
    )
    raw = Volume(waves((16, 24, 24), 7))
    forward = picture(opened(gl, raw, soft(*fields), transfer), camera, settings, SIZE)
    backward = picture(opened(gl, raw, soft(*fields[::-1]), turned), camera, settings, SIZE)
    assert forward[..., 3].max() > 0.5
    # Rounding of a sum in another order may make one path of light in many another one.
    assert (np.abs(forward - backward).max(-1) > 1e-3).mean() < 0.01


# ------------------------------------------------------------------------------------------------ surfaces, maxima


def soft_ball(n: int, radius: float, softness: float = 6.0) -> np.ndarray:
    """Falls linearly from 1 to 0 over 2 x softness voxels about its radius, where it is 1/2."""
    return np.clip(0.5 + (radius - within((n,) * 3, ((n - 1) / 2,) * 3)) / (2 * softness), 0, 1)


@pytest.mark.parametrize("level", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("source", ["classes", "raw"])
def test_an_iso_surface_of_a_ball_has_the_radius_of_its_level(gl: Any, source: str, level: float) -> None:
    ball = soft_ball(40, 11.0)
    renderer = opened(gl, Volume(ball), soft(ball), ramps(1, AS_IT_IS))
    settings = dataclasses.replace(BARE, mode="iso", source=source, iso_value=level, multiply_raw=False)
    alpha = picture(renderer, looking(half_height=20.0), settings, (160, 160), jitter=False)[..., 3]
    assert set(np.unique(alpha)) == {0.0, 1.0}
    radius = math.sqrt(alpha.sum() / math.pi) / 4  # four pixels a voxel
    assert radius == pytest.approx(11.0 + 12.0 * (0.5 - level), abs=0.1)  # measured 0.017


@pytest.mark.parametrize("orthographic", [True, False])
def test_an_iso_surface_of_a_ball_lies_where_its_normals_say(gl: Any, orthographic: bool) -> None:
    # Its brightness is that of a sphere under the headlight and the key light: depth and normal of every pixel.
    ball, radius = soft_ball(40, 12.0), 12.0
    renderer = opened(gl, None, soft(ball), ramps(1, color=(1.0, 1.0, 1.0)))
    settings = dataclasses.replace(BARE, mode="iso", light_azimuth_deg=-60, light_elevation_deg=50)
    camera = looking(20, 30, half_height=15.0 if orthographic else 0.2, orthographic=orthographic, distance=80)
    view = view_of(camera, (40, 40, 40))
    origins, directions = view.rays((60, 60))
    from_centre = origins - 19.5
    along = (from_centre * directions).sum(1)
    root = along**2 - (from_centre**2).sum(1) + radius**2
    face = root > (0.5 * radius) ** 2  # not at the rim, where a pixel's width in depth is large
    point = from_centre[face] + (-along[face] - np.sqrt(root[face]))[:, None] * directions[face]
    normal = point / radius
    light = 4 * math.sqrt(3) * 20 * direction(-60, 50)[::-1] - point
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    half = light - directions[face]
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    headlight, key = -(normal * directions[face]).sum(1), np.maximum((normal * light).sum(1), 0)
    expected = 0.18 + 0.32 * headlight + 0.5 * key + 0.08 * np.maximum((normal * half).sum(1), 0) ** 30
    shown = picture(renderer, camera, settings, (60, 60), jitter=False)[..., 0].reshape(-1)[face]
    assert face.sum() > 500
    assert np.abs(shown - expected).max() < 0.035  # measured 0.028: gradients over two voxels


@pytest.mark.parametrize("source", ["classes", "raw"])
def test_a_maximum_projection_shows_known_maxima(gl: Any, source: str) -> None:
    # Blocks of known value in noise below them, each in its own column, at its own depth.
    shape = (24, 24, 24)
    field = 0.2 * waves(shape, 3)
    expected = np.array([[60, 90, 120], [150, 180, 210], [240, 255, 75]]) / 255
    for row in range(3):
        for column in range(3):
            z = 2 + 2 * (row * 3 + column)
            field[z : z + 3, 8 * row + 1 : 8 * row + 7, 8 * column + 1 : 8 * column + 7] = expected[row, column]
    renderer = opened(gl, Volume(field), soft(field), ramps(1, AS_IT_IS, color=(0.0, 1.0, 0.0)))
    settings = dataclasses.replace(BARE, mode="mip", source=source, multiply_raw=False, frames=4)
    seen = picture(renderer, looking(), settings, SIZE)
    # Two pixels a voxel, y up.
    middles = seen[::-1][8::16, 8::16]
    assert middles[..., 3] == pytest.approx(expected, abs=0.002)  # measured 4e-4: half floats
    white = [1, 1, 1] if source == "raw" else [0, 1, 0]
    assert middles[..., :3] == pytest.approx(expected[..., None] * white, abs=0.002)


# ------------------------------------------------------------------------------------------------ paths of light


def paths(**changes: Any) -> RenderSettings:
    """Path tracing under a sky of brightness 1 alone, unless changed."""
    return dataclasses.replace(BARE, mode="vpt", **{"frames": 64, **changes})


def test_white_matter_under_a_uniform_sky_is_as_bright_as_the_sky(gl: Any) -> None:
    # The white furnace: you should see nothing but the sky's brightness, whatever stands there.
    fields = [waves((20, 24, 28), seed) for seed in (1, 2)]
    renderer = opened(gl, None, soft(*fields), ramps(2, left=0.5, color=(1.0, 1.0, 1.0), opacity=0.8))
    seen = picture(renderer, looking(25, 35, half_height=15.0), paths(), SIZE)
    covered = seen[..., 3] > 0.3
    assert covered.sum() > 500
    brightness = seen[covered][:, :3] / seen[covered][:, 3:]
    assert brightness.mean() == pytest.approx(1.0, abs=0.003)  # measured 0.9995: roulette alone makes noise
    assert brightness.std() < 0.1  # measured 0.067


@pytest.mark.parametrize("opacity", [0.02, 0.1, 0.4])
def test_paths_meet_matter_as_often_as_its_opacity_says(gl: Any, opacity: float) -> None:
    depth = 11
    renderer = opened(gl, None, soft(np.ones((depth, 24, 24))), ramps(1, opacity=opacity))
    seen = picture(renderer, looking(half_height=10.0), paths(), SIZE)
    expected = 1 - (1 - opacity) ** depth
    paths_in_all = 64 * SIZE[0] * SIZE[1]
    error = math.sqrt(expected * (1 - expected) / paths_in_all)
    assert seen[..., 3].mean() == pytest.approx(expected, abs=4 * error + 1e-4)


@pytest.mark.parametrize("shadow", [0.0, 1.0])
def test_dark_matter_scatters_once_as_the_reference_says(gl: Any, shadow: float) -> None:
    # Matter that sends one hundredth on scatters once or not at all; sky alone, then half a sky and the key light.
    shape = (12, 16, 16)
    field = waves(shape, 4)
    albedo = 0.01
    renderer = opened(gl, None, soft(field), ramps(1, left=0.3, opacity=0.3, color=(albedo,) * 3))
    settings = paths(shadow=shadow, light_size_deg=0, light_azimuth_deg=-40, light_elevation_deg=40, frames=1024)
    camera = looking(30, 50, half_height=8.0)
    seen = picture(renderer, camera, settings, (12, 12), jitter=False)
    light = 4 * np.linalg.norm(np.array(shape) / 2) * direction(-40, 40)[::-1] + (np.array(shape) - 1) / 2
    scene = Scene(field[None], np.array([0.3]), np.full((1, 3), albedo), opacities=0.3)
    arriving = scattered_once(scene, light, sky=1 - 0.5 * shadow, key=0.9 * shadow, step=0.5, n=48)
    color, alpha = composite(scene, *view_of(camera, shape).rays((12, 12)), 0.5, arriving)
    assert 0.5 < alpha.max() < 1
    assert seen[..., 3].reshape(-1) == pytest.approx(alpha, abs=0.07)  # 4 standard errors of 1024 paths; measured 0.059
    assert seen[..., 0].mean() / albedo == pytest.approx(color[:, 0].mean() / albedo, rel=0.02)
    assert np.abs(seen[..., 0].reshape(-1) - color[:, 0]).max() / albedo < 0.08


def test_path_tracing_converges_as_one_over_the_root_of_its_frames(gl: Any) -> None:
    renderer = opened(gl, None, soft(waves((16, 24, 24), 5)), ramps(1, left=0.4, color=(0.7, 0.5, 0.3)))
    settings, camera = paths(shadow=0.8), looking(25, 35, half_height=12.0)
    truth = picture(renderer, camera, settings, (40, 40), frames=256)
    errors = [np.mean((picture(renderer, camera, settings, (40, 40), frames=n) - truth)[..., :3] ** 2) for n in (2, 16)]
    # The first n of N frames differ from all of them by the variance times 1/n - 1/N.
    assert errors[0] / errors[1] == pytest.approx((1 / 2 - 1 / 256) / (1 / 16 - 1 / 256), rel=0.15)
