# SPDX-License-Identifier: MIT
"""The steps of a training: batches in, gradients, weights moved; in any precision, and in what memory there is."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.profiler import record_function

from .._checks import CryoETError, input_error, message
from ..models.checkpoint import check_weights, load_weights
from ..models.device import autocast, is_out_of_memory, number_type, place
from ..models.network import SegmentationModel
from .augmentation import augment
from .data import IntArray, Patch, TrainingData
from .distributed import Processes
from .loader import ReadAhead
from .losses import loss
from .settings import TrainingSettings

#: What the profiler calls the time in which no batch was ready.
WAITING = "waiting for data"
# float16 has no number above 65504: gradients that overflow at this scale of the loss are no matter of the scale.
_SMALLEST_SCALE = 2.0**-10


class TrainingDivergedError(CryoETError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Batch:
    """x (batch, 1, z, y, x) and targets as the data have them, before augmentation; where from; what varies them."""

    x: Tensor
    target: Tensor
    patches: list[Patch]
    rng: np.random.Generator


class Stepper:
    """A network, its optimiser, and how many of `steps` steps they have made.

    mean: the running mean of the weights, which is what is judged and kept; see `averaged`.
    number: of steps made. parts: in which a batch is computed, more than one where memory does not hold it whole.
    losses: of the steps since they were last taken by `mean_loss`. waited: seconds in which no batch was ready.
    kept: for errors: words that say where the last good state is.
    """

    def __init__(
        self, model: SegmentationModel, data: TrainingData, steps: int, settings: TrainingSettings, processes: Processes
    ) -> None:
        self.model, self.data, self.steps, self.settings = model, data, steps, settings
        self.processes, self.device = processes, processes.device
        self.number, self.parts, self.waited, self.kept = 0, 1, 0.0, ""
        self.losses: list[float] = []
        self.unread: list[tuple[int, list[Patch], Tensor]] = []
        place(model, self.device)
        self.network = processes.share(model)
        weights = model.state_dict()
        self.mean = {name: tensor.clone() for name, tensor in weights.items()}
        smooth = {name: tensor.is_floating_point() and tensor.ndim > 0 for name, tensor in weights.items()}
        # The others are counters, and the largest output that was met.
        self._followed = [[kept[name] for name in kept if smooth[name]] for kept in (self.mean, weights)]
        self._copied = [[kept[name] for name in kept if not smooth[name]] for kept in (self.mean, weights)]
        self.optimizer = torch.optim.Adam(
            model.parameters(), settings.learning_rate, (0.9, 0.999), weight_decay=settings.weight_decay
        )
        scaled = number_type(settings.precision, self.device) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.class_weights: Tensor | None = None
        if settings.class_weights == "inverse_sqrt":
            self.class_weights = torch.tensor(_inverse_sqrt(data.counts), dtype=torch.float32, device=self.device)

    @property
    def patches(self) -> int:
        """How many a step is made from, over all processes."""
        return self.settings.batch * self.settings.accumulate * self.processes.size

    def learning_rate(self, number: int) -> float:
        """Of a step, from 0."""
        return self.settings.learning_rate_at(number, self.steps)

    def batches(self) -> ReadAhead[Batch]:
        """This process's share of all batches: two processes see what one that accumulates two sees."""
        each, processes = self.settings.accumulate, self.processes
        numbers = (number * processes.size + processes.rank for number in range(self.number * each, self.steps * each))

        def read(number: int) -> Batch:
            voxels, targets, patches, rng = self.data.batch(number)
            x, target = torch.from_numpy(voxels[:, None]), torch.from_numpy(targets)
            if self.device.type == "cuda":
                x, target = x.pin_memory(), target.pin_memory()
            return Batch(x, target, patches, rng)

        return ReadAhead(read, numbers, threads=self.settings.loader_threads, device=self.device)

    def one(self, batches: Iterator[Batch]) -> None:
        """Make a step. Errors: TrainingDivergedError; what torch raises where memory does not hold one patch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.number)
        start = time.perf_counter()
        with record_function(WAITING):
            taken = [next(batches) for _ in range(self.settings.accumulate)]
        self.waited += time.perf_counter() - start
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                value = self._gradients(taken)
                break
            except (RuntimeError, MemoryError) as error:
                # Of several processes one alone cannot begin anew: the others are in the midst of it.
                if not is_out_of_memory(error) or self.processes.size > 1 or self.parts >= self.settings.batch:
                    raise
            self.parts = min(2 * self.parts, self.settings.batch)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self.unread.append((self.number, [patch for batch in taken for patch in batch.patches], value))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < _SMALLEST_SCALE:
            raise self._diverged(
                f"gradients at step {self.number + 1}", "too large for float16 at any scale of the loss"
            )
        self.number += 1
        self._follow()

    def _follow(self) -> None:
        """Let the running mean go after the weights; while young it forgets sooner, so that the first are soon gone."""
        share = max(1 - self.settings.weight_average, 9 / (9 + self.number)) if self.settings.weight_average else 1.0
        means, weights = self._followed
        with torch.no_grad():
            torch._foreach_lerp_(means, weights, share)  # as torch.optim.swa_utils does
            for mean, tensor in zip(*self._copied, strict=True):
                mean.copy_(tensor)

    def _keep(self, tensors: dict[str, Tensor]) -> None:
        for name, mean in self.mean.items():
            mean.copy_(tensors[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with the running mean of its weights, the same in all processes."""
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        load_weights(self.model, self.mean, where="train")
        self.processes.average_buffers(self.model)
        self._keep(self.model.state_dict())
        try:
            yield
        finally:
            load_weights(self.model, weights, where="train")

    def _gradients(self, batches: Sequence[Batch]) -> Tensor:
        """Add up the gradients of a step; its mean loss, of no gradient.

        Parts give what the whole batch gives but for batch normalisation, for Dice, which is a ratio of sums, and where
        one has fewer labels than another.
        """
        self.model.train()
        total = torch.zeros((), device=self.device)
        pieces = [(batch, part) for batch in batches for part in range(self.parts)]
        for batch, part in pieces:
            if part == 0:
                rng = copy.deepcopy(batch.rng)  # the batch may be needed again
                x = batch.x.to(self.device, non_blocking=True)
                target = batch.target.to(self.device, non_blocking=True)
                x, target = augment(x, target, self.settings.augmentation, rng)
                xs, targets, seed = x.tensor_split(self.parts), target.tensor_split(self.parts), rng.integers(2**63)
            share = len(xs[part]) / len(x) / len(batches)
            last = batch is batches[-1] and part == self.parts - 1
            with nullcontext() if last or self.processes.size == 1 else self.network.no_sync():  # type: ignore[operator]
                # Dropout has its own random stream for each step, too: a training that was stopped resumes exactly.
                with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                    torch.manual_seed(int(seed) + part)
                    outputs = self.forward(xs[part])
                value = loss(self.settings.loss, self.model, outputs, targets[part], self.class_weights) * share
                self.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
            total += value.detach()
        return total

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs, in the training's precision."""
        with autocast(self.device, True, self.settings.precision):
            network = self.network if self.model.training else self.model
            outputs: Tensor = network(x.contiguous(memory_format=torch.channels_last_3d))
        return outputs

    def read_losses(self, *, keep: int) -> None:
        """Look at the losses of all but the latest steps: to ask for the latest would let the card wait for the CPU.

        Errors: TrainingDivergedError.
        """
        while len(self.unread) > keep:
            step, patches, value = self.unread.pop(0)
            number = value.item()
            if not math.isfinite(number):
                places = [f"pair {p.tomogram + 1} at {tuple(s.start for s in p.region)}" for p in patches]
                raise self._diverged(f"loss at step {step + 1} (patches of {', '.join(places)})", number)
            self.losses.append(number)

    def mean_loss(self) -> float:
        """The mean over steps, and over processes, since the last call."""
        self.read_losses(keep=0)
        total, n = self.processes.total(np.array([sum(self.losses), len(self.losses)]))
        self.losses = []
        return float(total / n)

    def check_weights(self) -> None:
        """TrainingDivergedError where one is no number any more."""
        if not all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values()):
            raise self._diverged(f"weights after step {self.number}", "NaN or infinite ones")

    def _diverged(self, what: str, got: object) -> TrainingDivergedError:
        fix = f"{self.kept}use a lower learning rate"
        return TrainingDivergedError(message("train", what, expected="finite numbers", got=got, fix=fix))

    def no_memory(self) -> CryoETError:
        """What to say where not even parts of a batch find room."""
        size = "x".join(map(str, self.data.patch))
        what = f"{-(-self.settings.batch // self.parts)} patches of {size} voxels"
        fix = "use a smaller patch" if self.parts >= self.settings.batch else "use a smaller batch or patch"
        return input_error("train", "memory", expected=f"room for {what}", got="none left", fix=fix)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By group and name, all that `restore` needs beside `state`."""
        moments = {
            f"{index}.{name}": tensor
            for index, entry in self.optimizer.state_dict()["state"].items()
            for name, tensor in entry.items()
        }
        return {"model": self.model.state_dict(), "mean": self.mean, "optimizer": moments}

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"step": self.number, "parts": self.parts, "scaler": self.scaler.state_dict()}

    def restore(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], *, where: object) -> None:
        """Be as when both were taken. Errors: those of `load_weights`."""
        check_weights(self.model, tensors["mean"], where=where)
        self._keep(tensors["mean"])
        load_weights(self.model, tensors["model"], where=where)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors["optimizer"].items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.number, self.parts = state["step"], state["parts"]


def _inverse_sqrt(counts: IntArray) -> npt.NDArray[np.float64]:
    """Weights by voxels, of mean 1 over the classes that are met: one that is nowhere must not take all of it."""
    present = counts > 0
    weights = np.where(present, 1 / np.sqrt(np.maximum(counts / counts.sum(), 1e-4)), 0.0)
    return np.asarray(weights / weights[present].mean())
