# SPDX-License-Identifier: MIT
"""Losses against float64 arithmetic, voxel by voxel."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, get_args

import numpy as np
import pytest
import torch

from cryoet_engine import CryoETError
from cryoet_engine.models import Activation, SegmentationModel, create_model
from cryoet_engine.training.losses import (
    adaptive_wing,
    as_probabilities,
    loss,
    loss_names,
    output_activation,
    parse_loss,
    register,
)
from reference import losses as reference

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(2, 3, 4, 5, 6))
INDEX = RNG.integers(-1, 3, (2, 4, 5, 6))
SOFT = RNG.dirichlet([1, 1, 1], (2, 4, 5, 6)).transpose(0, 4, 1, 2, 3) * (INDEX >= 0)[:, None]
WEIGHTS = np.array([0.3, 0.7, 2.0])
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

#: Every loss with every activation that it takes.
SUITED = [
    ("cross_entropy", "softmax"), ("cross_entropy", "sigmoid"), ("bce", "sigmoid"),
    ("dice", "softmax"), ("dice", "sigmoid"), ("dice", "normalised_relu"),
    *(("mse", one) for one in ACTIVATIONS), *(("adaptive_wing", one) for one in ACTIVATIONS),
]  # fmt: skip


def _network(activation: Any = "none") -> SegmentationModel:
    return create_model("unet3d", preset="small", out_channels=3, activation=activation)  # type: ignore[return-value]


def _one_hot(index: np.ndarray) -> np.ndarray:
    return (index[:, None] == np.arange(3)[:, None, None, None]).astype(float)


def _activated(activation: str) -> np.ndarray:
    match activation:
        case "softmax":
            return reference.softmax(OUTPUTS)
        case "sigmoid":
            return reference.sigmoid(OUTPUTS)
        case "normalised_relu":
            return np.maximum(OUTPUTS, 0) / OUTPUTS.max()
    return OUTPUTS


@pytest.mark.parametrize(("kind", "activation"), SUITED)
def test_no_loss_waits_for_what_the_data_are(kind: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without data: where a shape hung on them, a card would have to tell, and the CPU to wait for it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which that device has not
    targets = torch.empty(INDEX.shape, dtype=torch.int64, device="meta"), torch.empty(SOFT.shape, device="meta")
    for target in targets:
        outputs, weights = torch.empty(OUTPUTS.shape, device="meta"), torch.empty(3, device="meta")
        assert loss(kind, _network(activation).to("meta"), outputs, target, weights).shape == ()


def test_the_cases_below_are_all_that_are_allowed() -> None:
    for name in loss_names():
        for activation in ACTIVATIONS:
            try:
                suited = output_activation(name, activation) == activation
            except CryoETError:
                suited = False
            assert ((name, activation) in SUITED) == suited


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("target", [INDEX, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize(("kind", "activation"), SUITED)
def test_against_the_oracle(kind: str, activation: str, target: Any, weights: Any) -> None:
    truth = target if target.ndim == 5 else _one_hot(target)
    what = "bce" if (kind, activation) == ("cross_entropy", "sigmoid") else kind
    expected = reference.loss(what, _activated(activation), truth, weights)
    given = torch.from_numpy(target if target.ndim == 4 else target.astype(np.float32))
    w = None if weights is None else torch.from_numpy(weights.astype(np.float32))
    got = loss(kind, _network(activation), torch.from_numpy(OUTPUTS), given, w)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected, rel=1e-5)  # float32; measured: at most 1.6e-7


@pytest.mark.parametrize("kind", loss_names())
def test_one_hot_soft_targets_are_hard_targets(kind: str) -> None:
    index, outputs = torch.from_numpy(INDEX), torch.from_numpy(OUTPUTS)
    hard, soft = (loss(kind, _network(), outputs, t, None) for t in (index, as_probabilities(index, 3)))
    assert hard.item() == pytest.approx(soft.item(), rel=1e-6)


@pytest.mark.parametrize(("kind", "activation"), [*SUITED, ("cross_entropy + 0.5*dice + mse", "softmax")])
def test_no_label_at_all_is_no_loss(kind: str, activation: str) -> None:
    for value in (0.0, 1e4):
        outputs = torch.full((1, 3, 2, 2, 2), value, requires_grad=True)
        for target in (torch.full((1, 2, 2, 2), -1), torch.zeros(1, 3, 2, 2, 2)):
            for weights in (None, torch.tensor([0.0, 1.0, 2.0])):
                outputs.grad = None
                got = loss(kind, _network(activation), outputs, target, weights)
                got.backward()  # type: ignore[no-untyped-call]
                assert got.item() == 0
                assert outputs.grad is not None
                assert not outputs.grad.any()  # type: ignore[unreachable]


@pytest.mark.parametrize("kind", loss_names())
def test_what_lies_under_no_label_changes_nothing(kind: str) -> None:
    changed = np.where((INDEX < 0)[:, None], 3 - OUTPUTS, OUTPUTS)
    for target in (torch.from_numpy(INDEX), torch.from_numpy(SOFT.astype(np.float32))):
        values = []
        for numbers in (OUTPUTS, changed):
            outputs = torch.tensor(numbers, dtype=torch.float32, requires_grad=True)
            value = loss(kind, _network(), outputs, target, None)
            value.backward()  # type: ignore[no-untyped-call]
            assert outputs.grad is not None
            assert not outputs.grad.movedim(1, -1)[torch.from_numpy(INDEX < 0)].any()
            values.append(value.item())
        assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("kind", loss_names())
def test_smallest_at_the_target_also_on_soft_targets(kind: str) -> None:
    """The gradient vanishes there, and each step away costs."""
    target = torch.from_numpy((SOFT + (SOFT.sum(1, keepdims=True) == 0) / 3).astype(np.float32))
    inverse = {"softmax": target.log(), "sigmoid": target.logit(), "none": target}[output_activation(kind, "none")]
    outputs = inverse.clone().requires_grad_()
    value = loss(kind, _network(), outputs, target, None)
    value.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    # Where elsewhere it is 1e-3; measured: at most 4e-10.
    assert outputs.grad.abs().max() < 1e-7
    for seed in range(5):
        moved = inverse + 0.1 * torch.randn(inverse.shape, generator=torch.Generator().manual_seed(seed))
        assert loss(kind, _network(), moved, target, None) > value


@pytest.mark.parametrize("y", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_adaptive_wing_is_smooth_at_theta(y: float) -> None:
    """Value and first derivative meet there."""
    target = torch.tensor(y, dtype=torch.float64)
    for sign in (-1, 1):
        at = []
        for side in (-1e-9, 1e-9):
            p = (target + sign * (0.5 + side)).requires_grad_()
            value = adaptive_wing(p, target)
            (slope,) = torch.autograd.grad(value, p)
            assert value.item() == pytest.approx(reference.wing(y, p.item()), rel=1e-12)
            at.append((value.item(), slope.item()))
        assert at[0] == pytest.approx(at[1], abs=1e-7)  # over 2e-9 at slopes up to 11; measured: 2.3e-8
        assert math.copysign(1, at[0][1]) == sign


def test_adaptive_wing_has_the_slope_of_its_values_and_no_nan() -> None:
    target = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = torch.linspace(-1.5, 2.5, 200, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: adaptive_wing(x, target), p)
    for value in (0.0, 1.0, -3e36, 3e36):
        x = torch.full((3,), value, requires_grad=True)
        y = adaptive_wing(x, torch.tensor([0.0, 0.5, 1.0]))
        y.sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("kind", [*loss_names(), "0.3*mse + cross_entropy"])
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_low_precision_outputs_are_computed_in_float32(kind: str, low: torch.dtype) -> None:
    """The loss of rounded outputs, inside autocast, is that of the same numbers in float32: no bit less."""
    rounded = (40 * torch.from_numpy(OUTPUTS)).to(low)
    target = torch.from_numpy(INDEX)
    plain = loss(kind, _network(), rounded.float(), target, None)
    with torch.autocast("cpu", dtype=low):
        outputs = rounded.clone().requires_grad_()
        got = loss(kind, _network(), outputs, target, None)
    got.backward()  # type: ignore[no-untyped-call]
    assert got.dtype == torch.float32
    assert got.item() == plain.item()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_sums() -> None:
    outputs, target = torch.from_numpy(OUTPUTS), torch.from_numpy(INDEX)
    model = _network("softmax")
    parts = {name: loss(name, model, outputs, target, None).item() for name in ("cross_entropy", "dice", "mse")}
    got = loss("cross_entropy + 0.5*dice+2 mse", model, outputs, target, None).item()
    assert got == pytest.approx(parts["cross_entropy"] + 0.5 * parts["dice"] + 2 * parts["mse"], rel=1e-6)
    assert parse_loss(" .25 * dice + bce ") == ((0.25, "dice"), (1.0, "bce"))


@pytest.mark.parametrize("text", ["", "hinge", "dice + dice", "0*dice", "-1*dice", "dice +", "dice bce", "1e400*mse"])
def test_refuses_losses_that_are_none(text: str) -> None:
    with pytest.raises(CryoETError, match="here: loss: expected"):
        parse_loss(text, "here")


@pytest.mark.parametrize(
    ("text", "activation", "expected"),
    [
        ("cross_entropy", "none", "softmax"), ("cross_entropy", "sigmoid", "sigmoid"), ("bce", "none", "sigmoid"),
        ("mse", "none", "none"), ("adaptive_wing", "normalised_relu", "normalised_relu"), ("dice", "none", "softmax"),
        ("dice + bce", "none", "sigmoid"), ("mse + cross_entropy", "none", "softmax"),
    ],
)  # fmt: skip
def test_a_loss_implies_an_activation(text: str, activation: Any, expected: str) -> None:
    assert output_activation(text, activation) == expected


@pytest.mark.parametrize(
    ("text", "activation", "says"),
    [
        ("bce", "softmax", "train: loss 'bce': expected a network with activation sigmoid, got softmax.*cross_entropy"),
        ("bce", "normalised_relu", "adaptive_wing, dice, mse"),
        ("cross_entropy", "normalised_relu", "softmax"),
        ("mse + bce", "softmax", "with activation sigmoid, got softmax"),
    ],
)  # fmt: skip
def test_refuses_what_does_not_go_together(text: str, activation: Any, says: str) -> None:
    with pytest.raises(CryoETError, match=says):
        output_activation(text, activation, "train")
    with pytest.raises(CryoETError, match="expected a network with"):
        loss(text, _network(activation), torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 2, 2, 2).long(), None)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(CryoETError, match="'dice'"):
        register("dice")(lambda case: case.outputs.sum())
