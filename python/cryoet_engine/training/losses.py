# SPDX-License-Identifier: MIT
"""What a network is asked to make small, on hard and on soft targets; voxels without a label do not count.

A loss is named by a sum of terms: "cross_entropy", "mse", "cross_entropy + 0.5*dice". Each term is one function under
`@register(name, activations)`, which also says for which output activations of a network it is meant; the one place
where that is checked is `output_activation`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import input_error
from ..models.network import Activation, SegmentationModel

#: The adaptive wing loss's constants, as its paper has them (Wang et al. 2019).
ALPHA, OMEGA, EPSILON, THETA = 2.1, 14.0, 1.0, 0.5

_ANY: tuple[Activation, ...] = get_args(Activation)
_TERM = re.compile(r"(?:(\d+\.?\d*|\.\d+)\s*\*?\s*)?([a-z_][a-z0-9_]*)")


class Case:
    """What every term is computed from, in float32 whatever the network ran in.

    activation: the network's, or what the loss implies where the network has none.
    outputs: raw, (batch, class, z, y, x). hard: class indices (batch, z, y, x), below 0 unlabelled, or None where
    targets are soft. weights: one a class, or None. The rest is made only for terms that ask: hard cross-entropy, the
    default, does not.
    """

    def __init__(
        self, model: SegmentationModel, activation: Activation, outputs: Tensor, target: Tensor, weights: Tensor | None
    ) -> None:
        self.model, self.activation, self.outputs, self.weights = model, activation, outputs.float(), weights
        self.hard = None if target.is_floating_point() else target
        self._target = target

    @cached_property
    def target(self) -> Tensor:
        """Probabilities (batch, class, z, y, x), all zero where there is no label."""
        return as_probabilities(self._target, self.outputs.shape[1]).float()

    @cached_property
    def weighted(self) -> Tensor:
        """The target times class weights."""
        return self.target if self.weights is None else self.target * self.weights[:, None, None, None]

    @cached_property
    def labelled(self) -> Tensor:
        """How much a voxel counts, (batch, z, y, x): 0 without a label, else the mean class weight of its target."""
        return self.weighted.sum(1)

    @cached_property
    def activated(self) -> Tensor:
        """Outputs after the activation; once for all terms, as normalised ReLU learns from what it sees."""
        if self.activation != self.model.config.activation:
            return self.outputs.softmax(1) if self.activation == "softmax" else self.outputs.sigmoid()
        return self.model.activate(self.outputs)

    def mean(self, each: Tensor) -> Tensor:
        """Mean over classes and, by `labelled`, over voxels, of values (batch, class, z, y, x). Zero if none is."""
        return (each.mean(1) * self.labelled).sum() / self.labelled.sum().clamp_min(1e-6)


@dataclass(frozen=True, kw_only=True)
class Term:
    """compute: the mean loss of a case. activations: those of a network that it can train."""

    compute: Callable[[Case], Tensor]
    activations: tuple[Activation, ...]


_TERMS: dict[str, Term] = {}


def register(
    name: str, activations: Sequence[Activation] = _ANY
) -> Callable[[Callable[[Case], Tensor]], Callable[[Case], Tensor]]:
    """Decorator that makes a loss known by name. A name can be taken only once.

    activations: of the networks that it can train. Without "none" it takes "none" for the first of softmax, sigmoid.
    """

    def add(compute: Callable[[Case], Tensor]) -> Callable[[Case], Tensor]:
        if name in _TERMS or not _TERM.fullmatch(name):
            raise input_error("register", "name", expected="a word in lower case that is free", got=repr(name))
        _TERMS[name] = Term(compute=compute, activations=tuple(activations))
        return compute

    return add


def loss_names() -> tuple[str, ...]:
    """The names of all terms, sorted."""
    return tuple(sorted(_TERMS))


def parse_loss(text: str, where: str = "loss") -> tuple[tuple[float, str], ...]:
    """The terms of "cross_entropy + 0.5*dice" as (factor, name).

    Errors: InputError for a name that is unknown or there twice, or a factor that is not above 0.
    """
    names = ", ".join(loss_names())
    terms: list[tuple[float, str]] = []
    for part in text.split("+") if isinstance(text, str) else [""]:
        found = _TERM.fullmatch(part.strip())
        factor = float(found[1] or 1) if found else 0.0
        if found is None or found[2] not in _TERMS or not 0 < factor < math.inf:
            expected = f"one of {names}, or a sum such as cross_entropy + 0.5*dice"
            raise input_error(where, "loss", expected=expected, got=repr(text))
        if found[2] in (name for _, name in terms):
            raise input_error(where, "loss", expected="each term once", got=repr(text))
        terms.append((factor, found[2]))
    return tuple(terms)


def output_activation(text: str, activation: Activation, where: str = "loss") -> Activation:
    """The activation of a network that has `activation` and is trained with a loss: the one, or what is implied.

    =================== ====================================== =======================================
    loss                takes                                  activation of the network
    =================== ====================================== =======================================
    cross_entropy       raw outputs, as logits                 softmax; sigmoid: binary, of each class
    bce                 raw outputs, as logits                 sigmoid
    mse, adaptive_wing  outputs after the activation           any
    dice                outputs after the activation           softmax, sigmoid, normalised_relu
    =================== ====================================== =======================================

    A network with "none" gets the first of none, softmax, sigmoid that every term of the loss can train.

    Errors: InputError where a term of the loss cannot train such a network, or terms exclude each other.
    """
    terms = [name for _, name in parse_loss(text, where)]
    allowed = [one for one in _ANY if all(one in _TERMS[name].activations for name in terms)]
    wanted: tuple[Activation, ...] = ("none", "softmax", "sigmoid") if activation == "none" else (activation,)
    for one in wanted:
        if one in allowed:
            return one
    others = [name for name in loss_names() if activation in _TERMS[name].activations]
    raise input_error(
        where,
        f"loss {text!r}",
        expected=f"a network with activation {' or '.join(allowed) or '(no activation suits all its terms)'}",
        got=activation,
        fix=f"create the model with that, or choose a loss that takes {activation}: {', '.join(others)}",
    )


def as_probabilities(target: Tensor, n_classes: int) -> Tensor:
    """Class indices (batch, z, y, x), below 0 unlabelled, as (batch, class, z, y, x); soft targets as they are."""
    if target.is_floating_point():
        return target
    classes = torch.arange(n_classes, device=target.device)[:, None, None, None]
    return (target[:, None] == classes).float()


def loss(kind: str, model: SegmentationModel, outputs: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Mean loss over labelled voxels, float32, a scalar; zero, with zero gradient, where none is labelled.

    kind: a sum of terms, see `parse_loss`, that suits the network, see `output_activation`.
    outputs: raw, (batch, class, z, y, x), of any float type: all is computed in float32, under autocast too.
    target: indices (below 0 unlabelled) or probabilities (all zero: unlabelled), see `LabelledTomogram.read`.
    weights: one a class, or None.

    Errors: those of `parse_loss` and `output_activation`.
    """
    activation = output_activation(kind, model.config.activation)
    with torch.autocast(outputs.device.type, enabled=False):
        case = Case(model, activation, outputs, target, None if weights is None else weights.float())
        parts = [factor * _TERMS[name].compute(case) for factor, name in parse_loss(kind)]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


