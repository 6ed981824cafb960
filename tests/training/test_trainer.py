# SPDX-License-Identifier: MIT
"""Training: it learns, it is the same every time, and a stop changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryoet_engine import CryoETError, SoftSegmentation, Volume
from cryoet_engine.inference import segment
from cryoet_engine.models import SegmentationModel, create_model, load_model
from cryoet_engine.training import ConfusionMatrix, TrainingSettings, train
from cryoet_engine.training.settings import Augmentation
from cryoet_engine.training.trainer import TrainingDivergedError

torch.set_num_threads(1)  # small tensors: threads would only wait for each other

QUICK = TrainingSettings(patch=16, batch=1, patches_per_epoch=2, validation_patches=2, device="cpu")


def _spheres(seed: int, shape: tuple[int, int, int] = (24, 48, 48), n: int = 6) -> tuple[Volume, Volume]:
    """Dark balls of radius 6 in noise of two thirds of their contrast: labels 1 outside, 2 inside."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    labels = np.ones(shape, np.uint8)
    for _ in range(n):
        centre = [rng.integers(4, length - 4) for length in shape]
        labels[((grid - centre) ** 2).sum(-1) < 36] = 2
    voxels = 100 - 30.0 * (labels == 2) + rng.normal(0, 20, shape)
    return Volume(voxels.astype(np.float32), voxel_size_A=12.5, voxel_size_status="estimated"), Volume(labels)


PAIR = _spheres(0)
SOFT = SoftSegmentation(
    np.stack([PAIR[1].data == 1, PAIR[1].data == 2]).astype(np.float32),
    classes=("background", "balls"),
    colors=((0.1, 0.1, 0.1), (0.9, 0.2, 0.2)),
)


def _network(seed: int = 0, n: int = 2) -> SegmentationModel:
    return create_model("unet3d", preset="small", out_channels=n, seed=seed)


class Stop(Exception):
    """Raised from progress, as Ctrl-C would be."""


def _stop_after(step: int) -> Any:
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training" and done == step:
            raise Stop

    return progress


def test_learns_spheres_and_carries_over() -> None:
    """On another tomogram, of another grey scale; after 36 steps. Measured: 0.93."""
    model = _network()
    settings = dataclasses.replace(QUICK, batch=4, learning_rate=1e-2, patches_per_epoch=48)
    result = train(model, [PAIR], steps=36, settings=settings)
    assert result.model is model
    assert result.best_f1 > 0.8
    assert result.curve[-1]["loss"] < 0.6 * result.curve[0]["loss"]
    voxels, truth = _spheres(1)
    other = voxels.with_data(voxels.data * 0.5 - 900)
    found = segment(model, other, tile=48, overlap=16)
    matrix = ConfusionMatrix(2)
    matrix.update(truth.numpy().astype(int) - 1, found.data.argmax(0))
    assert matrix.mean_f1() > 0.8


def test_the_best_weights_are_kept() -> None:
    settings = dataclasses.replace(QUICK, learning_rate=0.02, schedule="constant", patches_per_epoch=1)
    model, seen = _network(), {}

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training":
            seen[done] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    result = train(model, [PAIR], steps=8, settings=settings, progress=progress)
    scores = [row["mean_f1"] for row in result.curve]
    assert result.best_f1 == max(scores)
    assert result.best_step == max(row["step"] for row in result.curve if row["mean_f1"] == max(scores))
    assert result.best_step < 8  # measured: 3; else this test would show nothing
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, seen[result.best_step][name])


