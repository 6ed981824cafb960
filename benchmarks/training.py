# SPDX-License-Identifier: MIT
"""Training: voxels a second of `train` beside the same network in a plain loop that has no data work at all.

`python benchmarks/training.py [--device cuda] [--preset full] [--results DIR]`. The plain loop gets the very batches,
cut and varied beforehand, so both end with the same weights, but for the running mean that `train` keeps of them: that
is the gate. Then torch.profiler tells for how much of a step no batch was ready.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import cryoet_engine as ce
import harness
from cryoet_engine._progress import silent
from cryoet_engine.models import SegmentationModel
from cryoet_engine.models.device import autocast, place
from cryoet_engine.training import TrainingSettings
from cryoet_engine.training.augmentation import Augmentation, augment
from cryoet_engine.training.data import TrainingData
from cryoet_engine.training.losses import loss
from cryoet_engine.training.stepper import WAITING
from harness import Contest

OURS, BARE, STILL = "train", "train, no running mean", "train, no augmentation"
PLAIN = "plain loop, batches made before"
CLASSES = 4


def pair(shape: tuple[int, int, int]) -> tuple[ce.Volume, ce.Volume]:
    rng = np.random.default_rng(0)
    voxels = ce.Volume(rng.standard_normal(shape, dtype=np.float32))
    return voxels, voxels.with_data(rng.integers(1, CLASSES + 1, shape, dtype=np.uint8))


class Job:
    """The same training in two ways."""

    def __init__(self, preset: str, device: str, settings: TrainingSettings, steps: int, edge: int) -> None:
        self.preset, self.device, self.steps = preset, torch.device(device), steps
        self.settings = settings
        self.pair = pair((max(edge // 2, settings.patch), edge, edge))
        self.batches: list[tuple[Tensor, Tensor]] = []

    def network(self) -> SegmentationModel:
        return ce.create_model("unet3d", preset=self.preset, out_channels=CLASSES, activation="softmax")

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def make_batches(self) -> None:
        data = TrainingData([self.pair], CLASSES, self.network().divisor, self.settings, silent)
        for step in range(self.steps):
            voxels, targets, _, rng = data.batch(step)
            x, target = torch.from_numpy(voxels[:, None]).to(self.device), torch.from_numpy(targets).to(self.device)
            x, target = augment(x, target, self.settings.augmentation, rng)
            self.batches.append((x.contiguous(memory_format=torch.channels_last_3d), target))


class Trained:
    """`train`, timed between its first and its last step: not what is read and measured before, nor judged after."""

    def __init__(self, job: Job, settings: TrainingSettings) -> None:
        self.job, self.settings, self.seconds = job, settings, 0.0

    def __call__(self) -> SegmentationModel:
        times: list[float] = []

        def progress(stage: str, done: int, total: int, note: str = "") -> None:
            if stage == "training" and done in (1, total - 1):
                self.job.synchronise()
                times.append(time.perf_counter())

        result = ce.train(
            self.job.network(), [self.job.pair], steps=self.job.steps, settings=self.settings, progress=progress
        )
        self.seconds = times[1] - times[0]
        return result.model


class Plain:
    """Forward, loss, backward, step, and nothing else; timed between its first and its last step, too."""

    def __init__(self, job: Job) -> None:
        self.job, self.seconds = job, 0.0

    def __call__(self) -> SegmentationModel:
        job, settings = self.job, self.job.settings
        model = job.network()
        place(model, job.device)
        optimizer = torch.optim.Adam(
            model.parameters(), settings.learning_rate, (0.9, 0.999), weight_decay=settings.weight_decay
        )
        model.train()
        times: list[float] = []
        for step, (x, target) in enumerate(job.batches):
            if step in (1, job.steps - 1):
                job.synchronise()
                times.append(time.perf_counter())
            optimizer.param_groups[0]["lr"] = settings.learning_rate_at(step, job.steps)
            optimizer.zero_grad(set_to_none=True)
            with autocast(job.device, True, settings.precision):
                outputs = model(x)
            loss(settings.loss, model, outputs, target, None).backward()
            optimizer.step()
        self.seconds = times[1] - times[0]
        return model


def contest(job: Job) -> Contest:
    still = Augmentation(flips=False, turns=False, noise=0, blur=0, contrast=0, brightness=0, gamma=0)
    choices = {OURS: {}, BARE: {"weight_average": 0.0}, STILL: {"augmentation": still}}

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        ours, plain = (dict(results[name].named_parameters()) for name in (BARE, PLAIN))
        error = max(float((ours[name] - plain[name]).detach().abs().max()) for name in ours)
        if error > 1e-3 * job.settings.learning_rate * job.steps and job.device.type == "cpu":
            raise AssertionError(f"not the same training: weights differ by {error:.2e}")
        return {PLAIN: error}

    size = "x".join([str(job.settings.patch)] * 3)
    return Contest(
        f"training, unet3d {job.preset}, batches of {job.settings.batch} x {size}, {job.device.type}",
        {name: Trained(job, dataclasses.replace(job.settings, **changes)) for name, changes in choices.items()}
        | {PLAIN: Plain(job)},
        (job.steps - 2) * job.settings.batch * job.settings.patch**3,
        parity,
        f"{job.steps} steps, {job.settings.loader_threads} loader threads, {job.settings.precision}",
    )


def waiting(job: Job) -> dict[str, Any]:
    """How long steps waited for their batches, of all but the first and the last, by the profiler."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if job.device.type == "cuda" else [])
    call = Trained(job, job.settings)
    with profile(activities=activities) as profiled:
        call()
    microseconds = [event.cpu_time_total for event in profiled.events() if event.name == WAITING][1:-1]
    each = call.seconds / (job.steps - 2)
    return {
        "what": f"{WAITING}, {job.device.type}",
        "steps": len(microseconds),
        "median_ms": statistics.median(microseconds) / 1e3,
        "longest_ms": max(microseconds) / 1e3,
        "step_ms": each * 1e3,
        "share": sum(microseconds) / 1e6 / call.seconds,
    }


