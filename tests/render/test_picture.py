# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from cryoet_engine import CryoETError, SoftSegmentation, Volume
from cryoet_engine._checks import InputError, MissingDependencyError
from cryoet_engine.render import Cut, RenderSettings, describe, render_image
from cryoet_engine.render.annotate import annotate, nice_length, scale_label

QUICK = RenderSettings(frames=1, occlusion_samples=2, shadow_samples=4)


def ball() -> tuple[Volume, SoftSegmentation]:
    grid = np.indices((16, 20, 24)) - np.reshape((8, 10, 12), (3, 1, 1, 1))
    p = (np.sqrt((grid**2).sum(0)) < 6).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, p.shape).astype(np.float32)
    soft = SoftSegmentation(np.stack([1 - p, p]), ("background", "virion"), voxel_size_A=(8.0,) * 3)
    return Volume(noise - p, voxel_size_A=(8.0,) * 3), soft


def test_one_call_gives_a_picture_and_a_file(gl: Any, tmp_path) -> None:
    volume, soft = ball()
    calls = []
    picture = render_image(
        volume, soft, size=(64, 48), settings=QUICK, progress=lambda stage, done, total, note="": calls.append(stage)
    )
    assert picture.size == (64, 48) and picture.image.mode == "RGB" and picture.notices == ()
    assert {"thresholds", "raw ramp", "upload", "render"} <= set(calls)
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.png") as back:
        assert np.array_equal(np.asarray(back), np.asarray(picture.image))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a.png"]


def test_the_ball_is_in_the_middle_and_colored(gl: Any) -> None:
    volume, soft = ball()
    settings = RenderSettings(frames=2, background="black", scale_bar=False, legend=False)
    pixels = np.asarray(render_image(volume, soft, size=(64, 48), settings=settings).image).astype(int)
    assert (pixels[24, 32] > 60).all() and pixels[2, 2].max() <= 1
    assert pixels[24, 32, 0] >= pixels[24, 32, 2]  # the class's warm white


def test_a_transparent_background_has_no_opacity(gl: Any) -> None:
    volume, soft = ball()
    settings = RenderSettings(frames=1, transparent=True, scale_bar=False, legend=False, bloom=0)
    image = render_image(volume, soft, size=(64, 48), settings=settings).image
    assert image.mode == "RGBA"
    alpha = np.asarray(image)[..., 3]
    assert alpha[0, 0] == 0 and alpha[24, 32] == 255


def test_white_stays_white_under_bloom(gl: Any) -> None:
    volume, soft = ball()
    settings = RenderSettings(frames=1, background="white", bloom=2.0, scale_bar=False, legend=False)
    assert (np.asarray(render_image(volume, soft, size=(64, 48), settings=settings).image)[0, 0] == 255).all()


def test_the_same_call_gives_the_same_picture(gl: Any) -> None:
    volume, soft = ball()
    first, second = (render_image(volume, soft, size=(64, 48), settings=QUICK).image for _ in range(2))
    assert np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (3, 65), (64, 64), (65, 300), (300, 65)])
def test_tiny_pictures_work(gl: Any, size: tuple[int, int]) -> None:
    volume, soft = ball()
    assert render_image(volume, soft, size=size, settings=QUICK).size == size


def test_one_thick_and_lazy_volumes_work(gl: Any) -> None:
    soft = SoftSegmentation(np.full((2, 1, 9, 7), 255, np.uint8)[:, :, ::-1], ("background", "a"))
    big_endian = Volume(np.zeros((1, 9, 7), ">f4"))
    assert render_image(big_endian, soft, size=(16, 16), settings=QUICK).size == (16, 16)
    assert render_image(None, soft, size=(16, 16), settings=QUICK).size == (16, 16)


