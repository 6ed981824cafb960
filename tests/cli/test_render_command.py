# SPDX-License-Identifier: MIT
"""`cryoet render` and `cryoet bench` as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cryoet_engine import io, transfer
from cryoet_engine.cli import render

SMALL = ("--size", "96x64", "--frames", 1, "--light-spacing", 4)


def words(inputs: Path, *more: object) -> tuple[object, ...]:
    return ("render", inputs / "tomogram.mrc", "--segmentation", inputs / "truth.mrc", *SMALL, *more)


def test_a_picture_is_made_again_from_itself(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    first, again, changed = (tmp_path / f"{name}.png" for name in ("first", "again", "changed"))
    extra = ("--cut", "z", "--light", "side", "--region", "2:22,4:44,:", "--save-session", tmp_path / "s.json")
    assert cryoet(*words(inputs, "-o", first, *extra)).status == 0
    assert cryoet("render", "--session", first, "-o", again).status == 0
    assert first.read_bytes() == again.read_bytes()
    from_json = cryoet("render", "--session", tmp_path / "s.json", "-o", again)
    assert from_json.status == 0 and first.read_bytes() == again.read_bytes()
    assert cryoet("render", "--session", first, "-o", changed, "--azimuth", 120, "--size", "64x96").status == 0
    with Image.open(changed) as image:
        assert image.size == (64, 96)


def test_what_else_a_picture_can_tell(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    depth, ids, figure = tmp_path / "d.tif", tmp_path / "i.png", tmp_path / "t.png"
    options = ("--depth", depth, "--class-ids", ids, "--thresholds", figure, "-o", tmp_path / "p.png")
    outcome = cryoet(*words(inputs, *options))
    assert outcome.status == 0, outcome.err
    with Image.open(depth) as image, Image.open(ids) as classes:
        far, shown = np.asarray(image), np.asarray(classes)
    assert far.dtype == np.float32 and far.shape == shown.shape == (64, 96)
    assert (np.isnan(far) == (shown == 0)).all() and set(np.unique(shown)) <= {0, 2, 3, 4} and shown.max() > 1
    assert figure.exists()


def test_dry_run_draws_nothing(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    outcome = cryoet(*words(inputs, "-o", tmp_path / "p.png", "--dry-run"))
    assert outcome.status == 0 and "together" in outcome.out and not list(tmp_path.iterdir())


def test_a_turn_and_key_frames(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    assert cryoet(*words(inputs, "-o", tmp_path / "a.gif", "--turntable", 1, "--fps", 3)).status == 0
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3
    name = io.read_segmentation([inputs / "truth.mrc"]).classes[1]
    frames = [{"time_s": 0}, {"time_s": 1, "settings": {"zoom": 2}, "opacity": {name: 0.5}}]
    content = {"kind": "cryoet-engine key frames", "version": 1, "frames": frames}
    (tmp_path / "k.json").write_text(json.dumps(content))
    outcome = cryoet(*words(inputs, "-o", tmp_path / "out", "--keyframes", tmp_path / "k.json", "--fps", 2))
    assert outcome.status == 0, outcome.err
    assert len(list((tmp_path / "out").glob("frame*.png"))) == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-o", "a.jpg"), ".png"),
        (("-o", "a.png", "--turntable", "0"), "turntable"),
        (("-o", "a.avi", "--turntable", "1"), "output"),
        (("-o", "a.png", "--compare", "--stages"), "one kind"),
        (("-o", "a.png", "--depth", "d.png"), "--depth"),
        (("-o", "a.png", "--turntable", "1"), "a video's ending, or name a folder"),
        (("-o", "a.mp4", "--turntable", "1", "--size", "33x32"), "--size 34x32"),
        (("-o", "a.gif", "--turntable", "1", "--transparent"), "a folder for PNGs"),
        (("-o", "a.gif", "--turntable", "1", "--fps", "nan"), "--fps"),
        (("-o", "a.png", "--transparent", "--opaque"), "both"),
        (("-o", "a.png", "--hide", "mitochondrion"), "--hide: classes: expected of background, "),
        (("-o", "a.png", "--cut", "z:mitochondrion"), "--cut: classes: expected of background, "),
        (("-o", "a.png", "--cut", "z=24"), "24 x 48 x 48"),
        (("-o", "a.png", "--region", "0:8,:,:", "--cut=-z=12"), "8 x 48 x 48"),
        (("-o", "a.png", "--target", "5,5,100"), "24 x 48 x 48"),
        (("-o", "a.png", "--fill", "much"), "--fill"),
        (("-o", "a.png", "--source", "raw", "--light", "moon"), "light"),
        (("-o", "a.png", "--background", "1,2"), "background"),
        (("-o", "a.png", "--slices", "99,-,-"), "slices"),
        ((), "-o"),
        (("-o", "a.png", "--mode", "cached", "--source", "raw", "--preset", "hard"), "--preset"),
    ],
)
def test_what_does_not_go_together_is_told(
    inputs: Path, cryoet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cryoet(*words(inputs, *options))
    assert outcome.status in (1, 2) and told in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir()) and "thresholds  " not in outcome.err  # no ramp was estimated before


def key_frames(*frames: dict[str, object]) -> str:
    return json.dumps({"kind": "cryoet-engine key frames", "version": 1, "frames": frames})


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ([{"time_s": 0}], "two or more"),
        ([{"time_s": 0}, {"time_s": 0}], "later than the one before"),
        ([{"time_s": 0}, {"time_s": 1, "settings": {"zoom": -1}}], "zoom"),
        ([{"time_s": 0}, {"time_s": 1, "settings": {"speed": 1}}], "speed"),
        ([{"time_s": 0}, {"time_s": 1, "opacity": {"mitochondrion": 1}}], "mitochondrion"),
    ],
)
def test_key_frames_are_checked_before_the_work(
    inputs: Path, cryoet: Callable, tmp_path: Path, frames: list[dict[str, object]], told: str
) -> None:
    (tmp_path / "k.json").write_text(key_frames(*frames))
    outcome = cryoet(*words(inputs, "-o", tmp_path / "out", "--keyframes", tmp_path / "k.json"))
    assert outcome.status == 1 and len(outcome.errors) == 1 and told in outcome.errors[0]
    assert "thresholds  " not in outcome.err and not (tmp_path / "out").exists()


def test_what_is_missing_is_named(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    outcome = cryoet("render", "--segmentation", inputs / "truth.mrc", "-o", tmp_path / "a.png")
    assert outcome.status == 1 and "expected TOMO, or --session, got --segmentation alone" in outcome.err


def test_a_tomogram_is_drawn_alone(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    outcome = cryoet("render", inputs / "tomogram.mrc", *SMALL, "-o", first)
    assert outcome.status == 0 and "empty" not in outcome.err, outcome.err
    with Image.open(first) as image:
        assert np.asarray(image)[20:44, 30:66].std() > 10
    assert cryoet("render", "--session", first, "-o", again).status == 0
    assert first.read_bytes() == again.read_bytes()
    for option in (("--mode", "cached"), ("--source", "classes"), ("--compare",), ("--hide-dust", 5)):
        outcome = cryoet("render", inputs / "tomogram.mrc", *SMALL, *option, "-o", again)
        assert outcome.status == 1 and "give --segmentation" in outcome.err


def test_a_session_is_changed_back(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    first, again, saved = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "s.json"
    changes = ("--orthographic", "--transparent", "--cut", "z", "--box", "0:9,:,:", "--no-raw", "--no-axes")
    assert cryoet(*words(inputs, "-o", first, *changes, "--no-legend", "--no-scale-bar")).status == 0
    back = ("--perspective", "--opaque", "--no-cut", "--no-box", "--raw", "--axes", "--legend", "--scale-bar")
    outcome = cryoet("render", "--session", first, "-o", again, *back, "--save-session", saved)
    assert outcome.status == 0, outcome.err
    settings = json.loads(saved.read_text())["settings"]
    assert settings["projection"] == "perspective" and not settings["transparent"]
    assert settings["cuts"] == [] and settings["box"] is None
    assert all(settings[part] for part in ("multiply_raw", "axes", "legend", "scale_bar"))


def test_presets_shape_the_ramps(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    assert tuple(transfer.PRESETS) == render.PRESETS
    ends = {}
    for name in ("automatic", "surface", "soft"):
        saved = tmp_path / f"{name}.json"
        start = ("--session", tmp_path / "surface.png") if name == "soft" else words(inputs)[1:]
        outcome = cryoet("render", *start, "-o", tmp_path / f"{name}.png", "--preset", name, "--save-transfer", saved)
        assert outcome.status == 0, outcome.err
        ends[name] = [(ramp["left"], ramp["right"]) for ramp in json.loads(saved.read_text())["classes"][1:]]
    for (a, one), surface, soft in zip(*ends.values(), strict=True):
        assert one == 1 and surface == pytest.approx((a + 0.3 * (1 - a), a + 0.5 * (1 - a)))
        assert soft == pytest.approx((a / 2, 1))  # from the automatic end, though the session's ramps had another


def test_a_picture_is_empty_only_where_nothing_stands_in_it(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    names = io.read_segmentation([inputs / "truth.mrc"]).classes
    hidden = words(inputs, "-o", tmp_path / "a.png", "--hide", *names)
    assert "the picture is empty" in cryoet(*hidden).err
    assert "the picture is empty" not in cryoet(*hidden, "--slices", "12,-,-").err
    assert "the picture is empty" not in cryoet(*hidden, "--source", "raw", "--mode", "mip").err


def test_a_dry_run_keeps_to_the_memory_allowed(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    voxels = 24 * 48 * 48
    outcome = cryoet(*words(inputs, "--dry-run", "--memory", 3 * voxels))  # four classes and the raw volume: 5 values
    assert outcome.status == 0 and "slabs: at most 14 of the 24 slices" in outcome.err
    volumes = next(line for line in outcome.out.splitlines() if line.startswith("volumes"))
    assert float(volumes.split()[1]) == pytest.approx(14 * 48 * 48 * 5 / 2**20, abs=0.06)
    outcome = cryoet(*words(inputs, "--dry-run", "--memory", voxels, "--mode", "vpt"))
    assert "binned by 2" in outcome.err
    assert "note" not in cryoet(*words(inputs, "--dry-run")).err


def test_the_benchmark_writes_its_rows(cryoet: Callable, tmp_path: Path) -> None:
    arguments = ("--volume", "16", "--size", "32x24", "--views", 1, "--runs", 1, "--json", tmp_path / "b.json")
    outcome = cryoet("bench", "render", *arguments)
    assert outcome.status == 0, outcome.err
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["mode"] for row in rows] == ["cached", "reference", "dvr", "iso", "mip", "vpt"]
    assert {"mode", "scene", "size", "ms_per_frame", "bytes", "rmse_to_converged"} <= set(rows[0])
