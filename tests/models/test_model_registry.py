# SPDX-License-Identifier: MIT
"""Every registered network, by the same rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cryoet_engine import CryoETError
from cryoet_engine.models import SegmentationModel, UNet3D, create_model, model_names, register

NAMES = [name for name in model_names() if not name.startswith("test_")]

torch.set_num_threads(1)  # small tensors: threads would only wait for each other


@pytest.mark.parametrize("name", NAMES)
def test_shape_and_seed(name: str) -> None:
    model = create_model(name, preset="small", in_channels=2, out_channels=3)
    assert model.config.name == name
    assert {"full", "small"} <= set(model.presets)
    x = torch.rand(2, 2, *(2 * d for d in model.divisor))
    model.eval()
    with torch.inference_mode():
        y = model(x)
    assert y.shape == (2, 3, *x.shape[2:])
    torch.manual_seed(99)  # whatever the global generator did before
    again = create_model(name, preset="small", in_channels=2, out_channels=3).eval()
    other = create_model(name, preset="small", in_channels=2, out_channels=3, seed=1).eval()
    with torch.inference_mode():
        assert torch.equal(again(x), y)
        assert not torch.equal(other(x), y)


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
