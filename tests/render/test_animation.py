# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from cryoet_engine import CryoETError, SoftSegmentation, TransferFunction
from cryoet_engine.render import RenderSettings, animation, video
from cryoet_engine.render.animation import Animation, KeyFrame, load_key_frames, render_animation, turntable
from cryoet_engine.transfer import Ramp

SIZE = (64, 48)
QUICK = RenderSettings(frames=1, light_occlusion_samples=4, light_shadow_rays=1, scale_bar=False, legend=False)
RAMPS = TransferFunction(
    classes=("background", "a", "b"),
    ramps=(Ramp(left=0.5, visible=False), Ramp(left=0.3), Ramp(left=0.3, color=(1, 0, 0))),
)


def scene() -> SoftSegmentation:
    data = np.zeros((3, 16, 16, 24), np.uint8)
    data[1, 4:12, 4:12, 2:10] = 255
    data[2, 4:12, 4:12, 16:20] = 255
    return SoftSegmentation(data, RAMPS.classes)


def test_numbers_move_smoothly_and_never_overshoot() -> None:
    keys = (
        KeyFrame(time_s=1, settings={"zoom": 1.0, "azimuth_deg": 0, "target_vox": (1.0, 2.0, 3.0)}),
        KeyFrame(time_s=2, settings={"zoom": 4.0, "azimuth_deg": 90}),
        KeyFrame(time_s=4, settings={"target_vox": (3.0, 2.0, 3.0)}, opacity={"a": 0.0}),
    )
    moving = Animation(keys, RenderSettings(), RAMPS)
    assert moving.seconds == 3
    for time, key in ((0, 0), (1, 1), (3, 2)):
        settings, ramps = moving.at(time)
        assert settings.zoom == pytest.approx((1, 4, 4)[key])
        assert settings.azimuth_deg == pytest.approx((0, 90, 90)[key])
        assert ramps.ramp("a").opacity == pytest.approx((1, 1, 0)[key])
    zooms = [moving.at(t)[0].zoom for t in np.linspace(0, 3, 100)]
    assert max(zooms) <= 4 + 1e-9 and min(zooms) >= 1 - 1e-9 and (np.diff(zooms) > -1e-9).all()
    assert moving.at(2.9)[0].target_vox == pytest.approx((2.9, 2, 3), abs=0.1)


def test_what_cannot_move_jumps_at_its_key_frame() -> None:
    keys = (KeyFrame(time_s=0), KeyFrame(time_s=1, settings={"background": "dark"}), KeyFrame(time_s=2))
    moving = Animation(keys, RenderSettings(), RAMPS)
    assert [moving.at(t)[0].background for t in (0.0, 0.99, 1.0, 2.0)] == ["light", "light", "dark", "dark"]


