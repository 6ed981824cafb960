# SPDX-License-Identifier: MIT
"""Training: it learns, it is the same every time, and a stop changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryoet_engine import CryoETError, SoftSegmentation, Volume
from cryoet_engine.inference import segment
from cryoet_engine.models import SegmentationModel, create_model, load_model, transfer
from cryoet_engine.models.checkpoint import weights_digest
from cryoet_engine.training import ConfusionMatrix, TrainingDivergedError, TrainingSettings, stepper, train, trainer
from cryoet_engine.training.settings import Augmentation
from cryoet_engine.training.validation import validate

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


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the epochs of a training have these mean F1."""

    def script(*scores: float) -> None:
        left = iter(scores)
        monkeypatch.setattr(trainer, "validate", lambda *a, **k: validate(*a, **k) | {"mean_f1": next(left)})

    return script


def _weights_by_step(model: SegmentationModel, seen: dict[int, dict[str, torch.Tensor]]) -> Any:
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training":
            seen[done] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    return progress


EACH = dataclasses.replace(QUICK, patches_per_epoch=1)  # an epoch a step


def test_the_best_and_the_last_weights_are_kept(tmp_path: Path, scored: Callable[..., None]) -> None:
    """Another training can begin from either; its record tells from which."""
    scored(0.2, 0.6, 0.5, 0.6, 0.4)
    model, seen = _network(), {}
    progress = _weights_by_step(model, seen)
    settings = dataclasses.replace(EACH, weight_average=0.0)
    result = train(model, [PAIR], steps=5, settings=settings, out=tmp_path / "net", progress=progress)
    losses = {row["step"]: row["validation_loss"] for row in result.curve}
    better = min((2, 4), key=losses.__getitem__)  # of equal scores the lower loss wins
    assert (result.best_f1, result.best_step) == (0.6, better)
    last, info = load_model(tmp_path / "net" / "last")
    assert info.metrics["step"] == 5
    for found, step in ((model, better), (load_model(tmp_path / "net")[0], better), (last, 5)):
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, seen[step][name])


def test_the_running_mean_of_weights_is_kept() -> None:
    """A step counts 9/10, 9/11, ... and at least 0.8; running statistics are part of it."""
    model, seen = _network(), {}
    seen[0] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = dataclasses.replace(EACH, weight_average=0.2, validation_share=0.0)
    train(model, [PAIR], steps=4, settings=settings, progress=_weights_by_step(model, seen))
    for name, tensor in model.state_dict().items():
        mean = seen[0][name].double()
        for step in range(1, 5):
            mean = (
                seen[step][name].double()
                if mean.ndim == 0
                else mean.lerp(seen[step][name].double(), max(0.8, 9 / (9 + step)))
            )
        torch.testing.assert_close(tensor.double(), mean, atol=1e-6, rtol=1e-5)
        if name.endswith("weight"):
            assert not torch.equal(tensor, seen[4][name])


def test_the_record_says_where_a_training_began(tmp_path: Path) -> None:
    train(_network(), [PAIR], steps=1, settings=EACH, out=tmp_path / "net")
    further = transfer(tmp_path / "net" / "last")
    result = train(further, [PAIR], steps=1, settings=EACH)
    record = json.loads((tmp_path / "net" / "last" / "model.json").read_text())
    assert result.info.initialised_from == {
        "name": "last", "weights_sha256": record["weights_sha256"], "normalisation": "zscore",
    }  # fmt: skip
    before = weights_digest(further)
    again = train(further, [PAIR], steps=1, settings=dataclasses.replace(EACH, normalisation="minmax"))
    assert again.info.initialised_from["weights_sha256"] == before
    assert again.notes == ("voxels are normalised by minmax; the first weights knew zscore",)


