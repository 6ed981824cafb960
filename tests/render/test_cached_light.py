# SPDX-License-Identifier: MIT
"""The cached light, the ways a scene reaches the card, and what pixels say besides colour."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from drawing import Scene

from cryoet_engine import CryoETError, SoftSegmentation, TransferFunction, Volume
from cryoet_engine.render import Box, Cut, Renderer, RenderSettings
from cryoet_engine.render import context as context_room
from cryoet_engine.render.benchmark import rmse
from cryoet_engine.render.context import DeviceError
from cryoet_engine.transfer import Ramp, RawRamp

SIZE = (120, 90)
LIT = RenderSettings(frames=16)


@pytest.mark.parametrize("name", ["spiked_vesicle", "crowded_vesicles", "filaments_and_sheet"])
def test_cached_light_at_half_resolution_is_close_to_the_converged_reference(
    gl: Any, scenes: dict[str, Scene], name: str
) -> None:
    renderer = Renderer(gl)
    renderer.load(*scenes[name])
    many = dataclasses.replace(LIT, mode="reference", occlusion_samples=32, shadow_samples=32, step_vox=0.5)
    camera = renderer.fit_camera(LIT, SIZE)
    renderer.accumulate(camera, many, SIZE, frames=16)
    truth = renderer.mean()
    renderer.accumulate(camera, LIT, SIZE)
    half = rmse(renderer.mean(), truth)
    renderer.accumulate(camera, dataclasses.replace(LIT, light_spacing=4), SIZE)
    quarter = rmse(renderer.mean(), truth)
    renderer.accumulate(camera, dataclasses.replace(LIT, occlusion=0, shadow=0), SIZE)
    unlit = rmse(renderer.mean(), truth)
    assert (truth[..., 3] > 0.02).mean() > 0.05
    assert half < 0.03 < unlit  # measured 0.016 to 0.024; without light 0.2 and more
    assert half < quarter < 0.1


def small(raw: RawRamp | None = None) -> Scene:
    rng = np.random.default_rng(3)
    shape = (40, 24, 28)
    fields = [np.kron(rng.random((10, 6, 7)) > 0.8, np.ones((4, 4, 4))) for _ in range(2)]
    grey = rng.random(shape).astype(np.float32)
    data = np.rint(255 * np.stack([np.zeros(shape), *fields])).astype(np.uint8)
    names = ("background", "a", "b")
    ramps = (Ramp(left=0.5, visible=False), Ramp(left=0.2, color=(1, 0, 0)), Ramp(left=0.2, color=(0, 0, 1)))
    transfer = TransferFunction(
        classes=names, ramps=ramps, raw=raw or RawRamp(low_pass_sigma_vox=1.0, at_zero=0.2, at_one=0.7)
    )
    return Volume(grey, voxel_size_A=(10.0,) * 3), SoftSegmentation(data, names, voxel_size_A=(10.0,) * 3), transfer


QUICK = RenderSettings(frames=2, light_occlusion_samples=8, light_shadow_rays=2, shadow_range_vox=10)


@pytest.mark.parametrize("elevation", [40, -35, 90])
@pytest.mark.parametrize(
    ("mode", "source"),
    [("cached", "classes"), ("reference", "classes"), ("dvr", "raw"), ("iso", "raw"), ("mip", "raw")],
)
def test_slabs_give_the_picture_of_the_whole(gl: Any, mode: Any, source: Any, elevation: float) -> None:
    settings = dataclasses.replace(QUICK, mode=mode, source=source, elevation_deg=elevation)
    pictures, notices = [], []
    for budget in (None, 4 * 24 * 28 * 30):
        renderer = Renderer(gl)
        renderer.load(*small(), max_bytes=budget, beyond="slabs")
        renderer.accumulate(renderer.fit_camera(settings, SIZE), settings, SIZE)
        pictures.append(renderer.mean())
        notices.append(renderer.notices)
    assert not notices[0] and "slabs of" in notices[1][0]
    assert pictures[0][..., 3].max() > 0.9
    # Mesa's texture coordinates round otherwise in a shorter texture: measured 0.013 at one pixel (the shine of a
    # surface: 0.041), 5e-5 in the mean.
    difference = np.abs(pictures[0] - pictures[1])
    assert difference.max() < (0.08 if mode == "iso" else 0.03) and difference.mean() < 2e-4


def test_paths_want_the_whole_volume(gl: Any) -> None:
    renderer = Renderer(gl)
    renderer.load(*small(), max_bytes=4 * 24 * 28 * 30, beyond="slabs")
    settings = dataclasses.replace(QUICK, mode="vpt")
    with pytest.raises(CryoETError, match="at once"):
        renderer.accumulate(renderer.fit_camera(settings, SIZE), settings, SIZE)


def test_a_card_that_refuses_the_whole_takes_slabs(gl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoet_engine.render import scene

    check = scene.check_allocation

    def refuse(context: Any, what: str) -> None:
        check(context, what)
        if what.startswith("a texture of 40"):
            raise DeviceError("render: no room")

    monkeypatch.setattr(scene, "check_allocation", refuse)
    renderer = Renderer(gl)
    renderer.load(*small(), beyond="slabs", max_bytes=2**40)
    assert "slabs of" in renderer.notices[0]
    with pytest.raises(DeviceError):
        Renderer(gl).load(*small(), beyond="bin", max_bytes=2**40)


def test_sixteen_bits_differ_from_eight_by_rounding(gl: Any) -> None:
    pictures = []
    for bits in (8, 16):
        renderer = Renderer(gl)
        renderer.load(*small(), bits=bits)
        renderer.accumulate(renderer.fit_camera(QUICK, SIZE), QUICK, SIZE)
        pictures.append(renderer.mean())
        assert dict(renderer.memory())["volumes"] == 40 * 24 * 28 * 4 * bits // 8
    difference = np.abs(pictures[0] - pictures[1])
    assert 0 < difference.max() < 0.05 and difference.mean() < 0.001
    with pytest.raises(CryoETError, match="bits"):
        Renderer(gl).load(*small(), bits=12)  # type: ignore[arg-type]


def test_other_ramps_need_no_new_upload(gl: Any) -> None:
    volume, soft, transfer = small()
    other = transfer.with_ramp("a", visible=False).with_ramp("b", left=0.4, color=(0, 1, 0), opacity=0.7)
    renderer = Renderer(gl)
    renderer.load(volume, soft, transfer, keep_hidden=True)
    renderer.accumulate(renderer.fit_camera(QUICK, SIZE), QUICK, SIZE)
    renderer.set_transfer(other)
    camera = renderer.fit_camera(QUICK, SIZE)
    renderer.accumulate(camera, QUICK, SIZE)
    changed = renderer.mean()
    renderer.load(volume, soft, other)
    renderer.accumulate(camera, QUICK, SIZE)
    assert np.array_equal(changed, renderer.mean())
    with pytest.raises(CryoETError, match="keep_hidden"):
        renderer.set_transfer(transfer)
    assert transfer.raw is not None
    rawless = dataclasses.replace(other, raw=dataclasses.replace(transfer.raw, at_one=0.9))
    with pytest.raises(CryoETError, match="as loaded"):
        renderer.set_transfer(rawless)


def test_the_light_survives_a_turn_and_not_a_change_of_light(gl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoet_engine.render.light import LightCache

    done = []
    update = LightCache.update
    monkeypatch.setattr(LightCache, "update", lambda *a, **k: done.append(update(*a, **k)))
    renderer = Renderer(gl)
    renderer.load(*small())
    looks = [
        QUICK,
        dataclasses.replace(QUICK, azimuth_deg=70),
        dataclasses.replace(QUICK, occlusion=0.5, bloom=0.0, shadow=0.3),
        dataclasses.replace(QUICK, light_azimuth_deg=10),
        dataclasses.replace(QUICK, cuts=(Cut(normal=(1, 0, 0)),)),
    ]
    for look in looks:
        renderer.accumulate(renderer.fit_camera(look, SIZE), look, SIZE)
    assert done == [True, False, False, True, True]


@pytest.mark.parametrize("mode", ["cached", "reference", "dvr", "iso", "mip", "vpt"])
def test_leaps_change_nothing(gl: Any, mode: Any) -> None:
    renderer = Renderer(gl)
    renderer.load(*small())
    settings = dataclasses.replace(QUICK, mode=mode, iso_value=0.3)
    camera = renderer.fit_camera(settings, SIZE)
    pictures = []
    for skip in (True, False):
        renderer.accumulate(camera, settings, SIZE, skip_empty=skip)
        pictures.append(renderer.mean())
    assert pictures[0][..., 3].max() > 0.5
    # Of a surface that a ray grazes, bisection may find another crossing: rare.
    different = np.abs(pictures[0] - pictures[1]).max(-1) > 1e-3
    assert different.mean() < (0.01 if mode in ("iso", "reference") else 1e-9)


def test_depth_and_class_of_a_pixel(gl: Any) -> None:
    data = np.zeros((3, 20, 20, 20), np.uint8)
    data[1, 4:8], data[2, 12:16, :, 10:] = 255, 255
    soft = SoftSegmentation(data, ("background", "a", "b"), voxel_size_A=(5.0,) * 3)
    transfer = TransferFunction(
        classes=soft.classes, ramps=(Ramp(left=0.5, visible=False), Ramp(left=0.5), Ramp(left=0.5))
    )
    settings = RenderSettings(azimuth_deg=0, elevation_deg=90, projection="orthographic", step_vox=0.25)
    renderer = Renderer(gl)
    renderer.load(None, soft, transfer)
    camera = renderer.fit_camera(settings, (40, 40))
    depth, ids = renderer.probe(camera, settings, (40, 40))
    assert set(np.unique(ids)) == {0, 2, 3} and (np.isnan(depth) == (ids == 0)).all()
    step = np.median(depth[ids == 2]) - np.median(depth[ids == 3])
    assert step == pytest.approx(5.0 * 8, abs=2.5)  # the second class lies eight slices higher
    row, column = 20, 30  # right half: b covers a
    assert ids[row, column] == 3 and ids[row, 10] == 2


def test_boxes_and_planes_take_the_classes_they_name(gl: Any) -> None:
    whole = np.full((2, 16, 24, 24), 255, np.uint8)
    soft = SoftSegmentation(np.concatenate([0 * whole[:1], whole]), ("background", "a", "b"))
    ramps = (Ramp(left=0.5, visible=False), Ramp(left=0.1, color=(1, 0, 0)), Ramp(left=0.1, color=(0, 0, 1)))
    transfer = TransferFunction(classes=soft.classes, ramps=ramps)
    flat = RenderSettings(
        azimuth_deg=0, elevation_deg=90, projection="orthographic", occlusion=0, shadow=0, bloom=0, frames=1
    )

    def seen(**changes: Any) -> np.ndarray:
        renderer = Renderer(gl)
        renderer.load(None, soft, transfer)
        camera = dataclasses.replace(renderer.fit_camera(flat, (48, 48)), half_height=12.0)
        renderer.accumulate(camera, dataclasses.replace(flat, **changes), (48, 48))
        return renderer.mean()

    half = Box(low_vox=(-1, -1, -1), high_vox=(20, 30, 11.5))
    only = seen(box=half)
    assert only[24, 6, 3] > 0.98 and only[24, 40, 3] == 0
    of_a = seen(box=dataclasses.replace(half, classes=("a",)))
    assert of_a[24, 40, :3] == pytest.approx((0, 0, 1), abs=0.02) and of_a[24, 6, 0] > 0.4
    planes = seen(cuts=(Cut(normal=(0, 0, 1), classes=("b",)), Cut(normal=(0, 1, 0), classes=("a",))))
    assert planes[40, 40, :3] == pytest.approx((1, 0, 0), abs=0.02)  # low y, large x: b is cut
    assert planes[8, 8, :3] == pytest.approx((0, 0, 1), abs=0.02)  # high y, small x: a is cut
    assert planes[8, 40, 3] == 0
    with pytest.raises(CryoETError, match=r"box\.classes"):
        seen(box=dataclasses.replace(half, classes=("nobody",)))
    with pytest.raises(CryoETError, match="left to draw"):
        seen(box=Box(low_vox=(50, 0, 0), high_vox=(60, 5, 5)))


def test_slices_stand_in_the_picture(gl: Any) -> None:
    volume, soft, transfer = small(RawRamp(low_pass_sigma_vox=0.0, at_zero=0.0, at_one=1.0))
    ramp = np.broadcast_to(np.linspace(0, 1, 28, dtype=np.float32), (40, 24, 28)).copy()
    renderer = Renderer(gl)
    hidden = transfer.with_ramp("a", visible=False).with_ramp("b", visible=False)
    renderer.load(volume.with_data(ramp), soft, hidden, keep_hidden=True)
    settings = RenderSettings(
        azimuth_deg=0, elevation_deg=90, projection="orthographic", frames=1, slices=(20, None, None), bloom=0
    )
    renderer.accumulate(renderer.fit_camera(settings, SIZE), settings, SIZE)
    seen = renderer.mean()
    row = seen[45]
    inside = np.flatnonzero(row[:, 3] > 0.99)
    assert len(inside) > 40
    # Protein is dark on a slice, as in the tomogram: the mapped value falls along x.
    expected = 0.6 * (1 - np.linspace(0, 1, len(inside))) ** 2
    assert np.abs(row[inside, 0] - expected).max() < 0.05


@pytest.mark.parametrize("fill", ["constant", "nan", "empty"])
@pytest.mark.parametrize("mode", ["cached", "reference", "dvr", "iso", "mip", "vpt"])
def test_volumes_with_nothing_in_them_are_drawn(gl: Any, mode: Any, fill: str) -> None:
    value = {"constant": 1.0, "nan": np.nan, "empty": 0.0}[fill]
    data = np.full((2, 6, 7, 9), value, np.float32)
    soft = SoftSegmentation(data, ("background", "a"))
    volume = Volume(np.full((6, 7, 9), value, np.float32))
    transfer = TransferFunction.estimate(soft, volume)
    renderer = Renderer(gl)
    renderer.load(volume, soft, transfer)
    settings = dataclasses.replace(QUICK, mode=mode, frames=1, source="classes" if transfer.raw is None else "raw")
    renderer.accumulate(renderer.fit_camera(settings, (16, 16)), settings, (16, 16))
    assert np.isfinite(renderer.mean()).all()


def test_a_camera_behind_the_volume_sees_nothing_and_one_inside_something(gl: Any) -> None:
    soft = SoftSegmentation(np.full((2, 16, 16, 16), 255, np.uint8), ("background", "a"))
    transfer = TransferFunction(classes=soft.classes, ramps=(Ramp(left=0.5, visible=False), Ramp(left=0.1)))
    renderer = Renderer(gl)
    renderer.load(None, soft, transfer)
    for mode in ("cached", "reference", "dvr", "iso", "mip", "vpt"):
        settings = dataclasses.replace(QUICK, mode=mode)
        camera = renderer.fit_camera(settings, (16, 16))
        away = dataclasses.replace(camera, forward=-camera.forward, right=-camera.right)
        renderer.accumulate(away, settings, (16, 16))
        assert not renderer.mean().any()
        renderer.accumulate(dataclasses.replace(camera, eye=np.zeros(3)), settings, (16, 16))
        assert renderer.mean()[..., 3].min() > 0.9


def test_the_depth_of_a_surface_is_that_of_its_level(gl: Any) -> None:
    # A ball whose value falls linearly: radii 14, 11 and 8 at 1/4, 1/2 and 3/4.
    distance = np.sqrt(((np.indices((40, 40, 40)) - 19.5) ** 2).sum(0))
    ball = np.rint(255 * np.clip(0.5 + (11 - distance) / 12, 0, 1)).astype(np.uint8)
    soft = SoftSegmentation(np.stack([255 - ball, ball]), ("background", "a"), voxel_size_A=(1.0,) * 3)
    transfer = TransferFunction(classes=soft.classes, ramps=(Ramp(left=0.5, visible=False), Ramp(left=0.0)))
    renderer = Renderer(gl)
    renderer.load(None, soft, transfer)
    look = RenderSettings(mode="iso", azimuth_deg=0, elevation_deg=90, projection="orthographic", step_vox=0.1)
    camera = renderer.fit_camera(look, (31, 31))
    top = [
        camera.eye[2] - renderer.probe(camera, dataclasses.replace(look, iso_value=level), (31, 31))[0][15, 15]
        for level in (0.25, 0.5, 0.75)
    ]
    assert top == pytest.approx([14, 11, 8], abs=0.15)


def test_what_cannot_be_is_told(gl: Any) -> None:
    renderer = Renderer(gl)
    for early in (renderer.mean, lambda: renderer.present(QUICK)):
        with pytest.raises(CryoETError, match="accumulate"):
            early()
    renderer.load(*small())
    look = dataclasses.replace(QUICK, slices=(40, None, None))
    with pytest.raises(CryoETError, match="slices"):
        renderer.accumulate(renderer.fit_camera(look, SIZE), look, SIZE)


def test_the_raw_volume_must_be_there_to_be_drawn(gl: Any) -> None:
    _, soft, transfer = small()
    renderer = Renderer(gl)
    renderer.load(None, soft, dataclasses.replace(transfer, raw=None))
    with pytest.raises(CryoETError, match="no raw volume"):
        renderer.fit_camera(RenderSettings(mode="dvr", source="raw"), SIZE)


def test_a_lost_card_is_told(gl: Any) -> None:
    class Lost:
        error = "GL_CONTEXT_LOST"

    with pytest.raises(DeviceError, match="GL_CONTEXT_LOST"):
        context_room.check_drawn(Lost(), "drawing")


def test_light_refined_between_frames_is_the_light_built_at_once(gl: Any, scenes: dict[str, Scene]) -> None:
    coarse = dataclasses.replace(QUICK, light_spacing=4)
    renderer = Renderer(gl)
    renderer.load(*scenes["crowded_vesicles"])
    camera = renderer.fit_camera(QUICK, SIZE)
    renderer.accumulate(camera, QUICK, SIZE)
    at_once = renderer.mean()
    renderer.accumulate(camera, coarse, SIZE)
    meanwhile = renderer.mean()
    for _ in range(2):
        assert not renderer.refine_light(QUICK, budget_s=1e-9)
        renderer.accumulate(camera, coarse, SIZE)
        np.testing.assert_array_equal(renderer.mean(), meanwhile)  # what is shown does not change half-way
    assert renderer.refine_light(QUICK, budget_s=600)
    assert renderer.refine_light(QUICK, budget_s=0)  # nothing is left to do
    renderer.accumulate(camera, QUICK, SIZE)
    np.testing.assert_array_equal(renderer.mean(), at_once)
    assert np.abs(at_once - meanwhile).max() > 0.01


def test_an_edit_begins_the_refined_light_anew(gl: Any, scenes: dict[str, Scene]) -> None:
    volume, segmentation, transfer = scenes["spiked_vesicle"]
    other = transfer.with_ramp(transfer.classes[1], left=0.45)
    renderer = Renderer(gl)
    renderer.load(volume, segmentation, other)
    camera = renderer.fit_camera(QUICK, SIZE)
    renderer.accumulate(camera, QUICK, SIZE)
    fresh = renderer.mean()
    renderer.set_transfer(transfer)
    renderer.accumulate(camera, dataclasses.replace(QUICK, light_spacing=4), SIZE)
    renderer.refine_light(QUICK, budget_s=1e-9)
    renderer.set_transfer(other)
    assert renderer.refine_light(QUICK, budget_s=600)
    renderer.accumulate(camera, QUICK, SIZE)
    np.testing.assert_array_equal(renderer.mean(), fresh)


def test_frames_one_a_call_have_the_mean_of_frames_at_once(gl: Any) -> None:
    settings = dataclasses.replace(QUICK, frames=40)
    renderer = Renderer(gl)
    renderer.load(*small())
    camera = renderer.fit_camera(settings, SIZE)
    renderer.accumulate(camera, settings, SIZE)
    at_once = renderer.mean()
    for number in range(40):
        renderer.accumulate(camera, settings, SIZE, frames=1, first_frame=number)
    np.testing.assert_allclose(renderer.mean(), at_once, atol=1e-6)


def test_thin_slabs_say_that_their_light_is_approximate(gl: Any) -> None:
    renderer = Renderer(gl)
    renderer.load(*small(), max_bytes=10 * 24 * 28 * 4)
    renderer.accumulate(renderer.fit_camera(LIT, SIZE), dataclasses.replace(LIT, frames=1), SIZE)
    assert [note for note in renderer.notices if "slabs' borders is approximate" in note]


def test_only_an_axis_beyond_the_texture_limit_is_binned(gl: Any) -> None:
    rod = np.zeros((8, 8, 2100), np.uint8)
    rod[2:6, 2:6, 100:2000] = 255
    transfer = TransferFunction(classes=("background", "a"), ramps=(Ramp(left=0.5, visible=False), Ramp(left=0.2)))
    renderer = Renderer(gl)
    renderer.load(None, SoftSegmentation(np.stack([255 - rod, rod]), ("background", "a")), transfer)
    assert [note for note in renderer.notices if "binned by 1 x 1 x 2" in note and "texture limit" in note]
    settings = dataclasses.replace(QUICK, occlusion=0, shadow=0)
    renderer.accumulate(renderer.fit_camera(settings, SIZE), settings, SIZE)
    assert renderer.mean()[..., 3].max() > 0.9


@pytest.mark.parametrize("elevation", [90.0, 37.0])
def test_a_slice_on_a_cut_is_seen_on_the_cut_face(gl: Any, elevation: float) -> None:
    renderer = Renderer(gl)
    renderer.load(*small())
    settings = dataclasses.replace(
        QUICK, frames=1, elevation_deg=elevation, cuts=(Cut(normal=(1, 0, 0), point_vox=(20, 0, 0)),)
    )
    camera = renderer.fit_camera(settings, SIZE)
    renderer.accumulate(camera, dataclasses.replace(settings, slices=(20, None, None)), SIZE)
    cut = renderer.mean()
    renderer.accumulate(camera, dataclasses.replace(settings, slices=(30, None, None)), SIZE)
    without = renderer.mean()  # that slice is cut away
    # Nothing but a slice covers every ray that meets it: the face is closed.
    assert (cut[..., 3] == 1).sum() > (without[..., 3] == 1).sum() + 500