def test_cancelling_leaves_nothing(gl: Any, tmp_path) -> None:
    volume, soft = ball()

    def cancel(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "render":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_image(volume, soft, size=(64, 48), settings=QUICK, progress=cancel).save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_missing_opengl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import moderngl

    def refuse(**_: Any) -> Any:
        raise Exception("libEGL.so not loaded\n")  # what glcontext raises

    monkeypatch.setattr(moderngl, "create_context", refuse)
    volume, soft = ball()
    with pytest.raises(MissingDependencyError, match="libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri") as caught:
        render_image(volume, soft, size=(64, 48))
    assert "libEGL.so not loaded" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(MissingDependencyError):
        describe()


def test_an_old_opengl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import moderngl

    class Old:
        version_code = 330
        info = {"GL_RENDERER": "old"}  # noqa: RUF012
        released = False

        def release(self) -> None:
            Old.released = True

    monkeypatch.setattr(moderngl, "create_context", lambda **_: Old())
    with pytest.raises(MissingDependencyError, match=r"got version 3\.3 \(old\)"):
        describe()
    assert Old.released


def test_describe_names_the_renderer(gl: Any) -> None:
    found = describe()
    assert found["renderer"] and int(found["max_3d_texture"]) >= 256


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("zoom", 0),
        ("zoom", float("nan")),
        ("elevation_deg", 91),
        ("occlusion", 1.5),
        ("frames", 0),
        ("frames", 2.0),
        ("step_vox", True),
        ("projection", "isometric"),
        ("background", "plaid"),
        ("background", (1, 2, 3)),
        ("transparent", 1),
        ("clip_z", (5, 2)),
        ("clip_z", 3),
        ("leave_out_slices", (-1, 0)),
        ("cuts", (1, 0, 0)),
        ("cuts", (Cut(normal=(1, 0, 0)),) * 4),
        ("box", (0, 1)),
        ("slices", (1, 2)),
        ("slices", (-1, None, None)),
        ("mode", "raytraced"),
        ("source", "labels"),
        ("iso_value", 0),
        ("raw_colors", "rainbow"),
        ("raw_colors", ((0, 0, 0, 0, 0),)),
        ("raw_colors", ((0, 0, 0, 0, 0), (0.5, 0, 0, 0, 2), (1, 0, 0, 0, 0))),
        ("raw_colors", ((0.1, 0, 0, 0, 0), (1, 0, 0, 0, 0))),
        ("light_spacing", 3),
        ("supersampling", 5),
        ("target_vox", (1, 2)),
        ("title", None),
    ],
)
def test_settings_are_checked(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"RenderSettings: {field}"):
        RenderSettings(**{field: value})


def test_a_light_takes_the_place_of_the_one_before() -> None:
    assert RenderSettings(zoom=2).with_light("flat").with_light("studio") == RenderSettings(zoom=2)


def test_a_cut_needs_a_direction() -> None:
    with pytest.raises(InputError, match=r"cut\.normal"):
        Cut(normal=(0, 0, 0))


def test_slices_that_leave_nothing_are_refused_before_any_work(gl: Any) -> None:
    volume, soft = ball()

    def never(*_: Any) -> None:
        raise AssertionError

    for settings in (RenderSettings(clip_z=(90, 99)), RenderSettings(leave_out_slices=(9, 9))):
        with pytest.raises(CryoETError, match="slices left to draw"):
            render_image(volume, soft, size=(64, 48), settings=settings, progress=never)


@pytest.mark.parametrize(
    ("at_most", "nice"), [(0.7, 0.5), (1, 1), (1.99, 1), (2, 2), (49, 20), (50, 50), (999, 500), (1e5, 1e5)]
)
def test_scale_bars_are_1_2_or_5(at_most: float, nice: float) -> None:
    assert nice_length(at_most) == pytest.approx(nice)


@pytest.mark.parametrize(
    ("length", "status", "text"),
    [
        (1000, "known", "100 nm"),
        (20000, "known", "2 µm"),
        (5, "known", "5 Å"),
        (1000, "estimated", "100 nm (voxel size estimated)"),
        (50, "unknown", "50 voxels"),
        (1, "unknown", "1 voxel"),
    ],
)
def test_scale_labels(length: float, status: Any, text: str) -> None:
    assert scale_label(length, status) == text


@pytest.mark.parametrize("scale", [0.7, 3.3, 41.0])
def test_the_bar_is_as_long_as_it_says(scale: float) -> None:
    image = Image.new("RGB", (800, 600), "white")
    annotate(image, scale=scale)
    dark = np.asarray(image)[..., 0] < 100
    bar = max(row.sum() for row in dark[300:])
    assert bar * scale == pytest.approx(nice_length(0.22 * 800 * scale), abs=1.5 * scale)
