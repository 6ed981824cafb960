# SPDX-License-Identifier: MIT
"""The training loop: steps, validation, the best weights, and a state from which it resumes exactly."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .._checks import file_error, input_error
from .._progress import Progress, silent
from ..models.checkpoint import ModelInfo, load_weights, weights_digest
from ..models.device import is_out_of_memory
from ..models.network import Network, SegmentationModel, as_segmenter
from ..volume import DEFAULT_COLORS, SoftSegmentation, Volume
from .data import Labels, TrainingData
from .distributed import join
from .logs import TrainingLog, draw_curves
from .losses import output_activation
from .partial import CURVES, TrainingFolder
from .settings import TrainingSettings
from .stepper import Stepper, TrainingDivergedError
from .validation import validate


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingResult:
    """model: the trained network, with the best weights. info: its facts, also in `model.info`.

    curve: a dict an epoch: "step", "learning_rate", "loss" (mean of the epoch's steps) and, on held-back voxels, what
    `validation.validate` gives: "validation_loss", "accuracy", "f1", "iou", "mean_f1", ...
    best_f1, best_step: mean F1 over classes of the weights that were kept (NaN without validation), and their step.
    notes: what a person should know of it, in sentences.
    """

    model: SegmentationModel
    info: ModelInfo
    curve: list[dict[str, Any]]
    best_f1: float
    best_step: int
    notes: tuple[str, ...] = ()


def train(
    model: Network,
    pairs: Sequence[tuple[Volume, Labels]],
    *,
    steps: int = 500,
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008 (frozen)
    out: str | os.PathLike[str] | None = None,
    names: Sequence[str] = (),
    tensorboard: bool | str | os.PathLike[str] = False,
    progress: Progress = silent,
) -> TrainingResult:
    """Train a network, in place, on tomograms and their labels.

    model: from `create_model` or `transfer`, one channel in, one out a class. An activation of "none" becomes what the
        loss implies, "softmax" with cross-entropy: see `losses.output_activation`.
    pairs: (tomogram, labels): a soft segmentation of the same shape (voxels of no class at all are unlabelled), or a
        label volume, 0 unlabelled and 1..K classes. Read lazily, patch by patch.
    steps: of the optimiser, each on `settings.batch` patches (times `accumulate`, times processes).
    out: folder for the trained network. Until it is whole it is OUT.partial; an interrupted training leaves that
        behind, and the same call resumes it at the last epoch, to the same result. OUT/last is the network after the
        last step; OUT.partial/curve.jsonl gets a line an epoch.
    names: of the pairs, for the record.
    tensorboard: write events as well: True for OUT/tensorboard, or a folder.

    The weights kept are the running means (`settings.weight_average`) with the best mean F1 over classes on the
    held-back part of every tomogram.

    In processes that torchrun started it is one training of them all, see `distributed`; each returns the result.

    Errors: InputError for pairs that do not fit each other or the network, or where memory does not hold one patch;
    FileFormatError for an `out` that is something else, or a partial one of other settings; MissingDependencyError
    for events without tensorboard; TrainingDivergedError where the loss is no number any more (the model then has the
    best weights so far).
    """
    model = as_segmenter(model, where="train")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise input_error("train", "steps", expected="a whole number of at least 1", got=repr(steps))
    if model.config.in_channels != 1:
        raise input_error("train", "model", expected="one input channel", got=f"{model.config.in_channels}")
    if names and len(names) != len(pairs):
        raise input_error("train", "names", expected=f"one a pair ({len(pairs)})", got=len(names))
    activation = output_activation(settings.loss, model.config.activation, "train")
    if activation != model.config.activation:
        model.config = dataclasses.replace(model.config, activation=activation)
    if model.info is not None:
        # What was trained before goes on from there; what `transfer` made says so itself.
        origin = {"name": model.config.name, "weights_sha256": weights_digest(model)}
        model.initialised_from = origin | {"normalisation": model.info.normalisation}
    folder = None if out is None else TrainingFolder(out)
    with join(settings.device) as processes, ExitStack() as held:
        if processes.rank:
            progress = silent
        elif folder is not None:
            folder.claim()
            held.callback(folder.release)
        data = TrainingData(pairs, model.config.out_channels, model.divisor, settings, progress)
        _check_patch(model, data.patch, settings.batch)
        log = TrainingLog(folder, tensorboard, data.classes) if processes.rank == 0 else None
        if log is not None:
            held.callback(log.close)
        stepper = Stepper(model, data, steps, settings, processes)
        return _Training(stepper, tuple(names), folder, log, progress).run()


def _check_patch(model: Network, patch: tuple[int, int, int], batch: int) -> None:
    """InputError where batch normalisation would have one value to normalise, which torch refuses."""
    deepest = batch * math.prod(length // step for length, step in zip(patch, model.divisor, strict=True))
    if deepest < 2 and any(isinstance(part, _BatchNorm) for part in model.modules()):
        got, pooled = ("x".join(map(str, lengths)) for lengths in (patch, model.divisor))
        expected = f"more than one value to normalise after pooling by {pooled}"
        fix = "use a larger batch; a patch is no larger than what is left of each tomogram beside what is held back"
        raise input_error("train", "patch", expected=expected, got=f"one patch of {got} voxels a batch", fix=fix)


class _Training:
    """What changes while a network is trained."""

    def __init__(
        self,
        stepper: Stepper,
        names: tuple[str, ...],
        folder: TrainingFolder | None,
        log: TrainingLog | None,
        progress: Progress,
    ) -> None:
        self.stepper, self.names, self.folder, self.log, self.progress = stepper, names, folder, log, progress
        self.model, self.data, self.settings = stepper.model, stepper.data, stepper.settings
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_row: dict[str, Any] = {}
        self.best_score = (-math.inf, -math.inf)
        settings = self.settings.to_dict() | {"steps": stepper.steps}
        del settings["loader_threads"]  # which changes nothing
        self.identity = {
            "settings": settings,
            "network": dataclasses.asdict(self.model.config),
            "first weights": weights_digest(self.model),
            "data": self.data.fingerprint(),
            "number of processes": stepper.processes.size,
        }

    def run(self) -> TrainingResult:
        if self.folder is not None:
            self._restore(self.folder)
            self._check_together(self.folder)  # and nothing is written before every process has read
        try:
            self._steps()
        except TrainingDivergedError:
            if self.best:
                load_weights(self.model, self.best, where="train")
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self.stepper.no_memory() from error
        finally:
            self.model.eval()
        writes = self.folder if self.log is not None else None
        load_weights(self.model, self.stepper.mean, where="train")
        if writes is not None:
            writes.save_last(self.model, self._info(self.curve[-1]))
        load_weights(self.model, self.best, where="train")
        info = self._info(self.best_row)
        self.model.info = info
        if writes is not None and self.log is not None:
            draw_curves(writes.partial / CURVES, self.curve, self.data.classes)
            self.log.close()
            writes.finish(self.model, info)
        self.stepper.processes.wait()
        return TrainingResult(
            model=self.model,
            info=info,
            curve=self.curve,
            best_f1=info.metrics["mean_f1"],
            best_step=info.metrics["step"],
            notes=self._notes(),
        )

    def _steps(self) -> None:
        stepper = self.stepper
        per_epoch = -(-self.data.patches_per_epoch // stepper.patches)
        with stepper.batches() as batches:
            began, first = time.perf_counter(), stepper.number
            while stepper.number < stepper.steps and not self._has_enough():
                stepper.one(batches)
                stepper.read_losses(keep=1)
                if stepper.number % per_epoch == 0 or stepper.number == stepper.steps:
                    self._end_epoch(began, stepper.number - first)
                    began, first = time.perf_counter(), stepper.number
                self.progress("training", stepper.number, stepper.steps, self._note())

    def _end_epoch(self, began: float, steps: int) -> None:
        stepper = self.stepper
        mean_loss = stepper.mean_loss()
        seconds = time.perf_counter() - began
        stepper.processes.average_buffers(self.model)
        stepper.check_weights()
        with stepper.averaged():
            row: dict[str, Any] = {
                "step": stepper.number,
                "learning_rate": stepper.learning_rate(stepper.number - 1),
                "loss": mean_loss,
                **self._validate(),
            }
        self.curve.append(row)
        # Where a score is NaN (nothing held back), the latest weights win.
        score = (_or(row["mean_f1"], 0.0), -_or(row["validation_loss"], 0.0))
        if score >= self.best_score:
            self.best_score, self.best_row = score, row
            self.best = {name: tensor.clone() for name, tensor in stepper.mean.items()}
        if self.log is not None:
            if self.folder is not None:
                progress = {"curve": self.curve, "best_row": self.best_row, "best_score": self.best_score}
                tensors = stepper.tensors() | {"best": self.best}
                self.folder.save_state(tensors, stepper.state() | progress, self.identity)
                stepper.kept = f"the last good state is in {self.folder.partial}; "
            voxels = steps * stepper.patches * math.prod(self.data.patch)
            speed = {"voxels_per_s": voxels / seconds, "waiting_share": stepper.waited / seconds}
            self.log.add(row, {"seconds": time.perf_counter() - began} | speed)
        stepper.waited = 0.0

    def _validate(self) -> dict[str, Any]:
        self.model.eval()
        stepper, processes = self.stepper, self.stepper.processes
        mine = self.data.validation_patches()[processes.rank :: processes.size]
        patches = (self.data.read_validation(patch) for patch in mine)
        return validate(
            self.model, patches, stepper.forward, self.settings.loss, stepper.class_weights, total=processes.total
        )

    def _restore(self, folder: TrainingFolder) -> None:
        found = folder.load_state(self.identity)
        if found is None:
            return
        tensors, state = found
        self.stepper.restore(tensors, state, where=folder.state)
        self.stepper.kept = f"the last good state is in {folder.partial}; "
        self.best = {name: tensor.to(self.stepper.device) for name, tensor in tensors["best"].items()}
        self.curve, self.best_row, self.best_score = state["curve"], state["best_row"], tuple(state["best_score"])
        if self.log is not None:
            self.log.restore(self.curve)

    def _check_together(self, folder: TrainingFolder) -> None:
        """An error in all processes where some found the state of an interrupted training and some did not."""
        processes = self.stepper.processes
        mine = np.zeros(processes.size, np.int64)
        mine[processes.rank] = self.stepper.number
        steps, counts = np.unique(processes.total(mine), return_counts=True)
        if len(steps) > 1:
            raise file_error(
                folder.partial,
                "interrupted training",
                expected="the same state for all processes",
                got=" and ".join(f"step {n} in {count} of them" for n, count in zip(steps, counts, strict=True)),
                fix="use a folder that all machines share, or remove this one on each of them to begin anew",
            )

    def _has_enough(self) -> bool:
        patience = self.settings.patience
        return bool(patience) and self._epochs_since_best() >= patience

    def _epochs_since_best(self) -> int:
        return sum(row["step"] > self.best_row["step"] for row in self.curve)

    def _note(self) -> str:
        losses = self.stepper.losses
        value = losses[-1] if losses else self.curve[-1]["loss"] if self.curve else math.nan
        note = f"loss {value:.3f}"
        if self.curve and not math.isnan(f1 := self.curve[-1]["mean_f1"]):
            note += f", F1 {f1:.3f}"
        return note

    def _notes(self) -> tuple[str, ...]:
        notes = list(self.data.notes)
        before = self.model.initialised_from.get("normalisation", self.settings.normalisation)
        if before != self.settings.normalisation:
            notes.append(f"voxels are normalised by {self.settings.normalisation}; the first weights knew {before}")
        if self.stepper.parts > 1:
            notes.append(
                f"memory did not hold a batch of {self.settings.batch}: it was computed in {self.stepper.parts} parts"
            )
        if self._has_enough() and self.stepper.number < self.stepper.steps:
            better = f"{self._epochs_since_best()} epochs were no better than that of step {self.best_row['step']}"
            notes.append(f"stopped after step {self.stepper.number} of {self.stepper.steps}: {better}")
        return tuple(notes)

    def _info(self, row: dict[str, Any]) -> ModelInfo:
        first = self.data.tomograms[0]
        labels = first.labels
        spare = tuple(DEFAULT_COLORS[k % len(DEFAULT_COLORS)] for k in range(len(self.data.classes)))
        metrics = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in row.items()
            if name not in ("loss", "learning_rate", "validation_loss")
        }
        return ModelInfo(
            classes=self.data.classes,
            colors=labels.colors if isinstance(labels, SoftSegmentation) else spare,
            voxel_size_A=first.volume.voxel_size_A,
            voxel_size_status=first.volume.voxel_size_status,
            normalisation=self.settings.normalisation,
            settings=self.settings.to_dict() | {"steps": self.stepper.steps, "processes": self.stepper.processes.size},
            metrics=metrics | {"loss": row["validation_loss"]},
            training_data=self.names,
            data_fingerprint=tuple(self.data.fingerprint()),
            initialised_from=self.model.initialised_from,
        )


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value
