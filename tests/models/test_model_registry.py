# SPDX-License-Identifier: MIT
"""Every registered network, by the same rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cryoet_engine import CryoETError, Volume
from cryoet_engine.inference import segment
from cryoet_engine.models import (
    ClassificationModel,
    ModelInfo,
    SegmentationModel,
    UNet3D,
    create_model,
    load_model,
    model_names,
    model_presets,
    register,
    save_model,
)
from cryoet_engine.training import ConfusionMatrix, TrainingSettings, train

NAMES = [name for name in model_names() if not name.startswith("test_")]
SEGMENTERS = [name for name in model_names("segmenter") if name in NAMES]
CLASSIFIERS = [name for name in model_names("classifier") if name in NAMES]

torch.set_num_threads(1)  # small tensors: threads would only wait for each other


def test_the_zoo_is_whole() -> None:
    assert CLASSIFIERS == ["cam3d"]
    assert set(SEGMENTERS) == {
        "densenet3d", "rsunet3d", "ssn3d_ed", "ssn3d_v1", "ssn3d_v2", "unet2d", "unet3d", "voxresnet",
    }  # fmt: skip
    for name in NAMES:
        assert {"full", "small"} <= set(model_presets(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["full", "small"])
def test_shape_and_seed(name: str, preset: str) -> None:
    def build(seed: int) -> Any:
        return create_model(name, preset=preset, in_channels=2, out_channels=3, seed=seed).eval()

    model = build(0)
    assert (model.config.name, model.config.preset) == (name, preset)
    assert model.source
    x = torch.rand(1, 2, *(d if preset == "full" else 2 * d for d in model.divisor))
    with torch.inference_mode():
        y = model(x)
        assert y.shape == (1, 3) if name in CLASSIFIERS else (1, 3, *x.shape[2:])
        torch.manual_seed(99)  # whatever the global generator did before
        assert preset == "full" or torch.equal(build(0)(x), y)
        assert preset == "full" or not torch.equal(build(1)(x), y)


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_receptive_radius_is_exact(name: str, axis: int) -> None:
    """NaN in a plane of the input makes NaN of the outputs that depend on it: up to the radius, and no further."""
    model = create_model(name, preset="small", out_channels=2).eval()
    radius, step = model.receptive_radius[axis], model.divisor[axis]
    shape = list(model.divisor)
    middle = -(-(radius + 1) // step) * step
    shape[axis] = 2 * middle + step
    reach = []
    for position in range(middle, middle + step):  # every place on the pooling grid
        x = torch.zeros(1, 1, *shape)
        x.select(axis + 2, position).fill_(torch.nan)
        with torch.inference_mode():
            touched = model(x).isnan().any(1)[0].movedim(axis, 0).flatten(1).any(1).nonzero()[:, 0] - position
        reach += [-int(touched.min()), int(touched.max())]
    assert max(reach) == radius


def _balls(seed: int, shape: tuple[int, int, int] = (24, 32, 32), n: int = 4) -> tuple[Volume, Volume]:
    """Dark balls of radius 9 in noise of half their contrast: labels 1 outside, 2 inside."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    labels = np.ones(shape, np.uint8)
    for _ in range(n):
        labels[((grid - [rng.integers(length) for length in shape]) ** 2).sum(-1) < 81] = 2
    voxels = 100 - 40.0 * (labels == 2) + rng.normal(0, 20, shape)
    return Volume(voxels.astype(np.float32)), Volume(labels)


PAIR, OTHER = _balls(0), _balls(1)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_every_segmenter_learns_and_segments(name: str) -> None:
    """Balls in noise, through `train` and `segment`.

    Measured: last loss over first at most 0.52 (unet3d); F1 on another tomogram at least 0.80 (ssn3d_v1, whose scores
    are blocks of 8 voxels), 0.89 (unet3d), 0.90 to 0.98 for the others.
    """
    model = create_model(name, preset="small", out_channels=2)
    # The three have no batch normalisation, and the first of them nothing but dropout between input and output.
    rate = 3e-3 if name.startswith("ssn3d") else 1e-2
    steps = 100 if name == "ssn3d_v1" else 20
    settings = TrainingSettings(
        patch=24, batch=2, learning_rate=rate, patches_per_epoch=steps // 2, validation_patches=2, device="cpu"
    )
    result = train(model, [PAIR], steps=steps, settings=settings)
    losses = [row["loss"] for row in result.curve]
    found = segment(model, OTHER[0], tile=24, overlap=8, dtype="float32", device="cpu")
    np.testing.assert_allclose(found.data.sum(0), 1, atol=1e-5)
    matrix = ConfusionMatrix(2)
    matrix.update(OTHER[1].numpy().astype(int) - 1, found.data.argmax(0))
    assert losses[-1] < 0.7 * losses[0]
    assert matrix.mean_f1() > 0.7  # one class everywhere: 0.41


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_learns_and_classifies(name: str) -> None:
    """A ball or none, in noise: few steps of Adam, then volumes of another size."""

    def volumes(seed: int, n: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(seed)
        classes = np.arange(n) % 2
        grid = np.stack(np.meshgrid(*3 * [np.arange(length) - (length - 1) / 2], indexing="ij"), -1)
        ball = (grid**2).sum(-1) < 25
        voxels = 2.0 * ball * classes[:, None, None, None] + rng.normal(size=(n, length, length, length))
        return torch.tensor(voxels[:, None], dtype=torch.float32), torch.tensor(classes)

    model = create_model(name, preset="small", out_channels=2, activation="softmax").train()
    assert isinstance(model, ClassificationModel)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    torch.manual_seed(0)  # of dropout
    losses = []
    for step in range(45):
        x, classes = volumes(step, 8, 16)
        value = F.cross_entropy(model(x), classes)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])  # measured: 0.13
    model.eval()
    x, classes = volumes(100, 16, 24)
    with torch.inference_mode():
        features = model.features(x)
        assert features.shape[2:] == (6, 6, 6)
        torch.testing.assert_close(model.classify(features), model(x))
        probabilities = model.probabilities(x)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(16))
    assert (probabilities.argmax(1) == classes).float().mean() >= 0.9  # measured: 1