@register("cross_entropy", ("softmax", "sigmoid"))
def _cross_entropy(case: Case) -> Tensor:
    """-sum t log softmax(outputs); binary, of each class, for a network whose classes do not exclude each other."""
    if case.activation == "sigmoid":
        return _bce(case)
    if case.hard is None:
        return -(case.weighted * case.outputs.log_softmax(1)).sum() / case.labelled.sum().clamp_min(1e-6)
    index = case.hard.long().clamp_min(-1)
    total = F.cross_entropy(case.outputs, index, case.weights, ignore_index=-1, reduction="sum")
    known = index >= 0
    # Not weights[index[known]]: the card would have to tell how many those are, and the CPU to wait for it.
    count = known.sum() if case.weights is None else (case.weights[index.clamp_min(0)] * known).sum()
    return total / count.clamp_min(1e-6)


@register("bce", ("sigmoid",))
def _bce(case: Case) -> Tensor:
    """Binary cross-entropy of each class (paper 1, table 1), from logits: no logarithm of a rounded zero."""
    return case.mean(F.binary_cross_entropy_with_logits(case.outputs, case.target, reduction="none"))


@register("mse")
def _mse(case: Case) -> Tensor:
    """Squared difference (paper 1, table 2)."""
    return case.mean((case.activated - case.target).square())


@register("adaptive_wing")
def _adaptive_wing(case: Case) -> Tensor:
    """See `adaptive_wing`; without the map of weights around edges that its paper adds for heat maps of faces."""
    return case.mean(adaptive_wing(case.activated, case.target))


@register("dice", ("softmax", "sigmoid", "normalised_relu"))
def _dice(case: Case) -> Tensor:
    """1 - D, the mean over classes of D = (2 sum p t + 1) / (sum p^2 + sum t^2 + 1) over a batch's labelled voxels.

    Milletari et al. 2016 (V-Net), section 3. With squares in the denominator 1 - D is
    sum (p - t)^2 / (sum p^2 + sum t^2): smallest at p = t on soft targets, too, where sums of p and t would ask for
    the hard mask. The one voxel that is added makes a class that is nowhere and not found perfect, not 0 / 0.
    """
    known = (case.target.sum(1) > 0)[:, None]
    p, t = case.activated * known, case.target
    axes = (0, 2, 3, 4)
    lost = (p - t).square().sum(axes) / (p.square().sum(axes) + t.square().sum(axes) + 1)
    if case.weights is None:
        return lost.mean()
    return (lost * case.weights).sum() / case.weights.sum().clamp_min(1e-6)


def adaptive_wing(prediction: Tensor, target: Tensor) -> Tensor:
    """Adaptive wing loss of each element (Wang, Bo and Fuxin 2019), of the arguments' float type.

    With d = |target - prediction| and the exponent e = alpha - target it is omega ln(1 + (d / epsilon)^e) below theta
    and A d - C from there on. A and C make value and slope meet at theta. (The code that the authors of paper 1
    published divides by omega where this has epsilon, so that its loss jumps there.)

    target: 0..1. Its slope at d = 0 is 0.
    """
    exponent = ALPHA - target
    ratio = THETA / EPSILON
    at_theta = ratio**exponent
    slope = OMEGA / (1 + at_theta) * exponent * ratio ** (exponent - 1) / EPSILON
    offset = THETA * slope - OMEGA * torch.log1p(at_theta)
    distance = (target - prediction).abs()
    # Held at theta: a power of a large distance would overflow, and `where` would make NaN of its gradient.
    near = OMEGA * torch.log1p((distance.clamp_max(THETA) / EPSILON) ** exponent)
    return torch.where(distance < THETA, near, slope * distance - offset)
