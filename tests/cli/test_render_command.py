# SPDX-License-Identifier: MIT
"""`cryoet render` and `cryoet bench` as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cryoet_engine import io

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
        (("-o", "a.gif", "--turntable", "1", "--memory", "1G"), "--memory"),
        (("-o", "a.png", "--source", "raw", "--light", "moon"), "light"),
        (("-o", "a.png", "--background", "1,2"), "background"),
        (("-o", "a.png", "--slices", "99,-,-"), "slices"),
        ((), "-o"),
    ],
)
def test_what_does_not_go_together_is_told(
    inputs: Path, cryoet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cryoet(*words(inputs, *options))
    assert outcome.status in (1, 2) and told in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_the_benchmark_writes_its_rows(cryoet: Callable, tmp_path: Path) -> None:
    arguments = ("--volume", "16", "--size", "32x24", "--views", 1, "--runs", 1, "--json", tmp_path / "b.json")
    outcome = cryoet("bench", "render", *arguments)
    assert outcome.status == 0, outcome.err
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["mode"] for row in rows] == ["cached", "reference", "dvr", "iso", "mip", "vpt"]
    assert {"mode", "scene", "size", "ms_per_frame", "bytes", "rmse_to_converged"} <= set(rows[0])
