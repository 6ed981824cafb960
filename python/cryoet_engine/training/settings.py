# SPDX-License-Identifier: MIT
"""All that decides a training, in one frozen, checked, storable object."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from .._checks import input_error
from ..models.device import Precision
from ..models.normalisation import NormalisationKind
from ._fields import check_field
from .augmentation import Augmentation as Augmentation
from .losses import parse_loss

Targets: TypeAlias = Literal["hard", "soft"]
Schedule: TypeAlias = Literal["one_cycle", "cosine", "constant"]
ClassWeights: TypeAlias = Literal["none", "inverse_sqrt"]
Sampling: TypeAlias = Literal["random", "chunks"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Of `train`. Defaults are for minutes on two CPU cores with the small network, where many small steps do more
    than few large ones; what paper 1 (sections 4.4, 4.5) took for days on four cards stands in brackets. They were
    chosen by mean F1 against the truth on the three test tomograms of `simulate dataset virions-8-3`, after 600 steps
    on its eight training tomograms: cross_entropy with class_weights of inverse_sqrt 0.755 (and 0.704 where pseudo
    labels were learned), with none 0.60, cross_entropy + dice 0.831 (0.814). After 1200 steps the weights of the best
    epoch reached 0.835 (0.776), their running mean 0.845 (0.815).

    patch: edge of training patches in voxels (128). batch: patches that are computed together (4), on each process.
    accumulate: batches whose gradients make one step: a larger batch in the memory of a small one, but for batch
        normalisation. Two processes with 1 see what one process with 2 sees.
    learning_rate: peak of the schedule (1e-3). weight_decay: of Adam with beta 0.9, 0.999 (the same).
    schedule: "one_cycle" (up within the first tenth, then down along a cosine: gets most out of few steps), "cosine"
        (the way down alone, for a network that was trained before) or "constant" (paper 1).
    weight_average: of the weights a running mean is judged and kept, in which a step counts as much as this the step
        after it (Polyak and Juditsky 1992; exponential); 0: the weights themselves.
    patience: stop after so many epochs in a row that were no better than the best; 0: never.
    loss, targets: a sum of `losses.loss_names()` such as "cross_entropy" or "cross_entropy + 0.5*dice" (see
        `losses.output_activation` for what goes with which network), on the most probable class ("hard") or on
        probabilities ("soft"). Paper 1, section 4.3: hard works better with four classes, soft regression with two.
    class_weights: of the loss; "inverse_sqrt" of how frequent a class is.
    rare_share: share of patches that contain a random voxel of a random class, so that rare ones are seen.
    sampling: where patches are cut. "random": anywhere. "chunks" (paper 1): volumes are cut in y and x into overlapping
        chunks, and an epoch has a patch from each; `rare_share` aims within them.
    chunk: edge of those chunks in voxels (512).
    patches_per_epoch: with random sampling an epoch is so many patches, not so many volumes; validation follows each.
    validation_share: of every tomogram, held back at one of its six sides (the one with the most typical mixture of
        classes). No training patch touches it. 0: no validation, the last weights are kept.
    validation_patches: at most so many are judged after an epoch.
    normalisation: of whole tomograms, see `Normalisation`. Not paper 1's "minmax" by default: extremes belong to
        gold and dead pixels and differ between tomograms, while "zscore" also makes zero, with which networks pad, the
        mean.
    precision: in which convolutions are computed; weights, losses and scores stay in float32. "auto": bfloat16 on
        cards that have it, else float32. "float16" scales the loss so that small gradients do not become zero, and
        leaves out steps that overflow.
    loader_threads: read batches ahead while the network computes; 0: between steps. They do not change the result.
    seed: of everything random but the network's first weights.
    """

    patch: int = 40
    batch: int = 2
    accumulate: int = 1
    learning_rate: float = 5e-3
    weight_decay: float = 1e-4
    schedule: Schedule = "one_cycle"
    weight_average: float = 0.99
    patience: int = 0
    loss: str = "cross_entropy + dice"
    targets: Targets = "hard"
    class_weights: ClassWeights = "none"
    rare_share: float = 0.5
    sampling: Sampling = "random"
    chunk: int = 512
    patches_per_epoch: int = 200
    validation_share: float = 0.15
    validation_patches: int = 16
    normalisation: NormalisationKind = "zscore"
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "auto"
    loader_threads: int = 1
    device: Device = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("patch", "batch", "accumulate", "chunk", "patches_per_epoch", "validation_patches"):
            check_field(self, name, int, 1, 1 << 20)
        check_field(self, "patience", int, 0, 1 << 20)
        check_field(self, "loader_threads", int, 0, 256)
        check_field(self, "seed", int, 0, 2**63 - 1)
        check_field(self, "learning_rate", float, 1e-12, 100)
        check_field(self, "weight_decay", float, 0, 1)
        check_field(self, "weight_average", float, 0, 0.99999)
        check_field(self, "rare_share", float, 0, 1)
        check_field(self, "validation_share", float, 0, 0.5)
        choices: dict[str, Any] = {
            "schedule": Schedule,
            "targets": Targets,
            "class_weights": ClassWeights,
            "normalisation": NormalisationKind,
            "sampling": Sampling,
            "precision": Precision,
            "device": Device,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                expected = ", ".join(get_args(allowed))
                raise input_error("TrainingSettings", name, expected=expected, got=repr(getattr(self, name)))
        if self.sampling == "chunks" and self.chunk < self.patch:
            expected = f"at least the patch's edge ({self.patch})"
            raise input_error("TrainingSettings", "chunk", expected=expected, got=self.chunk)
        parse_loss(self.loss, "TrainingSettings")
        if self.patience and not self.validation_share:
            expected = "a validation_share above 0, by which epochs are judged"
            raise input_error("TrainingSettings", "patience", expected=expected, got=self.validation_share)
        if not isinstance(self.augmentation, Augmentation):
            raise input_error("TrainingSettings", "augmentation", expected="Augmentation", got=self.augmentation)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step 0..steps-1."""
        if self.schedule == "constant":
            return self.learning_rate
        rise = max(steps // 10, 1) if self.schedule == "one_cycle" else 0
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1))))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint's JSON."""
        return dataclasses.asdict(self)
