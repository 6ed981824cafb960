# SPDX-License-Identifier: MIT
"""All that decides a training, in one frozen, checked, storable object."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from .._checks import input_error
from ..models.normalisation import NormalisationKind
from .losses import parse_loss

Targets: TypeAlias = Literal["hard", "soft"]
Schedule: TypeAlias = Literal["one_cycle", "constant"]
ClassWeights: TypeAlias = Literal["none", "inverse_sqrt"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How patches are varied, each at random, so that a network holds on tomograms of another microscope session.

    flips: mirror z, y, x. turns: 90 degrees about z (with the mirrors: all eight in-plane orientations).
    noise: largest standard deviation of added white noise, in units of the tomogram's own; the sum is scaled back, as
        normalisation does to a tomogram of lower dose.
    blur: largest sigma, in voxels, of a Gaussian with which the patch is smoothed or sharpened: another defocus.
    contrast, brightness: largest relative change of scale, and shift in standard deviations: another grey scale.
    gamma: largest relative change of the exponent of a power law between the patch's extremes.
    """

    flips: bool = True
    turns: bool = True
    noise: float = 0.15
    blur: float = 0.6
    contrast: float = 0.15
    brightness: float = 0.1
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for name in ("flips", "turns"):
            _check(self, name, bool, 0, 1)
        for name in ("noise", "blur", "contrast", "brightness", "gamma"):
            _check(self, name, float, 0, 10)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Of `train`. Defaults are for minutes on two CPU cores with the small network, where many small steps do more
    than few large ones; what paper 1 (sections 4.4, 4.5) took for days on four cards stands in brackets. They were
    chosen by F1 against held-back pseudo labels of the demo's first tomogram after 250 steps: 0.77 with this
    augmentation, 0.67 with twice as strong a one; 0.70 and 0.67 at peak learning rates of 15e-3 and 5e-3; 0.53 with
    soft targets.

    patch: edge of training patches in voxels (128). batch: patches a step (4).
    learning_rate: peak of the schedule (1e-3). weight_decay: of Adam with beta 0.9, 0.999 (the same).
    schedule: "one_cycle" (up within the first tenth, then down along a cosine: gets most out of few steps) or
        "constant" (paper 1).
    loss, targets: a sum of `losses.loss_names()` such as "cross_entropy" or "cross_entropy + 0.5*dice" (see
        `losses.output_activation` for what goes with which network), on the most probable class ("hard") or on
        probabilities ("soft"). Paper 1, section 4.3: hard works better with four classes, soft regression with two.
    class_weights: of the loss; "inverse_sqrt" of how frequent a class is.
    rare_share: share of patches that contain a random voxel of a random class, so that rare ones are seen.
    patches_per_epoch: an epoch is so many patches, not so many volumes; validation follows each.
    validation_share: of every tomogram, held back at one of its six sides (the one with the most typical mixture of
        classes). No training patch touches it. 0: no validation, the last weights are kept.
    validation_patches: at most so many are judged after an epoch.
    normalisation: of whole tomograms, see `Normalisation`. Not paper 1's "minmax" by default: extremes belong to
        gold and dead pixels and differ between tomograms, while "zscore" also makes zero, with which networks pad, the
        mean.
    mixed_precision: bfloat16 on CUDA. seed: of everything random but the network's first weights.
    """

    patch: int = 40
    batch: int = 2
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    schedule: Schedule = "one_cycle"
    loss: str = "cross_entropy"
    targets: Targets = "hard"
    class_weights: ClassWeights = "inverse_sqrt"
    rare_share: float = 0.5
    patches_per_epoch: int = 200
    validation_share: float = 0.15
    validation_patches: int = 16
    normalisation: NormalisationKind = "zscore"
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixed_precision: bool = True
    device: Device = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("patch", "batch", "patches_per_epoch", "validation_patches"):
            _check(self, name, int, 1, 1 << 20)
        _check(self, "seed", int, 0, 2**63 - 1)
        _check(self, "learning_rate", float, 1e-12, 100)
        _check(self, "weight_decay", float, 0, 1)
        _check(self, "rare_share", float, 0, 1)
        _check(self, "validation_share", float, 0, 0.5)
        _check(self, "mixed_precision", bool, 0, 1)
        choices: dict[str, Any] = {
            "schedule": Schedule,
            "targets": Targets,
            "class_weights": ClassWeights,
            "normalisation": NormalisationKind,
            "device": Device,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                expected = ", ".join(get_args(allowed))
                raise input_error("TrainingSettings", name, expected=expected, got=repr(getattr(self, name)))
        parse_loss(self.loss, "TrainingSettings")
        if not isinstance(self.augmentation, Augmentation):
            raise input_error("TrainingSettings", "augmentation", expected="Augmentation", got=self.augmentation)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step 0..steps-1."""
        if self.schedule == "constant":
            return self.learning_rate
        rise = max(steps // 10, 1)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1))))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint's JSON."""
        return dataclasses.asdict(self)


def _check(settings: Any, name: str, kind: type[float], low: float, high: float) -> None:
    value: Any = getattr(settings, name)
    accepted: Any = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool) or not low <= value <= high:
        noun = {int: "a whole number", float: "a number", bool: "True or False"}[kind]
        limits = "" if kind is bool else f" from {low:g} to {high:g}"
        raise input_error(type(settings).__name__, name, expected=noun + limits, got=repr(value))