def test_same_seed_same_result() -> None:
    a, b, c = (train(_network(), [PAIR], steps=3, settings=dataclasses.replace(QUICK, seed=seed)) for seed in (1, 1, 2))
    assert json.dumps(a.curve) == json.dumps(b.curve) != json.dumps(c.curve)
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_stop_changes_nothing(tmp_path: Path, stop: int) -> None:
    """Stopped at an epoch's end, in its midst, and after the second epoch's end."""
    whole = train(_network(), [PAIR], steps=6, settings=QUICK, out=tmp_path / "whole")
    out = tmp_path / "net"
    with pytest.raises(Stop):
        train(_network(), [PAIR], steps=6, settings=QUICK, out=out, progress=_stop_after(stop))
    assert not out.exists()
    assert [p.name for p in (tmp_path / "net.partial").iterdir()] == ["state.safetensors"]
    steps: list[int] = []
    rest = train(
        _network(), [PAIR], steps=6, settings=QUICK, out=out,
        progress=lambda stage, done, total, note="": steps.append(done) if stage == "training" else None,
    )  # fmt: skip
    assert steps[0] == stop // 2 * 2 + 1  # it went on, and did not begin anew
    assert json.dumps(rest.curve) == json.dumps(whole.curve)
    for name in ("model.safetensors", "model.json", "curve.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "whole"]
    assert sorted(p.name for p in out.iterdir()) == ["curve.jsonl", "model.json", "model.safetensors"]


def test_a_stop_before_the_first_epoch_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(_network(), [PAIR], steps=6, settings=QUICK, out=tmp_path / "a" / "net", progress=_stop_after(1))
    assert list(tmp_path.iterdir()) == []


def test_another_call_does_not_resume(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(_network(), [PAIR], steps=6, settings=QUICK, out=tmp_path / "net", progress=_stop_after(3))
    other = dataclasses.replace(QUICK, learning_rate=0.1, augmentation=Augmentation(noise=0.1))
    for arguments, what in (
        ({"settings": other}, "another learning_rate, augmentation"),
        ({"steps": 7}, "another steps"),
        ({"pairs": [_spheres(4)]}, "another data"),
        ({"model": _network(seed=5)}, "another first weights"),
    ):
        call: dict[str, Any] = {"model": _network(), "pairs": [PAIR], "steps": 6, "settings": QUICK} | arguments
        with pytest.raises(CryoETError, match=what):
            train(call.pop("model"), call.pop("pairs"), out=tmp_path / "net", **call)
    state = tmp_path / "net.partial" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(CryoETError, match="a readable state"):
        train(_network(), [PAIR], steps=6, settings=QUICK, out=tmp_path / "net")


def test_checkpoint_has_all_that_is_needed(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, normalisation="percentile", targets="soft", class_weights="inverse_sqrt")
    result = train(_network(), [(PAIR[0], SOFT)], steps=2, settings=settings, out=tmp_path / "net", names=["TS_1"])
    model, info = load_model(tmp_path / "net")
    assert info.classes == ("background", "balls")
    assert info.colors == SOFT.colors
    assert info.voxel_size_A == (12.5,) * 3
    assert info.voxel_size_status == "estimated"
    assert info.normalisation == "percentile"
    assert info.training_data == ("TS_1",)
    assert info.settings["steps"] == 2
    assert info.settings["augmentation"]["noise"] == settings.augmentation.noise
    assert info.metrics["f1"] == result.info.metrics["f1"]
    assert model.config.activation == "softmax"  # which cross-entropy implies
    lines = (tmp_path / "net" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [row["step"] for row in result.curve]
    from_folder = segment(tmp_path / "net", PAIR[0], tile=48, overlap=16, dtype="float32")
    from_memory = segment(result.model, PAIR[0], tile=48, overlap=16, dtype="float32")
    np.testing.assert_array_equal(from_folder.data, from_memory.data)
    assert from_folder.classes == ("background", "balls")


def test_an_older_network_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    out = tmp_path / "net"
    train(_network(), [PAIR], steps=1, settings=QUICK, out=out)
    train(_network(), [PAIR], steps=2, settings=QUICK, out=out)
    assert load_model(out)[1].settings["steps"] == 2
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    for place in (mine, mine / "thesis.tex"):
        with pytest.raises(CryoETError, match="something else"):
            train(_network(), [PAIR], steps=1, settings=QUICK, out=place)
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "b.partial" / "thesis.tex").write_text("x")
    with pytest.raises(CryoETError, match="an interrupted training"):
        train(_network(), [PAIR], steps=1, settings=QUICK, out=tmp_path / "b")
    assert (mine / "thesis.tex").read_text() == "x"


def test_divergence_says_where_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, patches_per_epoch=1)
    model = _network()

    def explode(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training" and done == 2:
            with torch.no_grad():
                list(model.parameters())[-1].fill_(math.inf)

    with pytest.raises(
        TrainingDivergedError, match=r"step 3 \(patches of pair 1 at .*last good state is in .*net.partial"
    ):
        train(model, [PAIR], steps=6, settings=settings, out=tmp_path / "net", progress=explode)
    assert (tmp_path / "net.partial" / "state.safetensors").is_file()
    assert not (tmp_path / "net").exists()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    rest = train(_network(), [PAIR], steps=6, settings=settings, out=tmp_path / "net")
    assert rest.curve[-1]["step"] == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "mse"},
        {"loss": "mse", "targets": "soft", "normalisation": "minmax"},
        {"targets": "soft", "class_weights": "inverse_sqrt", "schedule": "constant"},
        {"validation_share": 0.0},
        {"loss": "bce + 0.5*dice"},
        {"loss": "adaptive_wing", "targets": "soft"},
    ],
)
def test_choices_run(changes: dict[str, Any]) -> None:
    result = train(_network(), [PAIR, _spheres(2)], steps=2, settings=dataclasses.replace(QUICK, **changes))
    assert math.isfinite(result.curve[-1]["loss"])
    assert math.isnan(result.best_f1) == ("validation_share" in changes)
    assert result.best_step <= 2
    assert not result.model.training


