# SPDX-License-Identifier: MIT
"""What a training writes while it goes on, and the picture at its end."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cryoet_engine import CryoETError, Volume
from cryoet_engine.models import create_model
from cryoet_engine.training import TrainingSettings, train
from cryoet_engine.training.logs import draw_curves

RNG = np.random.default_rng(0)
LABELS = np.ones((16, 40, 40), np.uint8)
LABELS[:, 10:20, 14:24] = 2
PAIR = (Volume((LABELS * 2 + RNG.normal(size=LABELS.shape)).astype(np.float32)), Volume(LABELS))
SETTINGS = TrainingSettings(
    patch=8, batch=2, patches_per_epoch=4, validation_patches=2, device="cpu",
    loss="cross_entropy", class_weights="inverse_sqrt", learning_rate=1e-2, weight_average=0.0,  # learns at once
)  # fmt: skip


def _train(out: Path | None, progress: Any = None, **more: Any) -> Any:
    options = {"progress": progress} if progress else {}
    model = create_model("unet3d", preset="small", out_channels=2)
    return train(model, [PAIR], steps=6, settings=SETTINGS, out=out, **options, **more)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_a_line_is_there_as_soon_as_its_epoch_is_over(tmp_path: Path) -> None:
    seen = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        curve = tmp_path / "net.partial" / "curve.jsonl"
        seen.append(len(_rows(curve)) if curve.exists() else 0)

    result = _train(tmp_path / "net", progress)
    assert seen == [0, 0, 0, 1, 1, 2, 2, 3]  # two of reading, then six steps
    rows = _rows(tmp_path / "net" / "curve.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert sorted(rows[0]) == sorted(result.curve[0])
    assert rows[0]["f1"] == result.curve[0]["f1"]
    speed = _rows(tmp_path / "net" / "speed.jsonl")
    assert [row["step"] for row in speed] == [2, 4, 6]
    assert all(row["seconds"] > 0 and 0 <= row["waiting_share"] <= 1 for row in speed)
    for row in speed:  # of the steps alone, which are part of the epoch
        assert row["voxels_per_s"] * row["seconds"] >= 2 * 2 * 8**3


def test_scores_of_an_epoch_belong_together() -> None:
    row = _train(None).curve[-1]
    f1, iou = np.array(row["f1"]), np.array(row["iou"])
    np.testing.assert_allclose(iou, f1 / (2 - f1))
    assert row["mean_f1"] == pytest.approx(f1.mean())
    assert row["mean_iou"] == pytest.approx(iou.mean())
    assert min(f1) <= row["weighted_f1"] <= max(f1)
    assert row["weighted_f1"] != pytest.approx(row["mean_f1"])  # the background is larger
    assert 0 <= row["calibration_error"] <= 1


def test_lines_of_epochs_whose_state_is_lost_are_dropped(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training" and done == 4:
            raise Stop

    with pytest.raises(Stop):
        _train(tmp_path / "net", progress)
    for name in ("curve.jsonl", "speed.jsonl"):
        path = tmp_path / "net.partial" / name
        path.write_text(path.read_text() + '{"step": 6, "loss": 1}\n{"step": 8, "lo')  # killed while it wrote
    whole = _train(None).curve
    _train(tmp_path / "net")
    assert [row["loss"] for row in _rows(tmp_path / "net" / "curve.jsonl")] == [row["loss"] for row in whole]
    assert [row["step"] for row in _rows(tmp_path / "net" / "speed.jsonl")] == [2, 4, 6]


@pytest.mark.parametrize("inside", [True, False])
def test_tensorboard_has_what_the_curve_has(tmp_path: Path, inside: bool) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = _train(tmp_path / "net", tensorboard=True if inside else tmp_path / "events")
    folder = tmp_path / "net" / "tensorboard" if inside else tmp_path / "events"
    assert sorted(p.name for p in tmp_path.iterdir()) == (["net"] if inside else ["events", "net"])
    events = EventAccumulator(str(folder)).Reload()
    for tag, name in (
        ("loss/loss", "loss"),
        ("validation/mean_f1", "mean_f1"),
        ("schedule/learning_rate", "learning_rate"),
    ):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        expected = [(row["step"], row[name]) for row in result.curve]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert events.Scalars("f1/class 2")[-1].value == pytest.approx(result.curve[-1]["f1"][1], rel=1e-6)
    assert len(events.Scalars("speed/voxels_per_s")) == 3


def test_without_tensorboard_it_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if "tensorboard" in name:
            raise ImportError("No module named 'tensorboard'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(CryoETError, match=r'pip install "cryoet-engine\[tensorboard\]"'):
        _train(tmp_path / "net", tensorboard=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(CryoETError, match="tensorboard: expected a folder for its events, got no out"):
        _train(None, tensorboard=True)


def test_curves_are_drawn(tmp_path: Path) -> None:
    """White, but for lines where they belong; with one epoch, and where nothing was judged."""
    nan = math.nan
    rows = [
        {
            "step": step,
            "learning_rate": 1e-2,
            "loss": 1 / step,
            "validation_loss": nan,
            "f1": [nan, 0.5],
            "mean_f1": nan,
        }
        for step in range(1, 9)
    ]
    for curve in (rows, rows[:1]):
        draw_curves(tmp_path / "curves.png", curve, ("background", "membrane"))
        picture = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
        assert picture.shape == (432, 1440, 3)
        assert np.median(picture) == 255
        colour = np.ptp(picture, axis=2) > 80
        left, middle, right = (colour[:, third : third + 480].any() for third in (0, 480, 960))
        assert left
        assert middle
        assert not right  # the learning rate is grey