def measure(job: Job, rounds: int) -> list[dict[str, Any]]:
    """Both questions. The share of the plain loop's speed that is left stands in the contest's `throughput`."""
    job.make_batches()
    timed = harness.measure(contest(job), rounds)
    medians = {row["entry"]: row["median_s"] for row in timed["rows"]}
    timed["throughput"] = {name: round(medians[PLAIN] / medians[name], 4) for name in (OURS, BARE, STILL)}
    print(harness.show(timed))
    print(
        "  of the plain loop's speed: "
        + ", ".join(f"{name} {share:.1%}" for name, share in timed["throughput"].items())
    )
    waited = waiting(job)
    print(
        f"  {waited['what']}: {waited['median_ms']:.3f} ms of a step of {waited['step_ms']:.0f} ms (median; longest "
        f"{waited['longest_ms']:.3f}), {waited['share']:.2%} of the time",
        flush=True,
    )
    return [timed, waited]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="write training.json there")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--preset", choices=("small", "full"), default="small")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--patch", type=int, help="default: 40, on a card 128")
    parser.add_argument("--batch", type=int, help="default: 2, on a card 4")
    parser.add_argument("--steps", type=int, help="default: 10, on a card 30")
    parser.add_argument("--edge", type=int, help="of the tomogram in y and x; default: 160, on a card 512")
    parser.add_argument("--loader-threads", type=int, help="default: 1, on a card 4")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    card = args.device == "cuda"
    if not card:
        torch.set_num_threads(1)
    settings = TrainingSettings(
        patch=args.patch or (128 if card else 40),
        batch=args.batch or (4 if card else 2),
        learning_rate=1e-3,
        validation_share=0,
        patches_per_epoch=1 << 20,
        class_weights="none",
        precision=args.precision,
        loader_threads=(4 if card else 1) if args.loader_threads is None else args.loader_threads,
        device=args.device,
    )
    steps, edge = args.steps or (30 if card else 10), args.edge or (512 if card else 160)
    results = measure(Job(args.preset, args.device, settings, steps, edge), args.rounds)
    if args.results:
        print(harness.record("training", results, args.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