def test_sparse_strokes_and_thin_volumes() -> None:
    labels = np.zeros((5, 20, 30), np.uint8)
    labels[2, 3:6, 4:9], labels[2, 12:15, 4:9] = 1, 2
    voxels = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    result = train(_network(), [(Volume(voxels), Volume(labels))], steps=2, settings=QUICK)
    assert math.isfinite(result.curve[-1]["loss"])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"names": ("a", "b")}, "names"),
        ({"model": torch.nn.Identity()}, "a network from create_model"),
        ({"model": create_model("unet3d", preset="small", in_channels=2, out_channels=2)}, "one input channel"),
        ({"model": create_model("unet3d", preset="small", out_channels=2, activation="normalised_relu")}, "mse"),
        ({"model": _network(n=3), "pairs": [(PAIR[0], SOFT)]}, "classes of the labels: expected 3"),
    ],
)  # fmt: skip
def test_refuses(arguments: dict[str, Any], what: str, tmp_path: Path) -> None:
    call: dict[str, Any] = {
        "model": _network(),
        "pairs": [PAIR],
        "settings": QUICK,
        "out": tmp_path / "net",
    } | arguments
    with pytest.raises(CryoETError, match=what):
        train(call.pop("model"), call.pop("pairs"), **call)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch": 0}, {"batch": 1.5}, {"loss": "hinge"}, {"targets": "medium"}, {"learning_rate": float("nan")},
        {"validation_share": 0.9}, {"seed": -1}, {"device": "tpu"}, {"normalisation": "none"}, {"augmentation": {}},
    ],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(CryoETError, match=f"TrainingSettings: {next(iter(wrong))}"):
        TrainingSettings(**wrong)


def test_schedules() -> None:
    cycle = [TrainingSettings().learning_rate_at(step, 100) for step in range(100)]
    assert max(cycle) == pytest.approx(1e-2)
    assert cycle.index(max(cycle)) in (9, 10)
    assert cycle[0] == pytest.approx(1e-3)
    assert cycle[-1] < 2e-4
    assert {TrainingSettings(schedule="constant").learning_rate_at(step, 10) for step in range(10)} == {1e-2}
    assert TrainingSettings().learning_rate_at(0, 1) == pytest.approx(1e-2)
