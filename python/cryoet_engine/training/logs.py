# SPDX-License-Identifier: MIT
"""What a training tells while it goes on: a line of JSON an epoch, TensorBoard events on request, curves at the end."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._checks import MissingDependencyError, input_error, message
from ..models.checkpoint import CURVE, make_folder, replace_file, without_nan
from .partial import EVENTS, SPEED, TrainingFolder

Row = dict[str, Any]


class TrainingLog:
    """A row an epoch, written as it comes.

    CURVE has what is the same whenever a training is repeated, SPEED what a clock says: "seconds" of the epoch,
    "voxels_per_s" of its steps (of all processes), "waiting_share" of their time that they waited for data.

    folder: where both files are kept; None: nowhere. tensorboard: True for events within the folder, a path for events
    there, False for none.

    Errors: InputError for events within no folder; MissingDependencyError where tensorboard is not installed.
    """

    def __init__(
        self, folder: TrainingFolder | None, tensorboard: bool | str | os.PathLike[str], classes: Sequence[str]
    ) -> None:
        self.partial = None if folder is None else folder.partial
        self.classes = classes
        self._events: Path | None = None
        self._writer: Any = None
        if tensorboard is False:
            return
        if tensorboard is True and self.partial is None:
            raise input_error("train", "tensorboard", expected="a folder for its events", got="no out", fix="name one")
        try:
            importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            fix = 'pip install "cryoet-engine[tensorboard]"'
            raise MissingDependencyError(
                message("train", "tensorboard", expected="the package tensorboard", got=error, fix=fix)
            ) from error
        inside = self.partial / EVENTS if self.partial is not None and tensorboard is True else None
        self._events = inside or Path(os.path.abspath(str(tensorboard)))

    def restore(self, curve: Sequence[Row]) -> None:
        """Go on after these epochs: rows of later ones, whose state was not kept, are dropped."""
        if self.partial is None:
            return
        last = curve[-1]["step"] if curve else 0
        speed = self.partial / SPEED
        lines = speed.read_bytes().splitlines(keepends=True) if speed.exists() else []
        whole = (line for line in lines if line.endswith(b"\n"))
        kept = b"".join(line for line in whole if json.loads(line)["step"] <= last)
        for path, content in ((self.partial / CURVE, b"".join(map(_line, curve))), (speed, kept)):
            if not path.exists() or path.read_bytes() != content:  # else `tail -f` would lose sight of it
                replace_file(path, content)

    def add(self, row: Row, speed: Row) -> None:
        """An epoch."""
        if self.partial is not None:
            make_folder(self.partial)
            for name, entry in ((CURVE, row), (SPEED, {"step": row["step"]} | speed)):
                with (self.partial / name).open("ab") as file:
                    file.write(_line(entry))
        if self._events is not None:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                make_folder(self._events)
                self._writer = SummaryWriter(str(self._events), purge_step=row["step"])
            for name, value in self._scalars(row, speed):
                self._writer.add_scalar(name, value, row["step"])
            self._writer.flush()

    def close(self) -> None:
        """Let go of the event file."""
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, row: Mapping[str, Any], speed: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Names as TensorBoard groups them, and values."""
        out: list[tuple[str, float]] = []
        for name, value in row.items():
            if isinstance(value, list):
                out += [(f"{name}/{kind}", one) for kind, one in zip(self.classes, value, strict=True)]
            elif name != "step":
                group = "loss" if name.endswith("loss") else "schedule" if name == "learning_rate" else "validation"
                out.append((f"{group}/{name}", value))
        return out + [(f"speed/{name}", value) for name, value in speed.items()]


def _line(row: Row) -> bytes:
    return json.dumps(without_nan(row), allow_nan=False).encode() + b"\n"


def draw_curves(path: Path, curve: Sequence[Row], classes: Sequence[str]) -> None:
    """A PNG of a training: losses, F1 of each class on held-back voxels, learning rate, over steps."""
    from matplotlib.figure import Figure

    steps = [row["step"] for row in curve]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)
    marker = "o" if len(steps) == 1 else ""

    def draw(axes: Any, values: Sequence[float], label: str, **style: Any) -> None:
        axes.plot(steps, values, marker=marker, label=label, **style)

    draw(losses, [row["loss"] for row in curve], "training")
    draw(losses, [row["validation_loss"] for row in curve], "validation")
    for k, name in enumerate(classes):
        draw(scores, [row["f1"][k] for row in curve], name, linewidth=1)
    draw(scores, [row["mean_f1"] for row in curve], "class mean", color="black", linewidth=2)
    draw(rates, [row["learning_rate"] for row in curve], "learning rate", color="tab:gray")
    scores.set_ylim(0, 1)
    rates.set_ylim(bottom=0)
    for axes, title in ((losses, "loss"), (scores, "F1 on held-back voxels"), (rates, "learning rate")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    losses.legend()
    scores.legend(loc="lower right", fontsize="small", ncols=1 + len(classes) // 8)
    figure.savefig(path, dpi=120, format="png")
