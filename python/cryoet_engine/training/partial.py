# SPDX-License-Identifier: MIT
"""The folder of a training: NAME.partial with the state to resume from, NAME when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from .._checks import file_error
from ..models.checkpoint import CURVE, FACTS, WEIGHTS, ModelInfo, make_folder, replace_file, save_model, without_nan
from ..models.network import SegmentationModel

STATE = "state.safetensors"


class TrainingFolder:
    """Where a training is kept. FileFormatError if something else is in its place, or it cannot be written."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(os.path.abspath(out))
        self.partial = self.out.with_name(self.out.name + ".partial")
        self.state = self.partial / STATE
        for folder, marks, meant in (
            (self.out, (FACTS,), "a new name, or an older network to replace"),
            (self.partial, (STATE, FACTS, CURVE, WEIGHTS), "an interrupted training, or nothing of that name"),
        ):
            entries = {entry.name.removesuffix(".partial") for entry in folder.iterdir()} if folder.is_dir() else set()
            known = {STATE, FACTS, CURVE, WEIGHTS}
            ours = folder.is_dir() and entries <= known and (not entries or bool(entries & set(marks)))
            if folder.exists() and not ours:
                raise file_error(folder, "output", expected=meant, got="something else", fix="choose another name")

    def save_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write weights and progress as one file, so that they can never be of two different epochs."""
        make_folder(self.partial)
        stored = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        replace_file(self.state, save_tensors(stored, {"facts": json.dumps(facts)}))

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save_state` wrote last; None if nothing was."""
        if not self.state.exists():
            return None
        try:
            with safe_open(self.state, "pt") as stored:
                facts = json.loads((stored.metadata() or {})["facts"])
                names = list(stored.keys())
                return {name: stored.get_tensor(name) for name in names}, facts
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise file_error(
                self.state,
                "interrupted training",
                expected="a readable state",
                got=error,
                fix=f"remove {self.partial} to begin anew",
            ) from error

    def finish(self, model: SegmentationModel, info: ModelInfo, curve: list[dict[str, Any]]) -> None:
        """Write the network, take the final name, drop the state."""
        make_folder(self.partial)
        lines = "".join(json.dumps(without_nan(row), allow_nan=False) + "\n" for row in curve)
        replace_file(self.partial / CURVE, lines.encode())
        save_model(model, self.partial, info)
        if self.out.exists():
            shutil.rmtree(self.out)
        os.replace(self.partial, self.out)
        (self.out / STATE).unlink(missing_ok=True)
