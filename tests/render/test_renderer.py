# SPDX-License-Identifier: MIT
"""Scenes whose picture theory gives. You should see, in each, what the test's name says."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cryoet_engine import CryoETError, SoftSegmentation, TransferFunction, Volume
from cryoet_engine._checks import InputError
from cryoet_engine.render import Cut, Renderer, RenderSettings
from cryoet_engine.transfer import Ramp, RawRamp
from reference.raymarch import look_down

NAMES = ("background", "a", "b", "c", "d", "e", "f", "g", "h")
SIZE = (48, 48)
#: Straight down on the volume, colour alone, parallel rays; a pixel is half a voxel for a volume 24 wide.
PLAIN = RenderSettings(
    azimuth_deg=0,
    elevation_deg=90,
    projection="orthographic",
    occlusion=0,
    shadow=0,
    bloom=0,
    exposure=1,
    frames=1,
    step_vox=0.5,
    light_follows_camera=False,
)


def soft(*classes: np.ndarray) -> SoftSegmentation:
    data = np.stack([np.zeros_like(classes[0]), *classes])
    if data.dtype.kind == "f":
        data = data.astype(np.float32)
    return SoftSegmentation(data, NAMES[: len(data)])


def ramps(n: int, raw: RawRamp | None = None, **fields: Any) -> TransferFunction:
    colors = [(1.0, 0.1, 0.0), (0.0, 0.2, 1.0), (0.1, 1.0, 0.1), (0.9, 0.9, 0.0), (0.5, 0.0, 0.5), (0, 1, 1), (1, 1, 1)]
    shown = [Ramp(**{"left": 0.0, "color": colors[i], **fields}) for i in range(n)]
    return TransferFunction(classes=NAMES[: n + 1], ramps=(Ramp(left=0.5, visible=False), *shown), raw=raw)


def box(shape: tuple[int, int, int], z: slice, y: slice, x: slice) -> np.ndarray:
    block = np.zeros(shape, np.uint8)
    block[z, y, x] = 255
    return block


def radiance(
    gl: Any,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    volume: Volume | None = None,
    *,
    size: tuple[int, int] = SIZE,
    settings: RenderSettings = PLAIN,
    half_height: float = 12.0,
    **how: Any,
) -> np.ndarray:
    """Mean of the frames, through a camera that sees `half_height` voxels each way."""
    renderer = Renderer(gl)
    renderer.load(volume, segmentation, transfer)
    fitted = renderer.fit_camera(settings, size)
    eye = fitted.eye - fitted.right * (fitted.right @ fitted.eye) - fitted.up * (fitted.up @ fitted.eye)
    camera = dataclasses.replace(fitted, eye=eye, half_height=half_height)
    renderer.accumulate(camera, settings, size, **how)
    return renderer.mean()


@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("depth", [1, 24])
def test_a_homogeneous_slab_has_the_opacity_of_theory(gl: Any, step: float, depth: int) -> None:
    slab = soft(np.full((depth, 24, 24), 255, np.uint8))
    for mode, bound in (("reference", 4e-6), ("cached", 4e-4)):  # measured 2.0e-6, and half floats
        settings = dataclasses.replace(PLAIN, mode=mode, step_vox=step)
        alpha = radiance(gl, slab, ramps(1, opacity=0.05), settings=settings)[12:36, 12:36, 3]
        assert alpha == pytest.approx(1 - 0.95**depth, abs=bound)


def test_compositing_agrees_with_the_float64_reference(gl: Any) -> None:
    rng = np.random.default_rng(5)
    shape = (10, 24, 24)
    probabilities = [quantised(rng.random(shape) * 0.8) for _ in range(2)]
    raw = np.round(rng.random(shape) * 255) / 255
    mapped = RawRamp(low_pass_sigma_vox=0.0, at_zero=0.0, at_one=1.0)
    tf = ramps(2, raw=mapped, left=0.3)
    settings = dataclasses.replace(PLAIN, frames=128, step_vox=0.5)
    image = radiance(gl, soft(*probabilities), tf, Volume(raw), settings=settings, jitter=False)
    rows, columns = np.mgrid[4:44:3, 4:44:3]
    # Pixel (row, column) looks at y = (47.5 - row) / 2 - 0.5 and x = (column + 0.5) / 2 - 0.5, in voxels.
    yx = np.stack([(47.5 - rows.ravel()) / 2 - 0.5, (columns.ravel() + 0.5) / 2 - 0.5], axis=1)
    colors = np.array([ramp.color for ramp in tf.ramps[1:]])
    fields = np.stack(probabilities) / 255.0
    color, alpha = look_down(fields, raw, [0.3, 0.3], colors, yx, 0.5)
    seen = image[rows.ravel(), columns.ravel()]
    assert alpha.min() < 0.5 < alpha.max()
    # Mesa interpolates textures with 8-bit weights: measured 0.014. Colour, one sample a frame, 128 frames: 0.033.
    assert np.abs(seen[:, 3] - alpha).max() < 0.02
    assert np.abs(seen[:, :3] - color).max() < 0.05


def quantised(probability: np.ndarray) -> np.ndarray:
    return np.rint(probability * 255).astype(np.uint8)


def test_ambient_occlusion_above_an_opaque_half_space_is_one_half(gl: Any) -> None:
    half = soft(box((32, 32, 32), slice(0, 16), slice(None), slice(None)))
    # A steep ramp puts the surface where the probability is about 0.9.
    tf = ramps(1, left=0.85)
    settings = dataclasses.replace(
        PLAIN, occlusion=1.0, occlusion_offset=0.0, occlusion_radius_vox=8.0, occlusion_samples=32, frames=16
    )
    lit = radiance(gl, half, tf, settings=settings, half_height=4.0)
    plain = radiance(gl, half, tf, settings=PLAIN, half_height=4.0)
    share = lit[..., 0].mean() / plain[..., 0].mean()
    assert share == pytest.approx(0.5, abs=0.05)  # measured 0.474: samples lie a little under it


def test_shifting_the_sphere_upwards_lights_what_faces_up(gl: Any) -> None:
    half = soft(box((32, 32, 32), slice(0, 16), slice(None), slice(None)))
    settings = dataclasses.replace(
        PLAIN, occlusion=1.0, occlusion_offset=1.2, occlusion_radius_vox=8.0, occlusion_samples=16, frames=8
    )
    lit = radiance(gl, half, ramps(1, left=0.85), settings=settings, half_height=4.0)
    plain = radiance(gl, half, ramps(1, left=0.85), half_height=4.0)
    assert lit[..., 0].mean() / plain[..., 0].mean() > 0.97  # measured 1.00


def floor_and_lid() -> tuple[np.ndarray, np.ndarray]:
    shape = (24, 24, 40)
    return box(shape, slice(0, 4), slice(None), slice(None)), box(shape, slice(12, 15), slice(8, 16), slice(6, 12))


#: Light from -x, 45 degrees up: the lid's shadow on the floor lies 8 to 11 voxels to the right of it.
SLANTED = dataclasses.replace(
    PLAIN,
    shadow=1.0,
    light_azimuth_deg=-90,
    light_elevation_deg=45,
    light_size_deg=0.5,
    light_shadow_steps=64,
    light_spacing=1,
    shadow_range_vox=40,
    frames=8,
)


def test_a_box_throws_its_shadow_where_geometry_says(gl: Any) -> None:
    floor, lid = floor_and_lid()
    image = radiance(gl, soft(floor, lid), ramps(2, left=0.5), settings=SLANTED, size=(80, 48))
    red = image[..., 0]
    # Columns of the shadow: x 6 + 8 to 12 + 11 on the floor at z 4, two pixels a voxel; rows of the lid: y 8 to 16.
    assert red[20:28, 34:42].max() < 0.3  # measured 0.2
    assert red[20:28, 54:].min() > 0.97  # measured 1.00
    assert red[20:28, 2:10].min() > 0.97
    assert red[2:10, 34:42].min() > 0.97


def test_a_hidden_class_neither_shows_nor_casts_a_shadow(gl: Any) -> None:
    floor, lid = floor_and_lid()
    settings = dataclasses.replace(SLANTED, occlusion=0.8)
    hidden = ramps(2, left=0.5).with_ramp("b", visible=False)
    with_lid = radiance(gl, soft(floor, lid), hidden, settings=settings, size=(80, 48))
    alone = radiance(gl, soft(floor), ramps(1, left=0.5), settings=settings, size=(80, 48))
    assert np.array_equal(with_lid, alone)


def clouds(n: int, shape: tuple[int, int, int] = (12, 24, 24), seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.random((n, *(length // 4 for length in shape)))
    fields = [np.kron(field, np.ones((4, 4, 4))) for field in coarse]
    return [quantised(np.where(field > 0.7, field, 0)) for field in fields]


@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_the_order_of_the_classes_does_not_matter(gl: Any, n: int) -> None:
    fields = clouds(n)
    settings = dataclasses.replace(PLAIN, occlusion=0.8, shadow=0.8, frames=2, elevation_deg=40)
    tf = ramps(n, left=0.2)
    turned = TransferFunction(classes=tf.classes, ramps=(tf.ramps[0], *tf.ramps[:0:-1]))
    forward = radiance(gl, soft(*fields), tf, settings=settings)
    backward = radiance(gl, soft(*fields[::-1]), turned, settings=settings)
    difference = np.abs(forward - backward)
    # Measured: equal on llvmpipe. Elsewhere rounding may make a ray pick another of its samples, rarely.
    assert difference[..., 3].max() < 1e-5
    assert (difference.max(-1) > 1e-3).mean() < 0.01
    assert forward[..., 3].max() > 0.9


def test_leaping_over_empty_space_changes_nothing(gl: Any) -> None:
    fields = clouds(2, (24, 24, 24), seed=2)
    settings = dataclasses.replace(PLAIN, frames=2, azimuth_deg=33, elevation_deg=25, projection="perspective")
    fast = radiance(gl, soft(*fields), ramps(2, left=0.2), settings=settings, half_height=0.4)
    slow = radiance(gl, soft(*fields), ramps(2, left=0.2), settings=settings, half_height=0.4, skip_empty=False)
    assert fast[..., 3].max() > 0.9
    assert np.abs(fast - slow).max() < 1e-4  # measured 0


def test_an_empty_prediction_gives_an_empty_picture(gl: Any) -> None:
    image = radiance(gl, soft(np.zeros((4, 5, 6), np.uint8)), ramps(1))
    assert not image.any()


def test_no_visible_class_is_told(gl: Any) -> None:
    renderer = Renderer(gl)
    renderer.load(None, soft(np.full((4, 4, 4), 255, np.uint8)), ramps(1, visible=False))
    renderer.accumulate(renderer.fit_camera(PLAIN, SIZE), PLAIN, SIZE)
    assert not renderer.mean().any()
    assert any("no class is visible" in notice for notice in renderer.notices)


def test_a_camera_inside_matter_sees_matter(gl: Any) -> None:
    renderer = Renderer(gl)
    renderer.load(None, soft(np.full((16, 16, 16), 255, np.uint8)), ramps(1))
    settings = dataclasses.replace(PLAIN, projection="perspective", occlusion=1.0, shadow=1.0)
    camera = dataclasses.replace(renderer.fit_camera(settings, SIZE), eye=np.zeros(3))
    renderer.accumulate(camera, settings, SIZE)
    assert renderer.mean()[..., 3].min() > 0.98


def test_clipped_slices_and_cuts_show_what_is_left(gl: Any) -> None:
    bottom = box((24, 24, 24), slice(0, 12), slice(None), slice(None))
    top = box((24, 24, 24), slice(12, 24), slice(None), slice(None))
    scene, tf = soft(bottom, top), ramps(2, left=0.5)

    def middle(**changes: Any) -> np.ndarray:
        return radiance(gl, scene, tf, settings=dataclasses.replace(PLAIN, **changes))

    red, blue = tf.ramps[1].color, tf.ramps[2].color
    assert middle()[24, 24, :3] == pytest.approx(blue, abs=0.02)
    assert middle(clip_z=(0, 9))[24, 24, :3] == pytest.approx(red, abs=0.02)
    assert middle(leave_out_slices=(0, 14))[24, 24, :3] == pytest.approx(red, abs=0.02)
    assert middle(cuts=(Cut(normal=(1, 0, 0), point_vox=(9, 0, 0)),))[24, 24, :3] == pytest.approx(red, abs=0.02)
    assert middle(cuts=(Cut(normal=(1, 0, 0), point_vox=(2, 0, 0), classes=("b",)),))[24, 24, :3] == pytest.approx(
        red, abs=0.02
    )
    half = middle(cuts=(Cut(normal=(0, 0, 1)),))[..., 3]  # the half with large x is gone
    assert half[:, 2:22].min() > 0.98 and not half[:, 26:].any()
    top_row_gone = middle(cuts=(Cut(normal=(0, 1, 0)),))[..., 3]  # y points up in the picture
    assert top_row_gone[26:46].min() > 0.98 and not top_row_gone[:22].any()


def test_anisotropic_voxels_keep_their_shape(gl: Any) -> None:
    data = np.full((2, 8, 8, 8), 255, np.uint8)
    scene = SoftSegmentation(data, NAMES[:2], voxel_size_A=(10.0, 20.0, 10.0))
    renderer = Renderer(gl)
    renderer.load(None, scene, ramps(1))
    settings = dataclasses.replace(PLAIN, zoom=0.5)
    renderer.accumulate(renderer.fit_camera(settings, SIZE), settings, SIZE)
    seen = renderer.mean()[..., 3] > 0.5
    height, width = seen.any(1).sum(), seen.any(0).sum()
    assert abs(height - 2 * width) <= 2 and height > 15


def test_the_scale_is_that_of_the_picture(gl: Any) -> None:
    scene = SoftSegmentation(np.full((2, 8, 10, 20), 255, np.uint8), NAMES[:2], voxel_size_A=(4.0, 4.0, 4.0))
    renderer = Renderer(gl)
    renderer.load(None, scene, ramps(1))
    camera = renderer.fit_camera(PLAIN, (200, 100))
    renderer.accumulate(camera, PLAIN, (200, 100))
    width = (renderer.mean()[50, :, 3] > 0.5).sum()
    A_a_pixel = camera.height_at_target() / 100 * renderer.unit_A
    assert width * A_a_pixel == pytest.approx(80, abs=A_a_pixel)


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_the_fitted_camera_sees_everything_and_wastes_little(gl: Any, projection: str) -> None:
    scene = soft(box((24, 30, 40), slice(3, 9), slice(2, 20), slice(17, 33)))
    settings = dataclasses.replace(PLAIN, projection=projection, azimuth_deg=25, elevation_deg=35)
    renderer = Renderer(gl)
    renderer.load(None, scene, ramps(1))
    renderer.accumulate(renderer.fit_camera(settings, (64, 48)), settings, (64, 48))
    seen = renderer.mean()[..., 3] > 0.1
    assert not (seen[0].any() or seen[-1].any() or seen[:, 0].any() or seen[:, -1].any())
    # It is fitted to bricks of 8 voxels with an apron, which on so small a scene is a wide margin: measured 0.5.
    assert max(seen.any(0).mean(), seen.any(1).mean()) > 0.4


def test_beyond_the_budget_the_volume_is_binned_and_it_is_told(gl: Any) -> None:
    scene = soft(box((17, 24, 24), slice(4, 12), slice(6, 18), slice(6, 18)))
    renderer = Renderer(gl)
    renderer.load(None, scene, ramps(1), max_bytes=4 * 12**3, beyond="bin")
    assert any("binned by 2 to 8 x 12 x 12" in notice for notice in renderer.notices)
    camera = dataclasses.replace(renderer.fit_camera(PLAIN, SIZE), eye=np.array([0, 0, 50.0]), half_height=12.0)
    renderer.accumulate(camera, PLAIN, SIZE)
    binned = renderer.mean()[..., 3]
    whole = radiance(gl, scene, ramps(1))[..., 3]
    assert np.abs(binned - whole)[16:32, 16:32].max() < 0.02
    assert np.abs(binned - whole).mean() < 0.05  # measured 0.031: softer edges


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_storage_gives_the_same_picture(gl: Any, dtype: str) -> None:
    field = clouds(1)[0]
    unit = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]
    scene = soft((field * np.dtype(dtype).type(unit)).astype(dtype))
    expected = radiance(gl, soft(field), ramps(1, left=0.2))
    assert np.array_equal(radiance(gl, scene, ramps(1, left=0.2)), expected)


def test_non_finite_voxels_are_drawn_as_background_and_counted(gl: Any) -> None:
    field = np.ones((6, 24, 24), np.float32)
    raw = np.ones((6, 24, 24), np.float32)
    field[:, 0, 0], raw[3, 5, 5:9] = np.nan, np.inf
    renderer = Renderer(gl)
    renderer.load(Volume(raw), soft(field), ramps(1, raw=RawRamp(low_pass_sigma_vox=0, at_zero=0.0, at_one=1.0)))
    assert "10 voxels" in renderer.notices[0]
    renderer.accumulate(renderer.fit_camera(PLAIN, SIZE), PLAIN, SIZE)
    assert np.isfinite(renderer.mean()).all()


def test_what_does_not_match_is_named(gl: Any) -> None:
    renderer = Renderer(gl)
    scene = soft(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match="shape"):
        renderer.load(Volume(np.zeros((4, 4, 5))), scene, ramps(1))
    with pytest.raises(InputError, match="ramps for the classes"):
        renderer.load(None, scene, ramps(2))
    with pytest.raises(InputError, match="at most 7 classes visible"):
        eight = TransferFunction(classes=NAMES, ramps=tuple(Ramp(left=0.1) for _ in NAMES))
        renderer.load(None, soft(*[np.zeros((2, 2, 2), np.uint8)] * 8), eight)
    with pytest.raises(InputError, match="load"):
        renderer.fit_camera(PLAIN, SIZE)
    renderer.load(None, scene, ramps(1))
    with pytest.raises(CryoETError, match=r"cuts\.classes"):
        renderer.fit_camera(dataclasses.replace(PLAIN, cuts=(Cut(normal=(1, 0, 0), classes=("x",)),)), SIZE)
    for size in ((0, 5), (5, -1), (10**6, 5), (5.0, 5), (5,), 5, (True, 5)):
        with pytest.raises(InputError, match="size"):
            renderer.check_size(size)  # type: ignore[arg-type]


def test_scenes_can_be_exchanged(gl: Any) -> None:
    renderer = Renderer(gl)
    for n in (5, 1):
        renderer.load(None, soft(*clouds(n)), ramps(n, left=0.2))
        renderer.accumulate(renderer.fit_camera(PLAIN, SIZE), PLAIN, SIZE)
        assert renderer.mean()[..., 3].max() > 0.5


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_a_target_stands_in_the_middle_and_nothing_is_cut_off(gl: Any, projection: str) -> None:
    # Long along the view: an eye that went along with a far target would stand inside.
    scene = soft(box((16, 96, 16), slice(4, 12), slice(0, 96), slice(4, 12)))
    look = dataclasses.replace(PLAIN, projection=projection, azimuth_deg=0, elevation_deg=0)
    renderer = Renderer(gl)
    renderer.load(None, scene, ramps(1))
    plain = renderer.fit_camera(look, SIZE)
    camera = renderer.fit_camera(dataclasses.replace(look, target_vox=(7.5, 90, 11.5)), SIZE)
    assert (camera.eye - plain.eye) @ camera.right == pytest.approx(4, abs=0.1)
    moved = (camera.eye - plain.eye) @ camera.forward
    assert moved == pytest.approx(0, abs=1e-9) if projection == "orthographic" else moved > 10
