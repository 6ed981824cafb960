# SPDX-License-Identifier: MIT
"""The training loop: steps, validation, the best weights, and a state from which it resumes exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import CryoETError, file_error, input_error, message
from .._progress import Progress, silent
from ..models.checkpoint import ModelInfo, load_weights
from ..models.device import autocast, choose_device, place
from ..models.network import Network, SegmentationModel, as_segmenter
from ..volume import DEFAULT_COLORS, SoftSegmentation, Volume
from .augmentation import augment
from .data import Labels, TrainingData
from .losses import as_probabilities, loss, output_activation
from .metrics import ConfusionMatrix
from .partial import TrainingFolder
from .settings import TrainingSettings


class TrainingDivergedError(CryoETError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingResult:
    """model: the trained network, with the best weights. info: its facts, also in `model.info`.

    curve: a dict an epoch: "step", "learning_rate", "loss" (mean of the epoch's steps) and, on held-back voxels,
    "validation_loss", "accuracy", "f1" (a list, one a class; NaN where it was not met), "mean_f1".
    best_f1, best_step: mean F1 over classes of the weights that were kept (NaN without validation), and their step.
    """

    model: SegmentationModel
    info: ModelInfo
    curve: list[dict[str, Any]]
    best_f1: float
    best_step: int


def train(
    model: Network,
    pairs: Sequence[tuple[Volume, Labels]],
    *,
    steps: int = 500,
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008 (frozen)
    out: str | os.PathLike[str] | None = None,
    names: Sequence[str] = (),
    progress: Progress = silent,
) -> TrainingResult:
    """Train a network, in place, on tomograms and their labels.

    model: from `create_model`, one channel in, one out a class. An activation of "none" becomes what the loss implies,
        "softmax" with cross-entropy: see `losses.output_activation`.
    pairs: (tomogram, labels): a soft segmentation of the same shape (voxels of no class at all are unlabelled), or a
        label volume, 0 unlabelled and 1..K classes. Read lazily, patch by patch.
    steps: of the optimiser, each on `settings.batch` patches.
    out: folder for the trained network. Until it is whole it is OUT.partial; an interrupted training leaves that
        behind, and the same call resumes it at the last epoch, to the same result.
    names: of the pairs, for the record.

    The weights kept are those with the best mean F1 over classes on the held-back part of every tomogram.

    Errors: InputError for pairs that do not fit each other or the network; FileFormatError for an `out` that is
    something else, or a partial one of other settings; TrainingDivergedError where the loss is no number any more (the
    model then has the best weights so far).
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
    deepest = settings.batch * math.prod(-(-settings.patch // step) for step in model.divisor)
    if deepest < 2:
        raise input_error(
            "train", "patch", expected=f"more than {max(model.divisor)} voxels, or a batch", got=settings.patch
        )
    folder = None if out is None else TrainingFolder(out)
    data = TrainingData(pairs, model.config.out_channels, model.divisor, settings, progress)
    return _Training(model, data, steps, settings, folder, tuple(names), progress).run()


class _Training:
    """What changes while a network is trained."""

    def __init__(
        self,
        model: SegmentationModel,
        data: TrainingData,
        steps: int,
        settings: TrainingSettings,
        folder: TrainingFolder | None,
        names: tuple[str, ...],
        progress: Progress,
    ) -> None:
        self.model, self.data, self.steps, self.settings = model, data, steps, settings
        self.folder, self.names, self.progress = folder, names, progress
        self.device = choose_device(settings.device, where="train")
        self.step = 0
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_row: dict[str, Any] = {}
        self.best_score = (-math.inf, -math.inf)
        self.identity = {
            "settings": settings.to_dict() | {"steps": steps},
            "network": dataclasses.asdict(model.config),
            "first weights": _digest(model),
            "data": data.fingerprint(),
        }
        place(model, self.device)
        self.optimizer = torch.optim.Adam(
            model.parameters(), settings.learning_rate, (0.9, 0.999), weight_decay=settings.weight_decay
        )
        self.class_weights: Tensor | None = None
        if settings.class_weights == "inverse_sqrt":
            weights = 1 / np.sqrt(np.maximum(data.counts / data.counts.sum(), 1e-4))
            self.class_weights = torch.tensor(weights / weights.mean(), dtype=torch.float32, device=self.device)

    def run(self) -> TrainingResult:
        if self.folder is not None:
            self._restore(self.folder)
        validation = self.data.validation_patches()
        per_epoch = -(-self.settings.patches_per_epoch // self.settings.batch)
        losses: list[float] = []
        try:
            while self.step < self.steps:
                losses.append(self._one_step())
                self.step += 1
                if self.step % per_epoch == 0 or self.step == self.steps:
                    self._end_epoch(losses, [self.data.read_validation(patch) for patch in validation])
                    losses = []
                self.progress("training", self.step, self.steps, self._note(losses))
        except torch.OutOfMemoryError as error:
            size = f"{self.settings.batch} patches of {'x'.join(map(str, self.data.patch))} voxels"
            raise input_error(
                "train", "memory", expected=f"room for {size}", got="none left", fix="use a smaller batch or patch"
            ) from error
        except TrainingDivergedError:
            if self.best:
                load_weights(self.model, self.best, where="train")
            raise
        finally:
            self.model.eval()
        load_weights(self.model, self.best, where="train")
        info = self._info()
        self.model.info = info
        if self.folder is not None:
            self.folder.finish(self.model, info, self.curve)
        return TrainingResult(
            model=self.model,
            info=info,
            curve=self.curve,
            best_f1=info.metrics["mean_f1"],
            best_step=info.metrics["step"],
        )

    def _one_step(self) -> float:
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(self.step, self.steps)
        voxels, targets, patches, rng = self.data.batch(self.step)
        x, target = torch.from_numpy(voxels[:, None]).to(self.device), torch.from_numpy(targets).to(self.device)
        x, target = augment(x, target, settings.augmentation, rng)
        self.model.train()
        # Dropout has a random stream of its own for each step, too: a training that was stopped resumes exactly.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**63)))
            outputs = self._forward(x)
        value = loss(settings.loss, self.model, outputs, target, self.class_weights)
        number = value.item()
        if not math.isfinite(number):
            places = [f"pair {p.tomogram + 1} at {tuple(s.start for s in p.region)}" for p in patches]
            raise self._diverged(f"loss at step {self.step + 1} (patches of {', '.join(places)})", number)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return number

    def _forward(self, x: Tensor) -> Tensor:
        with autocast(self.device, self.settings.mixed_precision):
            outputs: Tensor = self.model(x.contiguous(memory_format=torch.channels_last_3d))
        return outputs

    def _diverged(self, what: str, got: object) -> TrainingDivergedError:
        kept = f"the last good state is in {self.folder.partial}; " if self.folder and self.curve else ""
        return TrainingDivergedError(
            message("train", what, expected="finite numbers", got=got, fix=f"{kept}use a lower learning rate")
        )

    def _end_epoch(self, losses: list[float], validation: list[Any]) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values()):
            raise self._diverged(f"weights after step {self.step}", "NaN or infinite ones")
        row: dict[str, Any] = {
            "step": self.step,
            "learning_rate": self.settings.learning_rate_at(self.step - 1, self.steps),
            "loss": float(np.mean(losses)),
            **self._validate(validation),
        }
        self.curve.append(row)
        # Where a score is NaN (nothing held back), the latest weights win.
        score = (_or(row["mean_f1"], 0.0), -_or(row["validation_loss"], 0.0))
        if score >= self.best_score:
            self.best_score, self.best_row = score, row
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        if self.folder is not None:
            self.folder.save_state(self._tensors(), {"identity": self.identity, **self._state()})

    @torch.inference_mode()
    def _validate(self, patches: list[Any]) -> dict[str, Any]:
        self.model.eval()
        matrix = ConfusionMatrix(self.model.config.out_channels)
        total, labelled = 0.0, 0
        for voxels, truth in patches:
            x, target = torch.from_numpy(voxels[None, None]).to(self.device), torch.from_numpy(truth[None])
            outputs = self._forward(x)
            probability = as_probabilities(target, outputs.shape[1])
            known = probability.sum(1) > 0
            value = loss(self.settings.loss, self.model, outputs, target.to(self.device), self.class_weights)
            total += value.item() * int(known.sum())
            labelled += int(known.sum())
            classes = torch.where(known, probability.argmax(1), -1)
            matrix.update(classes.numpy(), self.model.activate(outputs).argmax(1).cpu().numpy())
        return {
            "validation_loss": total / labelled if labelled else math.nan,
            "accuracy": matrix.accuracy(),
            "f1": matrix.f1().tolist(),
            "mean_f1": matrix.mean_f1(),
        }

    def _note(self, losses: list[float]) -> str:
        value = losses[-1] if losses else self.curve[-1]["loss"]
        note = f"loss {value:.3f}"
        if self.curve and not math.isnan(f1 := self.curve[-1]["mean_f1"]):
            note += f", F1 {f1:.3f}"
        return note

    def _info(self) -> ModelInfo:
        first = self.data.tomograms[0]
        labels = first.labels
        spare = tuple(DEFAULT_COLORS[k % len(DEFAULT_COLORS)] for k in range(len(self.data.classes)))
        row = self.best_row
        return ModelInfo(
            classes=self.data.classes,
            colors=labels.colors if isinstance(labels, SoftSegmentation) else spare,
            voxel_size_A=first.volume.voxel_size_A,
            voxel_size_status=first.volume.voxel_size_status,
            normalisation=self.settings.normalisation,
            settings=self.settings.to_dict() | {"steps": self.steps},
            metrics={
                "f1": tuple(row["f1"]),
                "mean_f1": row["mean_f1"],
                "accuracy": row["accuracy"],
                "loss": row["validation_loss"],
                "step": row["step"],
            },
            training_data=self.names,
        )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in entry.items()}
        return tensors

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "curve": self.curve,
            "best_row": self.best_row,
            "best_score": self.best_score,
        }

    def _restore(self, folder: TrainingFolder) -> None:
        found = folder.load_state()
        if found is None:
            return
        tensors, state = found
        identity = json.loads(json.dumps(self.identity))
        if state.get("identity") != identity:
            other = _differences(state.get("identity"), identity)
            raise file_error(
                folder.partial,
                "interrupted training",
                expected="the settings, network and data of this call",
                got=f"another {', '.join(other)}",
                fix="make the same call as before to resume it, or remove that folder to begin anew",
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor
        where = folder.state
        load_weights(self.model, parts["model"], where=where)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.best = {name: tensor.to(self.device) for name, tensor in parts["best"].items()}
        self.step, self.curve = state["step"], state["curve"]
        self.best_row, self.best_score = state["best_row"], tuple(state["best_score"])


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _digest(model: SegmentationModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _differences(before: Any, now: dict[str, Any]) -> list[str]:
    """The names of what differs, settings one by one."""
    if not isinstance(before, dict):
        return ["kind of training"]
    names = [name for name in now if name != "settings" and before.get(name) != now[name]]
    old, new = before.get("settings") or {}, now["settings"]
    return [name for name in new if old.get(name) != new[name]] + names