def test_patience(tmp_path: Path, scored: Callable[..., None]) -> None:
    settings = dataclasses.replace(EACH, patience=2)
    scored(0.2, 0.4, 0.3, 0.5, 0.4, 0.1)
    result = train(_network(), [PAIR], steps=9, settings=settings, out=tmp_path / "whole")
    assert result.best_step == 4
    assert [row["step"] for row in result.curve] == [1, 2, 3, 4, 5, 6]
    assert result.notes == ("stopped after step 6 of 9: 2 epochs were no better than that of step 4",)
    scored(0.2, 0.4, 0.3, 0.5, 0.4, 0.1)
    with pytest.raises(Stop):  # at the very end, when nothing is left to be done but to write
        train(_network(), [PAIR], steps=9, settings=settings, out=tmp_path / "net", progress=_stop_after(6))
    again = train(_network(), [PAIR], steps=9, settings=settings, out=tmp_path / "net")
    assert json.dumps(again.curve) == json.dumps(result.curve)
    assert again.notes == result.notes


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
    partial = sorted(p.name for p in (tmp_path / "net.partial").iterdir())
    assert partial == ["curve.jsonl", "speed.jsonl", "state.safetensors"]
    steps: list[int] = []
    rest = train(
        _network(), [PAIR], steps=6, settings=QUICK, out=out,
        progress=lambda stage, done, total, note="": steps.append(done) if stage == "training" else None,
    )  # fmt: skip
    assert steps[0] == stop // 2 * 2 + 1  # it went on, and did not begin anew
    assert json.dumps(rest.curve) == json.dumps(whole.curve)
    for name in ("model.safetensors", "model.json", "last/model.safetensors", "last/model.json", "curve.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "whole"]
    assert {p.name for p in out.iterdir()} == {
        *("curve.jsonl", "curves.png", "speed.jsonl", "last", "model.json", "model.safetensors")
    }


def test_a_stop_before_the_first_epoch_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(_network(), [PAIR], steps=6, settings=QUICK, out=tmp_path / "a" / "net", progress=_stop_after(1))
    assert list(tmp_path.iterdir()) == []


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    refused: list[str] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training" and done != 2:  # before the first epoch's end, and after it
            with pytest.raises(CryoETError) as caught:
                train(_network(), [PAIR], steps=4, settings=QUICK, out=tmp_path / "net")
            refused.append(str(caught.value))

    train(_network(), [PAIR], steps=4, settings=QUICK, out=tmp_path / "net", progress=progress)
    assert len(refused) == 3
    assert all("another run that is writing there" in text for text in refused)
    train(_network(), [PAIR], steps=4, settings=QUICK, out=tmp_path / "net")  # it has let go of it


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
    assert info.data_fingerprint[0]["shape"] == [24, 48, 48]
    assert info.data_fingerprint[0]["voxels"] == [np.count_nonzero(PAIR[1].data == k) for k in (1, 2)]
    assert sorted(info.data_fingerprint[0]) == ["offset", "scale", "shape", "voxels"]
    assert info.initialised_from == {}
    assert info.settings["steps"] == 2
    assert info.settings["augmentation"]["noise"] == settings.augmentation.noise
    assert info.metrics == result.info.metrics
    row = next(row for row in result.curve if row["step"] == result.best_step)
    assert info.metrics["f1"] == tuple(row["f1"])
    assert info.metrics["loss"] == row["validation_loss"]
    for name in ("mean_f1", "weighted_f1", "mean_iou", "accuracy", "calibration_error"):
        assert 0 <= info.metrics[name] <= 1, name
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


def test_threads_that_read_change_nothing() -> None:
    results = [
        train(_network(), [PAIR], steps=4, settings=dataclasses.replace(QUICK, loader_threads=n)) for n in (0, 1, 3)
    ]
    digests = {weights_digest(result.model) for result in results}
    assert len(digests) == len({json.dumps(result.curve) for result in results}) == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision(precision: Any, tmp_path: Path) -> None:
    """Half the bits, nearly the same losses, other weights; a stop changes nothing either."""
    quick = dataclasses.replace(QUICK, patch=8, batch=2, patches_per_epoch=4)
    settings = dataclasses.replace(quick, precision=precision)
    exact = train(_network(), [PAIR], steps=4, settings=quick)
    whole = train(_network(), [PAIR], steps=4, settings=settings, out=tmp_path / "whole")
    losses = [[row["loss"] for row in result.curve] for result in (exact, whole)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.05)  # measured: 0.006 (bfloat16), 0.0022 (float16)
    with pytest.raises(Stop):
        train(_network(), [PAIR], steps=4, settings=settings, out=tmp_path / "net", progress=_stop_after(3))
    train(_network(), [PAIR], steps=4, settings=settings, out=tmp_path / "net")
    for name in ("model.safetensors", "curve.jsonl"):
        assert (tmp_path / "net" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_float16_leaves_out_steps_that_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale of the loss is halved, and weights stay, until gradients are numbers again; else it ends."""
    settings = dataclasses.replace(QUICK, patch=8, batch=2, precision="float16", patches_per_epoch=80)
    scales: list[float] = []
    real = torch.amp.GradScaler.update

    def update(self: torch.amp.GradScaler) -> None:
        real(self)
        scales.append(self.get_scale())

    monkeypatch.setattr(torch.amp.GradScaler, "update", update)
    first = {name: tensor.clone() for name, tensor in _network().named_parameters()}
    model = _network()
    handle = model.get_parameter("out.weight").register_hook(lambda g: g * torch.inf if len(scales) < 3 else g)

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training":
            same = all(torch.equal(first[name], tensor) for name, tensor in model.named_parameters())
            assert same == (done <= 3)

    result = train(model, [PAIR], steps=5, settings=settings, progress=progress)
    assert scales == [2.0**15, 2.0**14, 2.0**13, 2.0**13, 2.0**13]
    assert math.isfinite(result.curve[-1]["loss"])
    handle.remove()
    model = _network()
    model.get_parameter("out.weight").register_hook(lambda g: g * torch.inf)
    monkeypatch.setattr(stepper, "_SMALLEST_SCALE", 2.0**14)
    with pytest.raises(TrainingDivergedError, match=r"gradients at step 3: .*any scale"):
        train(model, [PAIR], steps=9, settings=settings)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_makes_smaller_parts(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same training but for rounding, where there is no batch normalisation."""

    def network() -> SegmentationModel:
        return create_model("ssn3d_ed", preset="small", out_channels=2)

    settings = dataclasses.replace(QUICK, batch=4, loss="cross_entropy", learning_rate=1e-3, patches_per_epoch=4)
    whole = train(network(), [PAIR], steps=3, settings=settings)
    room, sizes, forward = 2, [], type(network()).forward

    def limited(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            sizes.append(len(x))
            if len(x) > room:
                raise error
        return forward(self, x)

    monkeypatch.setattr(type(network()), "forward", limited)
    parts = train(network(), [PAIR], steps=3, settings=settings)
    assert sizes == [4, *[2, 2] * 3]
    assert parts.notes == ("memory did not hold a batch of 4: it was computed in 2 parts",)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)  # measured: 2e-6; three steps of 1e-3
    sizes.clear()
    with pytest.raises(Stop):  # how many parts there are is kept
        train(network(), [PAIR], steps=3, settings=settings, out=tmp_path / "net", progress=_stop_after(2))
    train(network(), [PAIR], steps=3, settings=settings, out=tmp_path / "net")
    assert sizes == [4, *[2, 2] * 3]
    room = 0
    with pytest.raises(CryoETError, match=r"memory: expected room for 1 patches of 16x16x16 voxels, got none left"):
        train(network(), [PAIR], steps=3, settings=settings)


def test_accumulated_batches_make_one_step() -> None:
    """Batches 0 and 1, then 2 and 3: with a rate of zero steps leave no trace, so losses are means of pairs."""
    settings = dataclasses.replace(QUICK, learning_rate=1e-12, weight_decay=0.0, patches_per_epoch=1)
    each = [row["loss"] for row in train(_network(), [PAIR], steps=4, settings=settings).curve]
    two = train(_network(), [PAIR], steps=2, settings=dataclasses.replace(settings, accumulate=2)).curve
    expected = [(each[0] + each[1]) / 2, (each[2] + each[3]) / 2]
    np.testing.assert_allclose([row["loss"] for row in two], expected, rtol=1e-6)


def test_sparse_strokes_and_thin_volumes() -> None:
    labels = np.zeros((5, 20, 30), np.uint8)
    labels[2, 3:6, 4:9], labels[2, 12:15, 4:9] = 1, 2
    voxels = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    result = train(_network(), [(Volume(voxels), Volume(labels))], steps=2, settings=QUICK)
    assert math.isfinite(result.curve[-1]["loss"])


@pytest.mark.parametrize("shape", [(8, 8, 8), (12, 12, 12)])
def test_a_volume_of_one_value_at_the_network_s_bottom(shape: tuple[int, int, int]) -> None:
    """Refused where batch normalisation is asked for its deviation; without, or two a batch, it trains."""
    rng = np.random.default_rng(0)
    pair = Volume(rng.normal(size=shape).astype(np.float32)), Volume(rng.integers(1, 3, shape).astype(np.uint8))
    with pytest.raises(CryoETError, match=r"patch: expected more than one value .* got one patch of 8x8x8 voxels"):
        train(_network(), [pair], steps=1, settings=QUICK)
    train(_network(), [pair], steps=1, settings=dataclasses.replace(QUICK, batch=2))
    train(create_model("ssn3d_ed", preset="small", out_channels=2), [pair], steps=1, settings=QUICK)


def test_a_class_that_is_nowhere_has_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    real = stepper.loss

    def watched(*words: Any) -> torch.Tensor:
        seen.append(words[-1].tolist())
        return real(*words)

    monkeypatch.setattr(stepper, "loss", watched)
    settings = dataclasses.replace(QUICK, class_weights="inverse_sqrt")
    train(_network(n=3), [PAIR], steps=1, settings=settings)
    shares = np.bincount(PAIR[1].data.ravel())[1:] / PAIR[1].data.size
    expected = 1 / np.sqrt(shares)
    np.testing.assert_allclose(seen, [[*(expected / expected.mean()), 0]], rtol=1e-6)


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
        {"patience": 2, "validation_share": 0.0}, {"patience": -1}, {"precision": "float8"}, {"accumulate": 0},
        {"loader_threads": -1}, {"schedule": "plateau"}, {"validation_share": 0.9}, {"seed": -1}, {"device": "tpu"},
        {"normalisation": "none"}, {"augmentation": {}},
    ],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(CryoETError, match=f"TrainingSettings: {next(iter(wrong))}"):
        TrainingSettings(**wrong)


def test_schedules() -> None:
    cycle = [TrainingSettings().learning_rate_at(step, 100) for step in range(100)]
    assert max(cycle) == pytest.approx(5e-3)
    assert cycle.index(max(cycle)) in (9, 10)
    assert cycle[0] == pytest.approx(5e-4)
    assert cycle[-1] < 1e-4
    assert {TrainingSettings(schedule="constant").learning_rate_at(step, 10) for step in range(10)} == {5e-3}
    assert TrainingSettings().learning_rate_at(0, 1) == pytest.approx(5e-3)
    cosine = [TrainingSettings(schedule="cosine").learning_rate_at(step, 100) for step in range(101)]
    assert cosine[0] == 5e-3
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[50] == pytest.approx(0.2525e-2)
    assert cosine[100] == pytest.approx(5e-5)