def test_a_turn_loops_evenly(gl: Any, tmp_path: Path) -> None:
    settings = QUICK
    render_animation(
        None, scene(), RAMPS, tmp_path / "a.gif", turntable(settings, 1), settings=settings, size=SIZE, fps=8
    )
    with Image.open(tmp_path / "a.gif") as gif:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0 and gif.info["duration"] == 120  # hundredths of a second
    assert len(frames) == 8 and frames[0].shape == (48, 64, 3)
    steps = [np.abs(a - b).mean() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
    assert min(steps) > 0.5 and steps[-1] < 2 * max(steps[:-1])


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_a_video_has_the_size_the_rate_and_all_frames(gl: Any, tmp_path: Path, ending: str) -> None:
    av = pytest.importorskip("av")
    keys = (KeyFrame(time_s=0), KeyFrame(time_s=0.5, settings={"zoom": 2.0}))
    path = tmp_path / f"a{ending}"
    render_animation(None, scene(), RAMPS, path, keys, settings=QUICK, size=(66, 50), fps=10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (66, 50) and float(stream.average_rate) == pytest.approx(10)
        assert len(list(container.decode(video=0))) == 6  # both ends: it does not loop
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_keeps_what_an_interrupted_run_left(gl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = animation.draw

    def counted(*arguments: Any, **named: Any) -> Any:
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(*arguments, **named)

    monkeypatch.setattr(animation, "draw", counted)
    folder, keys = tmp_path / "frames", (KeyFrame(time_s=0), KeyFrame(time_s=1, settings={"azimuth_deg": 30.0}))
    with pytest.raises(KeyboardInterrupt):
        render_animation(None, scene(), RAMPS, folder, keys, settings=QUICK, size=SIZE, fps=4)
    assert sorted(p.name for p in folder.iterdir()) == ["frame00000.png", "frame00001.png"]
    render_animation(None, scene(), RAMPS, folder, keys, settings=QUICK, size=SIZE, fps=4)
    assert len(drawn) == 3 + 3 and len(list(folder.iterdir())) == 5
    render_animation(None, scene(), RAMPS, folder, (*keys[:1], KeyFrame(time_s=0.5)), settings=QUICK, size=SIZE, fps=4)
    assert len(list(folder.iterdir())) == 3  # frame 0 is the same; what is beyond the new end is gone


def test_a_folder_does_not_keep_frames_of_other_data(gl: Any, tmp_path: Path) -> None:
    folder, keys = tmp_path / "frames", (KeyFrame(time_s=0), KeyFrame(time_s=1))
    stored = []
    for recipe in ("all of it", "a part", "a part"):
        render_animation(None, scene(), RAMPS, folder, keys, settings=QUICK, size=SIZE, fps=1, recipe=recipe)
        stored.append((folder / "frame00000.png").read_bytes())
    assert stored[0] != stored[1] == stored[2]


def test_what_comes_into_sight_later_is_in_the_picture(gl: Any, tmp_path: Path) -> None:
    # The second class stands beside the first, and is clear at the beginning.
    keys = (KeyFrame(time_s=0, opacity={"b": 0.0}), KeyFrame(time_s=1, opacity={"b": 1.0}))
    look = dataclasses.replace(QUICK, azimuth_deg=0, elevation_deg=90, background="white", axes=False)
    render_animation(None, scene(), RAMPS, tmp_path / "frames", keys, settings=look, size=(96, 64), fps=1)
    with Image.open(tmp_path / "frames" / "frame00001.png") as image:
        pixels = np.asarray(image).astype(int)
    red = (pixels[..., 0] > pixels[..., 1] + 60).any(axis=0)
    assert red.any() and not red[-1] and not red[0]


def test_a_cancelled_video_leaves_nothing(gl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")

    def cancel(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(animation, "draw", cancel)
    for name in ("a.mp4", "a.gif"):
        with pytest.raises(KeyboardInterrupt):
            render_animation(
                None, scene(), RAMPS, tmp_path / name, turntable(QUICK, 1), settings=QUICK, size=SIZE, fps=4
            )
    assert not list(tmp_path.iterdir())


def test_what_does_not_go_together_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = turntable(QUICK, 1)
    for path, size, told in (("a.avi", SIZE, "output"), ("a.mp4", (63, 48), "--size 64x48")):
        with pytest.raises(CryoETError, match=told):
            render_animation(None, scene(), RAMPS, tmp_path / path, keys, size=size)
    with pytest.raises(CryoETError, match="fps"):
        render_animation(None, scene(), RAMPS, tmp_path / "a.gif", keys, size=SIZE, fps=0)
    with pytest.raises(CryoETError, match="two or more"):
        render_animation(None, scene(), RAMPS, tmp_path / "a.gif", keys[:1], size=SIZE)
    with pytest.raises(CryoETError, match="class name"):
        Animation((KeyFrame(time_s=0), KeyFrame(time_s=1, opacity={"x": 0.5})), QUICK, RAMPS)
    monkeypatch.setattr(video, "_av", lambda: (_ for _ in ()).throw(CryoETError("cryoet-engine[video]")))
    with pytest.raises(CryoETError, match="video"):
        video.check_output("a.mp4", SIZE)


def test_key_frames_come_from_a_file(tmp_path: Path) -> None:
    content = {
        "kind": "cryoet-engine key frames",
        "version": 1,
        "frames": [
            {"time_s": 0, "settings": {"azimuth_deg": 10, "cuts": [{"normal": [1, 0, 0]}]}},
            {"time_s": 2, "settings": {"target_vox": [1, 2, 3]}, "opacity": {"a": 0.5}},
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    keys = load_key_frames(tmp_path / "a.json")
    assert keys[0].settings["cuts"][0].normal == (1, 0, 0) and keys[1].settings["target_vox"] == (1, 2, 3)
    for wrong in (
        {"version": 2},
        {"frames": [{"settings": {}}]},
        {"frames": [{"time_s": -1}]},
        {"frames": [{"time_s": 0, "settings": {"transparent": True}}]},
        {"frames": [{"time_s": 0, "opacity": {"a": 2}}]},
        {"frames": 3},
        {"version": True},
        {"frames": [{"time_s": 0, "speed": 2}]},
        {"frames": [{"time_s": math.nan}]},
        {"frames": [{"time_s": 0, "settings": [1]}]},
        {"frames": [3]},
    ):
        (tmp_path / "b.json").write_text(json.dumps(content | wrong))
        with pytest.raises(CryoETError, match=r"b\.json") as caught:
            load_key_frames(tmp_path / "b.json")
        assert not any(word in str(caught.value) for word in ("__init__", "NoneType", "keyword", "\n"))
    (tmp_path / "b.json").write_text("[" * 10**5)
    with pytest.raises(CryoETError, match="nested too deeply"):
        load_key_frames(tmp_path / "b.json")


def test_a_folder_keeps_transparency_and_a_film_has_none(gl: Any, tmp_path: Path) -> None:
    clear = dataclasses.replace(QUICK, transparent=True)
    keys = (KeyFrame(time_s=0), KeyFrame(time_s=1))
    render_animation(None, scene(), RAMPS, tmp_path / "frames", keys, settings=clear, size=SIZE, fps=1)
    with Image.open(tmp_path / "frames" / "frame00000.png") as image:
        alpha = np.asarray(image)[..., 3]
    assert alpha.min() == 0 and alpha.max() > 200
    for name in ("a.gif", "a.mp4"):
        with pytest.raises(CryoETError, match="folder for PNGs"):
            render_animation(None, scene(), RAMPS, tmp_path / name, keys, settings=clear, size=SIZE)


@pytest.mark.parametrize(
    ("fps", "hundredths", "told"), [(10, 10, False), (24, 4, True), (33, 3, False), (200, 2, True)]
)
def test_a_gif_says_how_fast_it_really_is(tmp_path: Path, fps: float, hundredths: int, told: bool) -> None:
    held: list[int] = []

    def frame(number: int) -> Image.Image:
        held.append(number)
        return Image.new("RGB", (8, 8), (20 * number, 255 - 20 * number, 40))

    looks = [(str(number), lambda number=number: frame(number)) for number in range(8)]
    typical = [looks[number][1] for number in video.palette_frames(8)]
    notices = video.write_frames(tmp_path / "a.gif", looks, fps=fps, size=(8, 8), typical=typical)
    assert video.gif_hundredths(fps) == hundredths
    assert [f"{100 / hundredths:.3g} frames a second" in notice for notice in notices] == [True] * told
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 8 and gif.info["duration"] == 10 * hundredths
    assert len(held) == 16 and video.palette_frames(100) == [0, 12, 25, 37, 50, 62, 75, 87]


def test_an_animation_keeps_to_the_memory_allowed(gl: Any, tmp_path: Path) -> None:
    keys, allowed = (KeyFrame(time_s=0), KeyFrame(time_s=1)), 11 * 16 * 24 * 2
    told = render_animation(
        None, scene(), RAMPS, tmp_path / "a", keys, settings=QUICK, size=SIZE, fps=1, max_bytes=allowed
    )
    assert any("slabs" in notice for notice in told)
    render_animation(None, scene(), RAMPS, tmp_path / "b", keys, settings=QUICK, size=SIZE, fps=1)
    slabs, whole = (np.asarray(Image.open(tmp_path / name / "frame00000.png")).astype(int) for name in "ab")
    assert np.abs(slabs - whole).mean() < 3 and whole.std() > 5