def test_a_classifier_is_refused_where_voxels_are_wanted(tmp_path: Path) -> None:
    model = create_model("cam3d", preset="small", out_channels=2)
    save_model(model, tmp_path, ModelInfo(classes=("a", "b"), colors=((0, 0, 0), (1, 1, 1)), voxel_size_A=(10, 10, 10)))
    assert isinstance(load_model(tmp_path)[0], ClassificationModel)
    with pytest.raises(CryoETError, match="train: model: expected a network that segments, got cam3d, a classifier"):
        train(model, [PAIR])
    for given in (model, tmp_path):
        with pytest.raises(CryoETError, match="segment: model: expected a network that segments, got cam3d"):
            segment(given, PAIR[0])


def test_dropout_does_not_depend_on_what_ran_before() -> None:
    """Each step has its own random stream, so that a stopped training resumes to the same weights."""
    settings = TrainingSettings(patch=16, batch=1, patches_per_epoch=2, validation_patches=1, device="cpu")
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = create_model("ssn3d_v1", preset="small", out_channels=2)
        losses.append([row["loss"] for row in train(model, [PAIR], steps=4, settings=settings).curve])
    assert losses[0] == losses[1]


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    create_model("unet3d", preset="small")
    assert torch.equal(torch.rand(3), expected)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(CryoETError, match="expected one that is free, got 'unet3d'"):
        register("unet3d")(UNet3D)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"name": "unet4d"}, "name: expected one of .*unet3d"),
        ({"name": "unet3d", "preset": "huge"}, "preset: expected one of full, small"),
        ({"name": "unet3d", "in_channels": 0}, "in_channels"),
        ({"name": "unet3d", "out_channels": 2.0}, "out_channels"),
        ({"name": "unet3d", "out_channels": True}, "out_channels"),
        ({"name": "unet3d", "activation": "tanh"}, "activation: expected none, sigmoid"),
        ({"name": "unet3d", "preset": 3}, "preset"),
    ],
)
def test_refuses(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(CryoETError, match=what):
        create_model(**arguments)


def _activated(activation: Any, outputs: torch.Tensor, *, training: bool = False) -> torch.Tensor:
    model: SegmentationModel = create_model("unet3d", preset="small", out_channels=2, activation=activation)
    return model.train(training).activate(outputs)


def test_activations() -> None:
    outputs = torch.tensor([[-2.0, 1.0], [3.0, 1.0]])[None, :, :, None, None]  # (1, 2, 2, 1, 1)
    assert torch.equal(_activated("none", outputs), outputs)
    torch.testing.assert_close(_activated("sigmoid", outputs), 1 / (1 + torch.exp(-outputs)))
    soft = _activated("softmax", outputs)
    torch.testing.assert_close(soft.sum(1), torch.ones(1, 2, 1, 1))
    assert soft[0, 1, 0] > 0.99
    assert soft[0, 1, 1] == 0.5
    relu = _activated("normalised_relu", outputs, training=True)
    torch.testing.assert_close(relu, outputs.relu() / 3)


def test_normalised_relu_uses_the_largest_output_of_training_not_of_the_tile() -> None:
    model = create_model("unet3d", preset="small", out_channels=1, activation="normalised_relu")
    model.train().activate(torch.tensor([4.0])[None])
    model.eval()
    assert model.activate(torch.tensor([0.02])[None]).item() == pytest.approx(0.005)  # an empty tile stays empty
    assert "largest_output" in model.state_dict()


def test_normalised_relu_has_gradients_where_nothing_is_above_zero() -> None:
    model = create_model("unet3d", preset="small", out_channels=1, activation="normalised_relu").train()
    for values in ([-3.0, -1.0], [0.0, 0.0], [-1.0, 2.0]):
        outputs = torch.tensor(values)[None].requires_grad_()
        activated = model.activate(outputs)
        activated.sum().backward()
        assert outputs.grad is not None
        assert activated.isfinite().all()
        assert outputs.grad.isfinite().all()
    assert outputs.grad.tolist() == [[0.0, 0.5]]
